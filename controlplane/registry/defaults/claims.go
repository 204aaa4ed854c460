package defaults

import (
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ResourceClaim: a request is for one device, a toleration compares for equality.
func ResourceClaim(c *resourcev1.ResourceClaim) { claimSpec(&c.Spec) }

// ResourceClaimTemplate is ResourceClaim for what is made from it.
func ResourceClaimTemplate(t *resourcev1.ResourceClaimTemplate) { claimSpec(&t.Spec.Spec) }

func claimSpec(s *resourcev1.ResourceClaimSpec) {
	count := func(mode *resourcev1.DeviceAllocationMode, n *int64) {
		zero(mode, resourcev1.DeviceAllocationModeExactCount)
		if *mode == resourcev1.DeviceAllocationModeExactCount {
			zero(n, 1)
		}
	}
	tolerations := func(list []resourcev1.DeviceToleration) {
		for i := range list {
			zero(&list[i].Operator, resourcev1.DeviceTolerationOpEqual)
		}
	}
	for i := range s.Devices.Requests {
		r := &s.Devices.Requests[i]
		if r.Exactly != nil {
			count(&r.Exactly.AllocationMode, &r.Exactly.Count)
			tolerations(r.Exactly.Tolerations)
		}
		for j := range r.FirstAvailable {
			sub := &r.FirstAvailable[j]
			count(&sub.AllocationMode, &sub.Count)
			tolerations(sub.Tolerations)
		}
	}
}

// ResourceSlice: taints begin when they are first written.
func ResourceSlice(s *resourcev1.ResourceSlice) {
	for i := range s.Spec.Devices {
		for j := range s.Spec.Devices[i].Taints {
			begins(&s.Spec.Devices[i].Taints[j])
		}
	}
}

// DeviceTaintRule is ResourceSlice for the rule's taint.
func DeviceTaintRule(r *resourcev1.DeviceTaintRule) { begins(&r.Spec.Taint) }

func begins(t *resourcev1.DeviceTaint) {
	if t.TimeAdded == nil {
		t.TimeAdded = &metav1.Time{Time: time.Now().Truncate(time.Second)}
	}
}
