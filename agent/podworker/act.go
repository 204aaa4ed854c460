package podworker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/cri"
	"github.com/mote-edge/mote/agent/criconfig"
)

const (
	firstRetry = time.Second
	lastRetry  = 15 * time.Second
	// callTimeout bounds a CRI call that has no bound of its own: upstream's two minutes.
	callTimeout = 2 * time.Minute
	// minStop is the least time a container gets to end after its stop signal.
	minStop = 2 * time.Second
)

// act starts an action. The worker's lock is held; the work is done in a goroutine that ends in done.
func (w *worker) act(a Action, p cri.Pod) {
	switch a.Verb {
	case Prepare:
		w.preparing, w.held = true, true
		go w.prepare(w.pod)
	case RunSandbox:
		w.sandboxBusy, w.held = true, true
		go w.runSandbox(w.pod, a)
	case StopSandbox:
		w.sandboxBusy = true
		go w.stopSandbox(a.ID)
	case Start:
		w.beginStart(a, p)
	case Kill:
		w.beginKill(a)
	case Release:
		w.releasing = true
		go w.release(w.pod)
	case Reset:
		w.resetting = true
		go w.reset(w.pod, a)
	}
}

// done takes the result of an action in and looks again.
func (w *worker) done(update func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	update()
	w.kickLocked()
}

func (w *worker) prepare(pod *corev1.Pod) {
	_, err := w.m.cgroups.Ensure(pod)
	reason := "FailedCreatePodContainer"
	if err == nil {
		reason = "FailedPrepareDynamicResources"
		ctx, cancel := context.WithTimeout(w.m.ctx, callTimeout)
		err = w.m.prepareResources(ctx, pod)
		cancel()
	}
	if err == nil {
		reason = "FailedMount"
		ctx, cancel := context.WithTimeout(w.m.ctx, callTimeout)
		err = w.m.volumes.Mount(ctx, pod)
		cancel()
	}
	w.done(func() {
		w.preparing = false
		if err == nil {
			w.prepared, w.prepareTries = true, 0
			if w.given == nil {
				if w.given = pod.Spec.Resources; w.given == nil {
					w.given = &corev1.ResourceRequirements{} // nothing of its own so far
				}
			}
			return
		}
		w.m.event(pod, "", corev1.EventTypeWarning, reason, err.Error())
		w.prepareAt = w.m.now().Add(retry(&w.prepareTries))
	})
}

func retry(tries *int) time.Duration {
	d := firstRetry << min(*tries, 8)
	*tries++
	return wait.Jitter(min(d, lastRetry), 0.1)
}

func (w *worker) runSandbox(pod *corev1.Pod, a Action) {
	ctx, cancel := context.WithTimeout(w.m.ctx, 2*callTimeout)
	defer cancel()
	if a.ID != "" { // the dead one before it
		w.m.event(pod, "", corev1.EventTypeNormal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
		if _, err := w.m.cri.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: a.ID}); err != nil && !cri.IsNotFound(err) {
			w.sandboxFailed(pod, "FailedKillPod", fmt.Errorf("stop sandbox: %w", err))
			return
		}
		w.done(func() { w.noteStopped(a.ID) })
	}
	w.beganWithUsers(pod)
	cfg, err := w.sandboxOf(ctx, pod, a.Attempt)
	if err != nil {
		w.sandboxFailed(pod, "FailedCreatePodSandBox", fmt.Errorf("Failed to create pod sandbox: %w", err))
		return
	}
	handler, err := w.m.handler(ctx, pod)
	if err != nil {
		w.sandboxFailed(pod, "FailedCreatePodSandBox", err)
		return
	}
	r, err := w.m.cri.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: cfg, RuntimeHandler: handler})
	if err != nil {
		if cri.IsAway(err) { // its restart isn't the pod's failure: the next try isn't later for it
			w.mu.Lock()
			w.sandboxTries = 0
			w.mu.Unlock()
		}
		w.sandboxFailed(pod, "FailedCreatePodSandBox", errors.New("Failed to create pod sandbox: "+cri.Text(err)))
		return
	}
	if pod.Spec.HostNetwork || !w.m.cache.Started(ctx, r.GetPodSandboxId()) { // that one has no address to wait for
		if err := w.m.cri.RefreshSandbox(ctx, w.m.cache, r.GetPodSandboxId()); err != nil {
			w.m.log.Warn("status of a new sandbox", "pod", ref(pod), "err", err) // its event tells the same
		}
	}
	w.done(func() { w.sandboxBusy, w.sandboxTries, w.sandboxConfig = false, 0, cfg })
}

func (w *worker) sandboxFailed(pod *corev1.Pod, reason string, err error) {
	w.failedWithUsers(pod)
	w.m.event(pod, "", corev1.EventTypeWarning, reason, err.Error())
	w.done(func() { w.sandboxBusy, w.sandboxAt = false, w.m.now().Add(retry(&w.sandboxTries)) })
}

