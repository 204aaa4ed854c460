package resourceclaim

import (
	"testing"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestTidied(t *testing.T) {
	ref := func(names ...string) (out []resourcev1.ResourceClaimConsumerReference) {
		for _, n := range names {
			out = append(out, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: n})
		}
		return out
	}
	now := metav1.Now()
	for _, tc := range []struct {
		name      string
		allocated bool
		users     []string
		deleted   bool
		left      []string
		want      string
	}{
		{"nobody has it", false, nil, false, nil, "same"},
		{"allocated for a pod that comes", true, nil, false, nil, "same"},
		{"in use", true, []string{"a"}, false, []string{"a"}, "same"},
		{"one of two has ended", true, []string{"a", "b"}, false, []string{"b"}, "allocated"},
		{"the last one has ended", true, []string{"a"}, false, nil, "free"},
		{"deleted and never used", true, nil, true, nil, "free"},
		{"deleted and in use", true, []string{"a"}, true, []string{"a"}, "same"},
		{"reserved and not allocated", false, []string{"a"}, false, nil, "free"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := &resourcev1.ResourceClaim{Status: resourcev1.ResourceClaimStatus{ReservedFor: ref(tc.users...)}}
			if tc.allocated {
				c.Status.Allocation = &resourcev1.AllocationResult{}
			}
			if tc.deleted {
				c.DeletionTimestamp = &now
			}
			got := tidied(c, ref(tc.left...))
			word := "same"
			if got != nil {
				if word = "free"; got.Status.Allocation != nil {
					word = "allocated"
				}
				if len(got.Status.ReservedFor) != len(tc.left) {
					t.Errorf("reservedFor = %v", got.Status.ReservedFor)
				}
			}
			if word != tc.want {
				t.Errorf("got %s, want %s", word, tc.want)
			}
		})
	}
}
