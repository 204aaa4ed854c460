package shutdown

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Period is how long pods of a priority, and of those up to the next period's, get when the machine shuts down.
type Period struct {
	Priority int32
	Grace    time.Duration
}

// systemCritical is the least priority of critical pods (system-cluster-critical).
const systemCritical = 2000000000

// Periods turns the plain configuration into one by priority: critical pods have the last part of the whole time.
func Periods(all, critical time.Duration) []Period {
	if all <= 0 || critical > all {
		return nil
	}
	return []Period{{0, all - critical}, {systemCritical, critical}}
}

// total is how long the shutdown has to wait.
func total(list []Period) (sum time.Duration) {
	for _, p := range list {
		sum += p.Grace
	}
	return sum
}

type group struct {
	Period
	pods []*corev1.Pod
}

// groups sorts pods into the periods, the first to end first. A pod belongs to the highest period that isn't above its
// priority, or to the lowest. Periods without pods are left out.
func groups(periods []Period, pods []*corev1.Pod) []group {
	periods = slices.Clone(periods)
	slices.SortFunc(periods, func(a, b Period) int { return cmp.Compare(a.Priority, b.Priority) })
	out := make([]group, len(periods))
	for i, p := range periods {
		out[i].Period = p
	}
	for _, pod := range pods {
		priority := int32(0)
		if pod.Spec.Priority != nil {
			priority = *pod.Spec.Priority
		}
		at := 0
		for i, p := range periods {
			if p.Priority <= priority {
				at = i
			}
		}
		out[at].pods = append(out[at].pods, pod)
	}
	return slices.DeleteFunc(out, func(g group) bool { return len(g.pods) == 0 })
}

// grace is a pod's part of its group's time: its own grace period if that is shorter.
func (g group) grace(pod *corev1.Pod) time.Duration {
	if s := pod.Spec.TerminationGracePeriodSeconds; s != nil {
		return min(g.Grace, time.Duration(*s)*time.Second)
	}
	return g.Grace
}
