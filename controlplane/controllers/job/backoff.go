package job

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/mote-edge/mote/controlplane/controllers/owned"
)

const (
	firstBackoff = 10 * time.Second
	lastBackoff  = 10 * time.Minute
)

// failures counts a Job's failed pods since its last success. It is only kept in memory: after a restart a Job starts
// with a short delay again.
type failures struct {
	count int
	last  time.Time
}

// add counts pods that finished since.
func (f failures) add(succeeded, failed []*corev1.Pod) failures {
	var lastSuccess time.Time
	if len(succeeded) > 0 {
		f = failures{}
		for _, p := range succeeded {
			lastSuccess = later(lastSuccess, finishedAt(p))
		}
	}
	for _, p := range failed {
		at := finishedAt(p)
		if len(succeeded) > 0 && !at.After(lastSuccess) {
			continue
		}
		f.count++
		f.last = later(f.last, at)
	}
	return f
}

// wait is how long the next pod must wait: 10 s after the first failure, doubled with every further one, 10 minutes
// at most.
func (f failures) wait(now time.Time) time.Duration {
	if f.count == 0 {
		return 0
	}
	d := firstBackoff
	for i := 1; i < f.count && d < lastBackoff; i++ {
		d *= 2
	}
	return max(0, f.last.Add(min(d, lastBackoff)).Sub(now))
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// finishedAt is when a pod ended: its last container, or else when it ceased to be ready, or was to be deleted.
func finishedAt(p *corev1.Pod) time.Time {
	if t, ok := lastExit(p); ok {
		return t
	}
	if c := owned.Condition(p, corev1.PodReady); c != nil && c.Status == corev1.ConditionFalse && !c.LastTransitionTime.IsZero() {
		return c.LastTransitionTime.Time
	}
	if p.DeletionTimestamp != nil {
		grace := int64(0)
		if p.DeletionGracePeriodSeconds != nil {
			grace = *p.DeletionGracePeriodSeconds
		}
		return p.DeletionTimestamp.Add(-time.Duration(grace) * time.Second)
	}
	return p.CreationTimestamp.Time
}

// lastExit is when the last of the containers and sidecars exited; not ok if one has not, or didn't tell.
func lastExit(p *corev1.Pod) (last time.Time, ok bool) {
	see := func(list []corev1.ContainerStatus, counts func(name string) bool) bool {
		for i := range list {
			if !counts(list[i].Name) {
				continue
			}
			t := list[i].State.Terminated
			if t == nil || t.FinishedAt.IsZero() {
				return false
			}
			last = later(last, t.FinishedAt.Time)
		}
		return true
	}
	sidecar := func(name string) bool {
		return slices.ContainsFunc(p.Spec.InitContainers, func(c corev1.Container) bool {
			return c.Name == name && c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
		})
	}
	if !see(p.Status.ContainerStatuses, func(string) bool { return true }) || !see(p.Status.InitContainerStatuses, sidecar) {
		return time.Time{}, false
	}
	return last, !last.IsZero()
}
