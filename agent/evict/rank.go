package evict

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
)

// systemCritical is the priority from which a pod is never evicted (system-cluster-critical).
const systemCritical = 2000000000

// rank orders the pods that may be evicted for a signal, the first to go first: those that use more than they asked for,
// then those of lower priority, then those that are furthest over what they asked for. Pure.
func rank(candidates []Candidate, s Signal, ownImageFs bool) []Candidate {
	out := slices.DeleteFunc(slices.Clone(candidates), func(c Candidate) bool { return !evictable(c.Pod) })
	what := s.Resource()
	over := func(c Candidate) int64 {
		switch what {
		case corev1.ResourceMemory:
			return c.Memory - request(c.Pod, what)
		case corev1.ResourceEphemeralStorage:
			return c.on(s, ownImageFs).Bytes - request(c.Pod, what)
		case "inodes":
			return c.on(s, ownImageFs).Inodes
		}
		return c.PIDs
	}
	// Of process numbers and inodes nobody asks for any: all that use some exceed.
	exceeds := func(c Candidate) bool { return what != "pids" && over(c) > 0 }
	slices.SortStableFunc(out, func(a, b Candidate) int {
		if x, y := exceeds(a), exceeds(b); x != y {
			if x {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(priority(a.Pod), priority(b.Pod)), cmp.Compare(over(b), over(a)))
	})
	return out
}

// evictable tells whether a pod may be ended: not a critical one, nor one that ends anyway.
func evictable(pod *corev1.Pod) bool {
	return !Critical(pod) && pod.Status.Phase != corev1.PodFailed && pod.Status.Phase != corev1.PodSucceeded
}

// Critical tells whether the node needs a pod itself: one of a file on it, or of system priority.
func Critical(pod *corev1.Pod) bool {
	return FromFile(pod) || pod.Annotations["kubernetes.io/config.mirror"] != "" || priority(pod) >= systemCritical
}

// FromFile tells whether a pod is of a manifest on the node.
func FromFile(pod *corev1.Pod) bool {
	source := pod.Annotations["kubernetes.io/config.source"]
	return source != "" && source != "api"
}

func priority(pod *corev1.Pod) int32 {
	if pod.Spec.Priority == nil {
		return 0
	}
	return *pod.Spec.Priority
}

func request(pod *corev1.Pod, name corev1.ResourceName) int64 {
	list := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	q := list[name]
	return q.Value()
}
