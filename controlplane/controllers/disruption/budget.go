package disruption

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	pdbhelper "k8s.io/component-helpers/apps/poddisruptionbudget"
)

// deletionTimeout is how long an evicted pod is taken for gone although it shows no sign of it.
const deletionTimeout = 2 * time.Minute

// desiredHealthy is how many of the expected pods have to be healthy. scale is the sum of what the pods' controllers
// want; a whole number of minAvailable needs none.
func desiredHealthy(b *policyv1.PodDisruptionBudget, pods int, scale func() (int, error)) (desired, expected int, err error) {
	switch {
	case b.Spec.MaxUnavailable != nil:
		if expected, err = scale(); err != nil {
			return 0, 0, err
		}
		n, err := intstr.GetScaledValueFromIntOrPercent(b.Spec.MaxUnavailable, expected, true)
		return max(expected-n, 0), expected, err
	case b.Spec.MinAvailable != nil && b.Spec.MinAvailable.Type == intstr.Int:
		return b.Spec.MinAvailable.IntValue(), pods, nil
	case b.Spec.MinAvailable != nil:
		if expected, err = scale(); err != nil {
			return 0, 0, err
		}
		n, err := intstr.GetScaledValueFromIntOrPercent(b.Spec.MinAvailable, expected, true)
		return n, expected, err
	}
	return 0, 0, nil
}

// status is what a budget's status should say, when next to look at it because an entry of it expires (zero: never),
// and the pods that were evicted and are still there.
func status(b *policyv1.PodDisruptionBudget, pods []*corev1.Pod, desired, expected int, now time.Time) (s policyv1.PodDisruptionBudgetStatus, next time.Time, stale []*corev1.Pod) {
	disrupted := map[string]metav1.Time{}
	healthy := 0
	for _, p := range pods {
		if p.DeletionTimestamp != nil {
			continue
		}
		if at, ok := b.Status.DisruptedPods[p.Name]; ok {
			if end := at.Add(deletionTimeout); end.After(now) {
				disrupted[p.Name] = at
				if next.IsZero() || end.Before(next) {
					next = end
				}
				continue
			}
			stale = append(stale, p)
		}
		if ready(p) {
			healthy++
		}
	}
	// Without expected pods nothing is allowed: the first ones may be here before their count is.
	allowed := healthy - desired
	if expected <= 0 || allowed <= 0 {
		allowed = 0
	}
	s = policyv1.PodDisruptionBudgetStatus{
		CurrentHealthy: int32(healthy), DesiredHealthy: int32(desired), ExpectedPods: int32(expected), DisruptionsAllowed: int32(allowed),
		DisruptedPods: disrupted, ObservedGeneration: b.Generation, Conditions: b.Status.Conditions,
	}
	return s, next, stale
}

func ready(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// upToDate compares, taking an absent map for an empty one.
func upToDate(b *policyv1.PodDisruptionBudget, s policyv1.PodDisruptionBudgetStatus) bool {
	old := b.Status
	return old.CurrentHealthy == s.CurrentHealthy && old.DesiredHealthy == s.DesiredHealthy && old.ExpectedPods == s.ExpectedPods &&
		old.DisruptionsAllowed == s.DisruptionsAllowed && old.ObservedGeneration == s.ObservedGeneration &&
		equality.Semantic.DeepEqual(old.DisruptedPods, s.DisruptedPods) && pdbhelper.ConditionsAreUpToDate(b)
}
