package podworker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/action"
	"github.com/mote-edge/mote/agent/cri"
	"github.com/mote-edge/mote/agent/criconfig"
	"github.com/mote-edge/mote/agent/downward"
	"github.com/mote-edge/mote/agent/image"
)

// The waiting reasons of failed starts, besides those of images.
const (
	createConfigError = "CreateContainerConfigError"
	createError       = "CreateContainerError"
	runError          = "RunContainerError"
	postStartError    = "PostStartHookError"
)

// startError is a failed start with the reason that users know.
type startError struct {
	reason  string
	err     error
	retryAt time.Time
	id      string // of the container, once there is one
	away    bool   // the runtime didn't answer: it is being restarted
}

func (e *startError) Error() string { return e.err.Error() }
func (e *startError) Unwrap() error { return e.err }

// callFailed is a CRI call's failure as the reason that users know.
func callFailed(reason, id string, err error) error {
	return &startError{reason: reason, err: errors.New(cri.Message(err)), id: id, away: cri.IsAway(err)}
}

// starter is one start of one container, from image to postStart hook.
type starter struct {
	w       *worker
	pod     *corev1.Pod
	spec    *corev1.Container
	a       Action
	sandbox *runtimeapi.PodSandboxConfig
	ips     []string
	target  string
	old     []*cri.Container // earlier attempts
	resized bool             // it is started anew to be given what it asks for now
}

func (w *worker) beginStart(a Action, p cri.Pod) {
	now := w.m.now()
	c := w.container(a.Container)
	if a.After != nil {
		c.backoff.Max = w.m.cfg.MaxBackoff
		c.backoff = c.backoff.Next(ended(a.After), now)
	}
	s := &starter{w: w, pod: w.pod, spec: findContainer(w.pod, a.Container), a: a, sandbox: w.sandboxConfig, ips: podIPs(w, p)}
	for i := range w.pod.Spec.EphemeralContainers {
		if e := &w.pod.Spec.EphemeralContainers[i]; e.Name == a.Container && e.TargetContainerName != "" {
			if t := p.Latest(e.TargetContainerName); t != nil {
				s.target = t.ID
			}
		}
	}
	for _, old := range p.Containers {
		if old.Name == a.Container && old.State == cri.Exited {
			s.old = append(s.old, old)
		}
	}
	if w.deferred() && c.given != nil {
		with := *s.spec
		with.Resources = *c.given
		s.spec = &with
	}
	c.asked, s.resized = &s.spec.Resources, c.resizing
	ctx, cancel := context.WithCancel(w.m.ctx)
	w.starting, w.cancelStart = a.Container, cancel
	go func() {
		id, err := s.run(ctx)
		cancelled := ctx.Err() != nil
		cancel()
		w.done(func() { w.endStart(a.Container, id, err, cancelled) })
	}()
}

func podIPs(w *worker, p cri.Pod) []string {
	if w.pod.Spec.HostNetwork {
		return w.m.node.HostIPs()
	}
	if sb := p.Sandbox(); sb != nil {
		return sb.IPs
	}
	return nil
}

func (w *worker) endStart(name, id string, err error, cancelled bool) {
	w.starting, w.cancelStart = "", nil
	c := w.container(name)
	if err == nil {
		c.failure, c.failed, c.retryAt, c.tries = nil, nil, time.Time{}, 0
		return // the running container is adopted by follow
	}
	if cancelled && w.ending {
		return
	}
	w.failedWithUsers(w.pod)
	now := w.m.now()
	reason := createError
	var se *startError
	if errors.As(err, &se) {
		reason, c.retryAt = se.reason, se.retryAt
	}
	if c.retryAt.IsZero() || !c.retryAt.After(now) {
		c.retryAt = now.Add(retry(&c.tries))
	}
	if se != nil && se.away { // that isn't the container's failure: it doesn't make the next try later
		c.tries, c.retryAt = 0, now.Add(firstRetry)
	}
	c.failure, c.failed = &corev1.ContainerStateWaiting{Reason: reason, Message: err.Error()}, nil
	if reason == image.ErrImagePull { // upstream says so for a moment, and then that it waits
		c.turnAt = now.Add(1500 * time.Millisecond)
		c.failed = &corev1.ContainerStateWaiting{
			Reason: image.ImagePullBackOff, Message: fmt.Sprintf("Back-off pulling image %q: %s: %s", findContainer(w.pod, name).Image, image.ErrImagePull, err.Error()),
		}
		w.m.event(w.pod, name, corev1.EventTypeNormal, "BackOff", fmt.Sprintf("Back-off pulling image %q", findContainer(w.pod, name).Image))
	}
	if id == "" || reason == createConfigError {
		w.m.event(w.pod, name, corev1.EventTypeWarning, "Failed", "Error: "+message(reason, err))
	}
}

