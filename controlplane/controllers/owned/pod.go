package owned

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Active says whether a pod runs or may still run: neither finished nor being deleted.
func Active(p *corev1.Pod) bool {
	return !Finished(p) && p.DeletionTimestamp == nil
}

// Finished says whether a pod has reached a phase that it never leaves.
func Finished(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// Terminating says whether a pod is being deleted and has not finished.
func Terminating(p *corev1.Pod) bool {
	return p.DeletionTimestamp != nil && !Finished(p)
}

// Condition returns a pod's condition of a type, or nil.
func Condition(p *corev1.Pod, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == t {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

// Ready says whether the pod's Ready condition is True.
func Ready(p *corev1.Pod) bool {
	c := Condition(p, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// Available says whether the pod has been ready for minReady seconds. If it is ready but not for long enough, wait is
// the time until it will be.
func Available(p *corev1.Pod, minReady int32, now time.Time) (ok bool, wait time.Duration) {
	c := Condition(p, corev1.PodReady)
	if c == nil || c.Status != corev1.ConditionTrue {
		return false, 0
	}
	if minReady <= 0 {
		return true, 0
	}
	if c.LastTransitionTime.IsZero() {
		return false, 0
	}
	wait = c.LastTransitionTime.Add(time.Duration(minReady) * time.Second).Sub(now)
	if wait > 0 {
		return false, wait
	}
	return true, 0
}

// Split sorts pods into the active ones and the terminating ones; finished pods are in neither.
func Split(pods []*corev1.Pod) (active, terminating []*corev1.Pod) {
	for _, p := range pods {
		switch {
		case Active(p):
			active = append(active, p)
		case Terminating(p):
			terminating = append(terminating, p)
		}
	}
	return active, terminating
}

// readySince is when a ready pod became ready, or the zero time.
func readySince(p *corev1.Pod) time.Time {
	if c := Condition(p, corev1.PodReady); c != nil && c.Status == corev1.ConditionTrue {
		return c.LastTransitionTime.Time
	}
	return time.Time{}
}
