package cgroup

import (
	"os"

	corev1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
)

// Protection is what the kernel keeps for a cgroup, and from when on it slows it down: memory.min, .low and .high in bytes.
// High 0 is never.
type Protection struct{ Min, Low, High int64 }

// MemoryHigh lies between request and limit, in whole pages; 0 where it would be no more than the request.
func MemoryHigh(request, limit int64, factor float64) int64 {
	if factor == 0 || limit <= 0 {
		return 0
	}
	page := int64(os.Getpagesize())
	high := int64(float64(request)+float64(limit-request)*factor) / page * page
	if high <= request {
		return 0
	}
	return high
}

// protection is that of a pod as a whole; nil where nothing is configured. Only pods that ask for memory as a whole are
// slowed down as one: of others, each container is.
func protection(pod *corev1.Pod, cfg Config) *Protection {
	if cfg.Throttle == 0 && !cfg.Protect {
		return nil
	}
	var p Protection
	requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	request := requests.Memory().Value()
	if cfg.Protect {
		if QOSClass(pod) == corev1.PodQOSGuaranteed {
			p.Min = request
		} else {
			p.Low = request
		}
	}
	if r := pod.Spec.Resources; r != nil && len(r.Requests)+len(r.Limits) > 0 && allLimited(pod, corev1.ResourceMemory) {
		limits := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})
		if limit := limits.Memory().Value(); limit != request || request == 0 {
			p.High = MemoryHigh(request, limit, cfg.Throttle)
		}
	}
	return &p
}

// protectTiers keeps for the tiers what their pods have together: the kernel lets no cgroup have more than those above it.
// The lock is held.
func (t *Tree) protectTiers() error {
	var guaranteed, burstable int64
	for _, p := range t.protected {
		guaranteed, burstable = guaranteed+p.Min, burstable+p.Low
	}
	if err := t.hier.apply(t.tierPath(corev1.PodQOSGuaranteed), Limits{Protection: &Protection{Min: guaranteed + burstable, Low: burstable}}); err != nil {
		return err
	}
	return t.hier.apply(t.tierPath(corev1.PodQOSBurstable), Limits{Protection: &Protection{Low: burstable}})
}

// Protected is what is kept for all pods, in bytes: for good, and as long as others have something to give.
func (t *Tree) Protected() (hard, soft int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.protected {
		hard, soft = hard+p.Min, soft+p.Low
	}
	return hard, soft
}