// message is what follows "Error: " in a Failed event: the reason alone for images, whose own event has the details.
func message(reason string, err error) string {
	switch reason {
	case image.ErrImagePull, image.ImagePullBackOff, image.ErrImageNeverPull, image.ErrInvalidImageName:
		return reason
	}
	return err.Error()
}

func (s *starter) event(kind, reason, message string) {
	s.w.m.event(s.pod, s.spec.Name, kind, reason, message)
}

// run starts the container. It returns its ID as soon as there is one, whatever happens then.
func (s *starter) run(ctx context.Context) (string, error) {
	m := s.w.m
	id, err := s.made(ctx)
	if err != nil {
		return "", err
	}
	if _, err := m.cri.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id}); err != nil {
		_ = m.cri.RefreshContainer(m.ctx, m.cache, s.pod.UID, s.a.ID, id)
		if s.a.Made == nil || !s.runs(id) { // a start that an agent before this one began may have come to its end meanwhile
			s.event(corev1.EventTypeWarning, "Failed", "Error: "+cri.Message(err))
			return id, callFailed(runError, id, err)
		}
	}
	if !m.cache.Started(ctx, id) {
		if err := m.cri.RefreshContainer(ctx, m.cache, s.pod.UID, s.a.ID, id); err != nil {
			m.log.Warn("status of a started container", "pod", ref(s.pod), "container", s.spec.Name, "err", err)
		}
	}
	s.event(corev1.EventTypeNormal, "Started", "Container started")
	m.linkLog(s.pod, s.spec.Name, id, s.a.Attempt)
	s.collect()
	return id, s.postStart(ctx, id)
}

func (s *starter) runs(id string) bool {
	p := s.w.m.cache.Get(s.pod.UID)
	c := p.ByID(id)
	return c != nil && c.State == cri.Running
}

// made returns the container that this attempt has already, or makes it.
func (s *starter) made(ctx context.Context) (string, error) {
	if s.a.Made != nil {
		return s.a.Made.ID, nil
	}
	m := s.w.m
	handler, err := m.handler(ctx, s.pod)
	if err != nil {
		return "", &startError{reason: createConfigError, err: err}
	}
	if s.sandbox == nil { // made by an agent before this one
		if s.sandbox, err = s.w.sandboxOf(ctx, s.pod, 0); err != nil {
			return "", &startError{reason: createConfigError, err: err}
		}
	}
	secrets := s.pullSecrets(ctx)
	img, err := m.images.Ensure(ctx, image.Request{
		Pod: s.pod, Image: s.spec.Image, Policy: s.spec.ImagePullPolicy, Handler: handler, Sandbox: s.sandbox, Secrets: secrets, Record: s.event,
	})
	var ie *image.Error
	if errors.As(err, &ie) {
		return "", &startError{reason: ie.Reason, err: err, retryAt: ie.RetryAt}
	} else if err != nil {
		return "", err
	}
	cfg, err := s.config(ctx, img, handler, secrets)
	if err != nil {
		return "", err
	}
	if s.resized { // with the container gone, its pod's cgroup may shrink, too
		if _, err := m.cgroups.Ensure(s.pod); err != nil {
			m.log.Warn("pod's cgroup not resized", "pod", ref(s.pod), "err", err)
		}
	}
	r, err := m.cri.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: s.a.ID, Config: cfg, SandboxConfig: s.sandbox})
	if err != nil {
		return "", callFailed(createError, "", err)
	}
	s.event(corev1.EventTypeNormal, "Created", "Container created")
	return r.GetContainerId(), nil
}

