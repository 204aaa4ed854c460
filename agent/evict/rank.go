package evict

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

// systemCritical is the priority from which a pod is never evicted (system-cluster-critical).
const systemCritical = 2000000000

// rank orders the pods that may be evicted for a signal, the first to go first: those that use more than they asked for,
// then those of lower priority, then those that are furthest over what they asked for. Pure.
func rank(candidates []Candidate, s Signal) []Candidate {
	out := slices.DeleteFunc(slices.Clone(candidates), func(c Candidate) bool { return !evictable(c.Pod) })
	over := func(c Candidate) int64 {
		switch s {
		case Memory:
			return c.Memory - request(c.Pod, corev1.ResourceMemory)
		case Disk:
			return c.Disk - request(c.Pod, corev1.ResourceEphemeralStorage)
		case Inodes:
			return c.Inodes
		}
		return c.PIDs
	}
	exceeds := func(c Candidate) bool { return (s == Memory || s == Disk) && over(c) > 0 }
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

// evictable tells whether a pod may be ended: not one of a file on this node, nor a critical one, nor one that ends anyway.
func evictable(pod *corev1.Pod) bool {
	if source := pod.Annotations["kubernetes.io/config.source"]; source != "" && source != "api" {
		return false
	}
	if pod.Annotations["kubernetes.io/config.mirror"] != "" || priority(pod) >= systemCritical {
		return false
	}
	return pod.Status.Phase != corev1.PodFailed && pod.Status.Phase != corev1.PodSucceeded
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

// message says which containers use more memory than they asked for.
func (c Candidate) message() string {
	var b strings.Builder
	for i := range c.Pod.Spec.Containers {
		container := &c.Pod.Spec.Containers[i]
		asked := container.Resources.Requests.Memory()
		if used := c.Containers[container.Name]; used > asked.Value() {
			fmt.Fprintf(&b, "Container %s was using %s, request is %s, has larger consumption of memory. ",
				container.Name, resource.NewQuantity(used>>10<<10, resource.BinarySI), asked)
		}
	}
	return b.String()
}
