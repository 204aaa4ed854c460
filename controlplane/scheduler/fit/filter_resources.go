package fit

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// filterResources names everything that is short, not only the first. The refusal is final if even an empty node of
// this size would be too small.
func filterResources(c *Cycle, n *Node) Refusal {
	r := Refusal{Final: false}
	short := func(reason string, never bool) {
		r.By = NodeResources
		r.Reasons = append(r.Reasons, reason)
		r.Final = r.Final || never
	}
	if int64(len(n.Pods))+1 > n.maxPods {
		short("Too many pods", n.maxPods == 0)
	}
	want, have, used := c.Pod.Request, n.allocatable, n.Requested
	check := func(name corev1.ResourceName, want, have, used int64) {
		if want > 0 && want > have-used {
			short("Insufficient "+string(name), want > have)
		}
	}
	check(corev1.ResourceCPU, want.MilliCPU, have.MilliCPU, used.MilliCPU)
	check(corev1.ResourceMemory, want.Memory, have.Memory, used.Memory)
	check(corev1.ResourceEphemeralStorage, want.EphemeralStorage, have.EphemeralStorage, used.EphemeralStorage)
	if len(want.Scalar) > 0 {
		names := make([]corev1.ResourceName, 0, len(want.Scalar))
		for name := range want.Scalar {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			if c.Claims != nil && have.Scalar[name] == 0 && c.Claims.Backs(name) {
				continue // filterClaims sees to it
			}
			check(name, want.Scalar[name], have.Scalar[name], used.Scalar[name])
		}
	}
	return r
}