// collect removes the attempts before the last one that ended: one is kept, for its logs and its state.
func (s *starter) collect() {
	m := s.w.m
	keep := s.a.After
	for _, old := range s.old {
		if keep != nil && old.ID == keep.ID {
			continue
		}
		if _, err := m.cri.RemoveContainer(m.ctx, &runtimeapi.RemoveContainerRequest{ContainerId: old.ID}); err != nil && !cri.IsNotFound(err) {
			m.log.Debug("dead container not removed", "id", old.ID, "err", err)
			continue
		}
		m.cache.Remove(old.ID)
		m.removeLog(s.pod, old)
	}
}

func (s *starter) postStart(ctx context.Context, id string) error {
	l := s.spec.Lifecycle
	if l == nil || l.PostStart == nil {
		return nil
	}
	err := s.w.m.run.Hook(ctx, action.Target{ContainerID: id, PodIP: first(s.ips), Ports: s.spec.Ports}, l.PostStart)
	if err == nil || ctx.Err() != nil {
		return nil // when the pod ends meanwhile, its end is what counts
	}
	// The event doesn't carry what the hook answered: that may be a secret.
	s.event(corev1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
	s.w.killNow(s.spec, id, "FailedPostStartHook")
	return &startError{reason: postStartError, err: fmt.Errorf("%s: %w", "PostStartHook failed", err), id: id}
}

func (s *starter) pullSecrets(ctx context.Context) []corev1.Secret {
	var out []corev1.Secret
	for _, r := range s.pod.Spec.ImagePullSecrets {
		secret, err := s.w.m.objects.Secret(ctx, s.pod.Namespace, r.Name)
		if err != nil {
			s.w.m.event(s.pod, "", corev1.EventTypeWarning, "FailedToRetrieveImagePullSecret",
				fmt.Sprintf("Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", r.Name))
			continue
		}
		out = append(out, *secret)
	}
	return out
}

// config makes the container's configuration, and the files it mounts.
func (s *starter) config(ctx context.Context, img *runtimeapi.Image, handler string, secrets []corev1.Secret) (*runtimeapi.ContainerConfig, error) {
	m := s.w.m
	fail := func(err error) error { return &startError{reason: createConfigError, err: err} }
	services, err := m.services.Services(ctx, s.pod.Namespace)
	if err != nil {
		return nil, fail(err)
	}
	env, skipped, err := criconfig.Env(ctx, criconfig.EnvInput{
		Pod: s.pod, Container: s.spec, Services: services, Objects: m.objects,
		File:  func(volume, path string) (string, error) { return m.volumes.EmptyDirFile(s.pod, volume, path) },
		Facts: downward.Facts{PodIPs: s.ips, HostIPs: m.node.HostIPs(), Allocatable: m.node.Allocatable()},
	})
	if err != nil {
		return nil, fail(err)
	}
	if len(skipped) > 0 {
		s.event(corev1.EventTypeWarning, "InvalidEnvironmentVariableNames", fmt.Sprintf("Keys %v were skipped since they are considered invalid environment variable names.", skipped))
	}
	lookup := criconfig.Lookup(env)
	mounts, err := m.volumes.ContainerMounts(ctx, s.pod, s.spec, func(text string) (string, error) {
		missing := ""
		out := criconfig.Expand(text, func(name string) (string, bool) {
			v, ok := lookup(name)
			if !ok {
				missing = name
			}
			return v, ok
		})
		if missing != "" {
			return "", fmt.Errorf("missing value for %q", missing)
		}
		return out, nil
	})
	if err != nil {
		return nil, fail(err)
	}
	if err := m.resolveReadOnly(ctx, handler, s.spec, mounts); err != nil {
		return nil, fail(err)
	}
	devices, err := m.volumes.ContainerDevices(s.pod, s.spec)
	if err != nil {
		return nil, fail(err)
	}
	more, err := s.imageVolumes(ctx, handler, secrets)
	if err != nil {
		return nil, err
	}
	if mounts, err = s.files(append(mounts, more...)); err != nil {
		return nil, fail(err)
	}
	user := criconfig.ImageUser{Name: img.GetUsername()}
	if img.GetUid() != nil {
		uid := img.GetUid().GetValue()
		user.UID = &uid
	}
	cfg, err := criconfig.Container(criconfig.ContainerInput{
		Pod: s.pod, Container: s.spec, Attempt: s.a.Attempt, Target: s.target, Image: img.GetId(), ImageUser: user, Env: env, Mounts: mounts,
		SeccompRoot: m.cfg.SeccompRoot, MemoryBytes: m.cfg.MemoryBytes, CgroupV2: m.cfg.CgroupV2, Tuning: m.cfg.Tuning,
		Users: s.sandbox.GetLinux().GetSecurityContext().GetNamespaceOptions().GetUsernsOptions(),
	})
	if err == nil {
		cfg.Devices = append(cfg.Devices, devices...)
		err = m.containerResources(ctx, s.pod, s.spec, cfg)
	}
	if err != nil {
		return nil, fail(err)
	}
	return cfg, nil
}

// imageVolumes pulls the images that are mounted as volumes.
func (s *starter) imageVolumes(ctx context.Context, handler string, secrets []corev1.Secret) ([]*runtimeapi.Mount, error) {
	var out []*runtimeapi.Mount
	for _, vm := range s.spec.VolumeMounts {
		for i := range s.pod.Spec.Volumes {
			v := &s.pod.Spec.Volumes[i]
			if v.Name != vm.Name || v.Image == nil {
				continue
			}
			img, err := s.w.m.images.Ensure(ctx, image.Request{
				Pod: s.pod, Image: v.Image.Reference, Policy: v.Image.PullPolicy, Handler: handler, Sandbox: s.sandbox, Secrets: secrets, Record: s.event,
			})
			var ie *image.Error
			if errors.As(err, &ie) {
				return nil, &startError{reason: ie.Reason, err: err, retryAt: ie.RetryAt}
			} else if err != nil {
				return nil, err
			}
			out = append(out, &runtimeapi.Mount{
				ContainerPath: vm.MountPath, Readonly: true, ImageSubPath: vm.SubPath,
				Image: &runtimeapi.ImageSpec{Image: img.GetId(), UserSpecifiedImage: v.Image.Reference, RuntimeHandler: handler, ImageRef: img.GetId()},
			})
		}
	}
	return out, nil
}

// files adds the mounts that every container gets: /etc/hosts and the termination message.
func (s *starter) files(mounts []*runtimeapi.Mount) ([]*runtimeapi.Mount, error) {
	m := s.w.m
	for _, dir := range []string{m.podDir(s.pod.UID), m.cfg.HostsDir} {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return nil, fmt.Errorf("directory of the pod: %w", err)
		}
	}
	own := map[string]bool{}
	for _, mnt := range mounts {
		own[mnt.ContainerPath] = true
	}
	if !own["/etc/hosts"] {
		hosts := m.hostsFile(s.pod)
		host := ""
		if s.pod.Spec.HostNetwork {
			b, err := os.ReadFile("/etc/hosts")
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return nil, fmt.Errorf("hosts file of the node: %w", err)
			}
			host = string(b)
		}
		if err := writeIfChanged(hosts, criconfig.Hosts(s.pod, s.ips, m.cfg.ClusterDomain, host), 0o644); err != nil {
			return nil, err
		}
		mounts = append(mounts, &runtimeapi.Mount{ContainerPath: "/etc/hosts", HostPath: hosts, SelinuxRelabel: true})
	}
	if path := s.spec.TerminationMessagePath; path != "" {
		file := m.messageFile(s.pod.UID, s.spec.Name, s.a.Attempt)
		if err := emptyFile(file, 0o666); err != nil { // whoever the container runs as may write it, whatever our umask
			return nil, fmt.Errorf("termination message file: %w", err)
		}
		mounts = append(mounts, &runtimeapi.Mount{ContainerPath: path, HostPath: file, SelinuxRelabel: true})
	}
	return mounts, nil
}

// emptyFile makes a file of exactly this mode, or empties it.
func emptyFile(path string, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(mode), f.Close())
}

func writeIfChanged(path, text string, mode os.FileMode) error {
	if b, err := os.ReadFile(path); err == nil && string(b) == text {
		return nil
	}
	// In place: containers of the pod have the file itself mounted, a new one would not reach them.
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		return fmt.Errorf("file for the pod: %w", err)
	}
	return nil
}

var findContainer = downward.FindContainer
