package podworker

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/action"
	"github.com/mote-edge/mote/agent/cri"
	"github.com/mote-edge/mote/agent/probe"
)

// kill is the end of one container under way: preStop hook, stop signal, and the wait until the runtime kills it.
type kill struct {
	begun time.Time
	turn  chan struct{} // closed when the stop signal may be sent; nil: at once

	mu       sync.Mutex
	deadline time.Time
	quit     context.CancelFunc // of the step that the deadline bounds
}

// shorten brings the deadline forward: the step under way begins anew with what is left.
func (k *kill) shorten(deadline time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if deadline.Before(k.deadline) {
		k.deadline = deadline
		if k.quit != nil {
			k.quit()
		}
	}
}

func (k *kill) end() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.deadline
}

// proceed lets the stop signal be sent.
func (k *kill) proceed() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.turn == nil {
		return
	}
	select {
	case <-k.turn:
	default:
		close(k.turn)
	}
}

// await blocks until it is this container's turn, or its time is up: then it goes with the others.
func (k *kill) await(ctx context.Context) {
	for k.turn != nil {
		bound, cancel := k.bound(ctx)
		step, stop := context.WithDeadline(bound, k.end())
		turn := false
		select {
		case <-k.turn:
			turn = true
		case <-step.Done():
		}
		stop()
		cancel()
		if turn || ctx.Err() != nil || !time.Now().Before(k.end()) {
			return
		}
	}
}

// bound returns a context for a step that shorten interrupts.
func (k *kill) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	k.mu.Lock()
	k.quit = cancel
	k.mu.Unlock()
	return ctx, cancel
}

// beginKill ends a container. The worker's lock is held.
func (w *worker) beginKill(a Action) {
	now := w.m.now()
	k := &kill{begun: now}
	if a.Wait {
		k.turn = make(chan struct{})
	}
	if a.Redo {
		c := w.container(a.Container)
		c.redo, c.backoff = a.ID, Backoff{}
	}
	spec := findContainer(w.pod, a.Container)
	switch {
	case !w.endingSince.IsZero():
		k.deadline = w.deadline(now)
	case a.AtOnce:
		k.deadline = now
	default:
		k.deadline = now.Add(w.probeGrace(a.Container))
	}
	w.killing[a.ID] = k
	ip := first(podIPs(w, w.m.cache.Get(w.uid)))
	pod := w.pod
	w.m.event(pod, a.Container, corev1.EventTypeNormal, "Killing", a.Message)
	go func() {
		w.kill(pod, spec, a, k, ip)
		w.done(func() { delete(w.killing, a.ID) })
	}()
}

// probeGrace is the grace period of a container that is killed alone: that of the probe that failed, or the pod's.
func (w *worker) probeGrace(name string) time.Duration {
	if c := w.containers[name]; c != nil && c.sickOf != nil && c.sickOf.TerminationGracePeriodSeconds != nil {
		return seconds(*c.sickOf.TerminationGracePeriodSeconds)
	}
	return w.specGrace()
}

func (w *worker) kill(pod *corev1.Pod, spec *corev1.Container, a Action, k *kill, ip string) {
	if spec != nil && spec.Lifecycle != nil && spec.Lifecycle.PreStop != nil && !w.m.hooked(w, spec.Name, a.ID) {
		if w.preStop(pod, spec, a.ID, k, ip); w.m.ctx.Err() != nil {
			return // the next agent goes on from here
		}
		w.m.noteHooked(w, spec.Name, a.ID)
	}
	if k.await(w.m.ctx); w.m.ctx.Err() != nil {
		return
	}
	floor := time.Now().Add(minStop)
	for {
		left := time.Until(k.end())
		left = max(left, time.Until(floor), 0) // a repeated try gives no new grace
		timeout := int64((left + time.Second - 1) / time.Second)
		ctx, cancel := k.bound(w.m.ctx)
		ctx, stop := context.WithTimeout(ctx, time.Duration(timeout)*time.Second+callTimeout)
		_, err := w.m.cri.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: a.ID, Timeout: timeout})
		interrupted := ctx.Err() != nil && w.m.ctx.Err() == nil
		stop()
		cancel()
		if err != nil && interrupted {
			continue // the deadline was brought forward
		}
		if err != nil && !cri.IsNotFound(err) && w.m.ctx.Err() == nil {
			w.m.event(pod, a.Container, corev1.EventTypeWarning, "FailedKillPod", "error killing container: "+cri.Text(err))
			select {
			case <-w.m.ctx.Done():
			case <-time.After(firstRetry):
				continue
			}
		}
		if err == nil && spec != nil {
			w.m.forgetHooked(w, spec.Name, a.ID)
		}
		// The exit must be known before the container counts as not being killed any more.
		_ = w.m.cri.RefreshContainer(w.m.ctx, w.m.cache, w.uid, "", a.ID)
		return
	}
}

func (w *worker) preStop(pod *corev1.Pod, spec *corev1.Container, id string, k *kill, ip string) {
	left := time.Until(k.end())
	if left <= 0 {
		return
	}
	ctx, cancel := k.bound(w.m.ctx)
	defer cancel()
	ctx, stop := context.WithDeadline(ctx, k.end())
	defer stop()
	err := w.m.run.Hook(ctx, action.Target{ContainerID: id, PodIP: ip, Ports: spec.Ports}, spec.Lifecycle.PreStop)
	if err != nil && ctx.Err() == nil {
		w.m.event(pod, spec.Name, corev1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
	}
}

// killNow ends a container from within its own start (a failed postStart hook), with the pod's grace period.
func (w *worker) killNow(spec *corev1.Container, id, message string) {
	w.mu.Lock()
	pod := w.pod
	k := &kill{begun: w.m.now(), deadline: w.m.now().Add(w.specGrace())}
	w.killing[id] = k
	ip := first(podIPs(w, w.m.cache.Get(w.uid)))
	if c := w.container(spec.Name); c.probing {
		w.m.probes.RemoveKind(c.id, probe.Liveness)
	}
	w.mu.Unlock()
	w.m.event(pod, spec.Name, corev1.EventTypeNormal, "Killing", message)
	w.kill(pod, spec, Action{Container: spec.Name, ID: id}, k, ip)
	w.done(func() { delete(w.killing, id) })
}
