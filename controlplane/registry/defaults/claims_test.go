package defaults

import (
	"testing"

	resourcev1 "k8s.io/api/resource/v1"
)

func TestResourceClaim(t *testing.T) {
	c := &resourcev1.ResourceClaim{}
	c.Spec.Devices.Requests = []resourcev1.DeviceRequest{
		{Exactly: &resourcev1.ExactDeviceRequest{Tolerations: []resourcev1.DeviceToleration{{Key: "x"}}}},
		{Exactly: &resourcev1.ExactDeviceRequest{AllocationMode: resourcev1.DeviceAllocationModeAll}},
		{FirstAvailable: []resourcev1.DeviceSubRequest{{}, {Count: 3}}},
	}
	for range 2 {
		ResourceClaim(c)
		r := c.Spec.Devices.Requests
		if e := r[0].Exactly; e.AllocationMode != resourcev1.DeviceAllocationModeExactCount || e.Count != 1 || e.Tolerations[0].Operator != resourcev1.DeviceTolerationOpEqual {
			t.Errorf("exactly: %+v", e)
		}
		if r[1].Exactly.Count != 0 || r[2].FirstAvailable[0].Count != 1 || r[2].FirstAvailable[1].Count != 3 {
			t.Errorf("requests: %+v", r)
		}
	}
}

func TestDeviceTaintRule(t *testing.T) {
	r := &resourcev1.DeviceTaintRule{}
	DeviceTaintRule(r)
	was := r.Spec.Taint.TimeAdded
	if DeviceTaintRule(r); was == nil || !r.Spec.Taint.TimeAdded.Equal(was) {
		t.Errorf("time added: %v, then %v", was, r.Spec.Taint.TimeAdded)
	}
}
