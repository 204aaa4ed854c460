package podworker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/cgroup"
)

// grantResize decides about one resize at a time, and counts what it grants from then on.
func (m *Manager) grantResize(w *worker, pod *corev1.Pod) *corev1.PodCondition {
	m.resizeMu.Lock()
	defer m.resizeMu.Unlock()
	pending := m.refuseResize(pod)
	if pending == nil {
		w.mu.Lock()
		w.resizeCondition = &corev1.PodCondition{Type: corev1.PodResizeInProgress, Status: corev1.ConditionTrue}
		w.kickLocked()
		w.mu.Unlock()
	}
	return pending
}

// retryResizes grants what fits now of the resizes that wait: by priority, then by class, then those that wait longest.
func (m *Manager) retryResizes() {
	var waiting []*worker
	for _, w := range m.all() {
		w.mu.Lock()
		if w.deferred() && w.resizeCondition.Reason == corev1.PodReasonDeferred && !w.resizing && !w.ending {
			waiting = append(waiting, w)
		}
		w.mu.Unlock()
	}
	slices.SortStableFunc(waiting, func(a, b *worker) int { return moreUrgent(a.current(), b.current()) })
	for _, w := range waiting {
		w.mu.Lock()
		pod := w.pod
		w.mu.Unlock()
		if m.grantResize(w, pod) == nil {
			w.mu.Lock()
			w.resizeAt = m.now()
			w.kickLocked()
			w.mu.Unlock()
		}
	}
}

// moreUrgent orders pods whose resizes wait. It is pure.
func moreUrgent(a, b *corev1.Pod) int {
	priority := func(p *corev1.Pod) int32 {
		if p.Spec.Priority == nil {
			return 0
		}
		return *p.Spec.Priority
	}
	class := func(p *corev1.Pod) int {
		return slices.Index([]corev1.PodQOSClass{corev1.PodQOSGuaranteed, corev1.PodQOSBurstable, corev1.PodQOSBestEffort}, cgroup.QOSClass(p))
	}
	since := func(p *corev1.Pod) int64 {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodResizePending {
				return c.LastTransitionTime.UnixNano()
			}
		}
		return 0
	}
	return cmp.Or(cmp.Compare(priority(b), priority(a)), cmp.Compare(class(a), class(b)), cmp.Compare(since(a), since(b)))
}

// counted is the pod with the resources that it has: what it merely asks for isn't taken from others. The lock is held.
func (w *worker) counted() *corev1.Pod {
	if !w.deferred() {
		return w.pod
	}
	p := *w.pod
	with := func(list []corev1.Container) []corev1.Container {
		list = slices.Clone(list)
		for i := range list {
			if c := w.containers[list[i].Name]; c != nil && c.given != nil {
				list[i].Resources = *c.given
			}
		}
		return list
	}
	p.Spec.Containers, p.Spec.InitContainers = with(p.Spec.Containers), with(p.Spec.InitContainers)
	if w.given != nil && w.pod.Spec.Resources != nil {
		p.Spec.Resources = w.given
	}
	return &p
}

// shrinks refuses to set a memory limit below what is in use: the kernel would kill for it, or refuse.
func (w *worker) shrinks(ctx context.Context, pod *corev1.Pod, ids map[string]string) error {
	w.mu.Lock()
	limits := map[string]int64{}
	for name := range ids {
		c, spec := w.containers[name], findContainer(pod, name)
		if c == nil || c.given == nil || spec == nil {
			continue
		}
		if limit, less := lowered(c.given, &spec.Resources); less {
			limits[name] = limit
		}
	}
	whole, lessWhole := int64(0), false
	if w.given != nil && pod.Spec.Resources != nil {
		whole, lessWhole = lowered(w.given, pod.Spec.Resources)
	}
	w.mu.Unlock()
	var errs []error
	observed := w.m.cache.Get(w.uid)
	if sb := observed.Sandbox(); lessWhole && sb != nil {
		r, err := w.m.cri.PodSandboxStats(ctx, &runtimeapi.PodSandboxStatsRequest{PodSandboxId: sb.ID})
		if err != nil {
			return fmt.Errorf("unable to read memory usage for pod %q", ref(pod))
		}
		if used := r.GetStats().GetLinux().GetMemory().GetUsageBytes().GetValue(); used >= uint64(whole) {
			errs = append(errs, fmt.Errorf("attempting to set pod memory limit (%d) below current usage (%d)", whole, used))
		}
	}
	for name, limit := range limits {
		r, err := w.m.cri.ContainerStats(ctx, &runtimeapi.ContainerStatsRequest{ContainerId: ids[name]})
		if err != nil {
			return fmt.Errorf("unable to read memory usage for pod %q", ref(pod))
		}
		if used := r.GetStats().GetMemory().GetUsageBytes().GetValue(); used >= uint64(limit) {
			errs = append(errs, fmt.Errorf("attempting to set container %q memory limit (%d) below current usage (%d)", name, limit, used))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cannot decrease memory limits: %w", err)
	}
	return nil
}

// lowered returns the memory limit that is asked for if it is less than the one before, or the first.
func lowered(was, now *corev1.ResourceRequirements) (int64, bool) {
	old, next := was.Limits[corev1.ResourceMemory], now.Limits[corev1.ResourceMemory]
	return next.Value(), next.Value() > 0 && (old.IsZero() || next.Cmp(old) < 0)
}
