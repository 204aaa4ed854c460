package cgroup

import (
	"math"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

const (
	minShares = 2
	maxShares = 262144
	minQuota  = 1000 // microseconds; the kernel refuses less
)

// Limits is what one cgroup is given. Zero fields are left as the kernel has them.
type Limits struct {
	CPUShares uint64 // v1 scale, 2 to 262144
	CPUQuota  int64  // microseconds a period; -1 for none
	CPUPeriod uint64
	Memory    int64            // bytes; -1 for none
	PIDs      int64            // -1 for none
	HugePages map[string]int64 // bytes by page size as the kernel writes it ("2MB")
	// Protection is of v2 alone; nil leaves it as it is.
	Protection *Protection
}

// QOSClass is a pod's quality-of-service class: the one in its status if the API server has set it, else worked out.
func QOSClass(pod *corev1.Pod) corev1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	guaranteed, any := true, false
	consider := func(r corev1.ResourceRequirements) {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			req, lim := r.Requests[name], r.Limits[name]
			if !req.IsZero() || !lim.IsZero() {
				any = true
			}
			// A missing request counts as equal to the limit: that is how the API server defaults it.
			if lim.IsZero() || (!req.IsZero() && req.Cmp(lim) != 0) {
				guaranteed = false
			}
		}
	}
	if r := pod.Spec.Resources; r != nil && len(r.Requests)+len(r.Limits) > 0 {
		consider(*r)
	} else {
		for _, c := range pod.Spec.Containers {
			consider(c.Resources)
		}
		for _, c := range pod.Spec.InitContainers {
			consider(c.Resources)
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

// PodLimits works out a pod's cgroup limits from its spec.
func PodLimits(pod *corev1.Pod, cfg Config) Limits {
	requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	limits := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})
	l := Limits{CPUShares: minShares, PIDs: -1, HugePages: hugePages(requests), Protection: protection(pod, cfg)}
	if cfg.PodPIDs > 0 {
		l.PIDs = cfg.PodPIDs
	}
	qos := QOSClass(pod)
	if qos == corev1.PodQOSBestEffort {
		return l
	}
	l.CPUShares = Shares(requests.Cpu().MilliValue())
	// A pod is limited as a whole only if every container is: otherwise the limits' sum says nothing about the pod.
	l.CPUQuota, l.CPUPeriod, l.Memory = -1, cfg.CPUPeriod, -1
	if cfg.CPUQuota && (cfg.NoQuota == nil || !cfg.NoQuota(pod.UID)) && (qos == corev1.PodQOSGuaranteed || allLimited(pod, corev1.ResourceCPU)) {
		if q := Quota(limits.Cpu().MilliValue(), cfg.CPUPeriod); q > 0 {
			l.CPUQuota = q
		}
	}
	if qos == corev1.PodQOSGuaranteed || allLimited(pod, corev1.ResourceMemory) {
		if m := limits.Memory().Value(); m > 0 {
			l.Memory = m
		}
	}
	return l
}

func allLimited(pod *corev1.Pod, name corev1.ResourceName) bool {
	if r := pod.Spec.Resources; r != nil {
		if q, ok := r.Limits[name]; ok && !q.IsZero() {
			return true
		}
	}
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for _, c := range list {
			if q := c.Resources.Limits[name]; q.IsZero() {
				return false
			}
		}
	}
	return true
}

// Shares turns a CPU request into the v1 cpu.shares scale.
func Shares(milliCPU int64) uint64 {
	return uint64(min(max(milliCPU*1024/1000, minShares), maxShares))
}

// Quota turns a CPU limit into microseconds a period; 0 for no limit.
func Quota(milliCPU int64, period uint64) int64 {
	if milliCPU <= 0 {
		return 0
	}
	return max(milliCPU*int64(period)/1000, minQuota)
}

// Weight turns cpu.shares into v2's cpu.weight with the curve that the OCI runtimes agreed on: it maps the smallest,
// default and largest values of one scale to those of the other (2→1, 1024→100, 262144→10000).
func Weight(shares uint64) uint64 {
	switch {
	case shares <= minShares:
		return 1
	case shares >= maxShares:
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}

func cpuRequest(pod *corev1.Pod) int64 {
	reqs := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	return reqs.Cpu().MilliValue()
}

func hugePages(list corev1.ResourceList) map[string]int64 {
	var out map[string]int64
	for name, q := range list {
		size, ok := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix)
		if !ok {
			continue
		}
		page, err := resource.ParseQuantity(size)
		if err != nil {
			continue // the API server lets no such name through
		}
		if out == nil {
			out = map[string]int64{}
		}
		out[pageName(page.Value())] += q.Value()
	}
	return out
}

// pageName is how the kernel names a huge page size in its files.
func pageName(size int64) string {
	for _, u := range []struct {
		bytes int64
		name  string
	}{{1 << 30, "GB"}, {1 << 20, "MB"}, {1 << 10, "KB"}} {
		if size >= u.bytes && size%u.bytes == 0 {
			return strconv.FormatInt(size/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(size, 10)
}