// sandboxOf makes the sandbox's configuration and the directories it names.
func (w *worker) sandboxOf(ctx context.Context, pod *corev1.Pod, attempt uint32) (*runtimeapi.PodSandboxConfig, error) {
	parent, err := w.m.cgroups.Ensure(pod)
	if err != nil {
		return nil, err
	}
	dns, warning := criconfig.Resolver(criconfig.DNSInput{
		Pod: pod, Host: w.m.hostDNS(), ClusterDNS: w.m.cfg.ClusterDNS, ClusterDomain: w.m.cfg.ClusterDomain,
	})
	if warning != "" {
		w.m.event(pod, "", corev1.EventTypeWarning, "DNSConfigForming", warning)
	}
	users, err := w.m.userNamespace(ctx, pod)
	if err != nil {
		return nil, err
	}
	cfg, err := criconfig.Sandbox(criconfig.SandboxInput{
		Pod: pod, Attempt: attempt, CgroupParent: parent, LogRoot: w.m.cfg.PodLogDir, SeccompRoot: w.m.cfg.SeccompRoot, DNS: dns,
		ClusterDomain: w.m.cfg.ClusterDomain, Users: users,
	})
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.LogDirectory, 0o755); err != nil {
		return nil, fmt.Errorf("log directory: %w", err)
	}
	return cfg, nil
}

func (w *worker) stopSandbox(id string) {
	ctx, cancel := context.WithTimeout(w.m.ctx, callTimeout)
	defer cancel()
	_, err := w.m.cri.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id})
	if err == nil || cri.IsNotFound(err) {
		err = w.m.cri.RefreshSandbox(ctx, w.m.cache, id)
	}
	w.done(func() {
		w.sandboxBusy = false
		if err != nil {
			w.m.event(w.pod, "", corev1.EventTypeWarning, "FailedKillPod", "error killing pod: "+cri.Text(err))
			w.sandboxAt = w.m.now().Add(retry(&w.sandboxTries))
			return
		}
		w.noteStopped(id)
	})
}

// reset removes the containers of a pod that starts over. Their logs stay: they are all that tells why.
func (w *worker) reset(pod *corev1.Pod, a Action) {
	var failed error
	for _, c := range slices.Concat(a.Remove, a.Sources) {
		ctx, cancel := context.WithTimeout(w.m.ctx, callTimeout)
		_, err := w.m.cri.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: c.ID})
		cancel()
		if err != nil && !cri.IsNotFound(err) {
			failed = fmt.Errorf("container %s: %w", c.Name, err)
			break // the sources go last, whatever happens
		}
		w.m.cache.Remove(c.ID)
	}
	w.done(func() {
		w.resetting = false
		if failed != nil {
			w.m.event(pod, "", corev1.EventTypeWarning, "FailedKillPod", "error restarting all containers: "+cri.Text(failed))
			w.prepareAt = w.m.now().Add(retry(&w.prepareTries))
			return
		}
		w.prepareTries = 0
		now := w.m.now()
		backoffs := map[string]containerState{}
		for _, c := range a.Sources {
			// A pod that starts over again and again is held back like a container that does.
			b := w.container(c.Name).backoff
			b.Max = w.m.cfg.MaxBackoff
			backoffs[c.Name] = containerState{backoff: b.Next(ended(c), now), retryAt: b.Until(ended(c))}
		}
		for name, c := range w.containers {
			if !isEphemeral(w.pod, name) {
				w.drop(c)
				delete(w.containers, name)
			}
		}
		for name, c := range backoffs {
			w.containers[name] = &c
		}
	})
}

func (w *worker) noteStopped(id string) {
	if w.stopped == nil {
		w.stopped = map[string]bool{}
	}
	w.stopped[id] = true
}

// release gives back what the pod stood on. Its containers have all ended.
func (w *worker) release(pod *corev1.Pod) {
	ctx, cancel := context.WithTimeout(w.m.ctx, callTimeout)
	defer cancel()
	err := w.m.volumes.Unmount(ctx, pod.UID)
	if err == nil {
		err = errors.Join(w.m.cgroups.Remove(pod.UID), w.m.releaseUsers(pod.UID), w.m.releaseResources(ctx, pod.UID))
	}
	w.done(func() {
		w.releasing = false
		if err != nil {
			w.m.log.Warn("pod's volumes or cgroup not released, trying again", "pod", ref(pod), "err", err)
			w.prepareAt = w.m.now().Add(retry(&w.prepareTries))
			return
		}
		w.prepared, w.held = false, false
		go w.m.retryResizes() // what it had may be what others wait for
	})
}

// remove takes away the last traces of a pod that is gone: dead containers, sandboxes, logs, its directory.
func (w *worker) remove(p cri.Pod) {
	if w.removing {
		return
	}
	w.removing = true
	go func() {
		ctx, cancel := context.WithTimeout(w.m.ctx, callTimeout)
		defer cancel()
		var errs []error
		for _, c := range p.Containers {
			if _, err := w.m.cri.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: c.ID}); err != nil && !cri.IsNotFound(err) {
				errs = append(errs, err)
				continue
			}
			w.m.cache.Remove(c.ID)
		}
		for _, sb := range p.Sandboxes {
			if _, err := w.m.cri.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: sb.ID}); err != nil && !cri.IsNotFound(err) {
				errs = append(errs, err)
				continue
			}
			w.m.cache.Remove(sb.ID)
		}
		if len(errs) == 0 {
			links := fmt.Sprintf("%s_%s_*.log", w.pod.Name, w.pod.Namespace)
			errs = append(errs, w.m.removeLogDir(w.m.logDir(w.pod), links), w.m.removePodDir(w.uid))
		}
		err := errors.Join(errs...)
		w.mu.Lock()
		w.removing = false
		if err != nil {
			w.m.log.Warn("remains of a pod not removed, trying again", "pod", ref(w.pod), "err", err)
			if w.timer != nil {
				w.timer.Stop()
			}
			w.timer = time.AfterFunc(lastRetry, w.kick)
			w.mu.Unlock()
			return
		}
		w.cleaned = true
		if w.timer != nil {
			w.timer.Stop()
		}
		w.mu.Unlock()
		w.m.forget(w)
	}()
}
