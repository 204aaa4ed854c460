package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// QOSClass is the quality of service class of a pod's spec: Guaranteed when cpu
// and memory have limits everywhere that equal the requests, BestEffort when
// there are neither requests nor limits, Burstable otherwise. Resources at pod
// level, when set, decide alone.
func QOSClass(p *corev1.Pod) corev1.PodQOSClass {
	var all []corev1.ResourceRequirements
	if r := p.Spec.Resources; r != nil {
		all = append(all, corev1.ResourceRequirements{Requests: r.Requests, Limits: r.Limits})
	} else {
		for _, c := range p.Spec.InitContainers {
			all = append(all, c.Resources)
		}
		for _, c := range p.Spec.Containers {
			all = append(all, c.Resources)
		}
	}
	guaranteed, any := true, false
	for _, r := range all {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			request, limit := positive(r.Requests, name), positive(r.Limits, name)
			if request != nil || limit != nil {
				any = true
			}
			// Defaults have put a missing request to the limit before this runs.
			if limit == nil || (request != nil && request.Cmp(*limit) != 0) {
				guaranteed = false
			}
		}
	}
	switch {
	case !any:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	default:
		return corev1.PodQOSBurstable
	}
}

func positive(list corev1.ResourceList, name corev1.ResourceName) *resource.Quantity {
	if q, ok := list[name]; ok && q.Sign() > 0 {
		return &q
	}
	return nil
}
