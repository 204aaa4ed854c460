package criconfig

import (
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/cgroup"
)

const (
	cpuPeriod = 100_000 // microseconds, CFS
	minQuota  = 1_000
	minShares = 2

	// The OOM scores by QoS class; a burstable container lies between, by how much of the node's memory it asked for.
	oomGuaranteed = -997
	oomBestEffort = 1000
)

// systemCritical is the priority from which a pod counts as critical to the node (system-node-critical).
const systemCritical = 2_000_001_000

// OOMScore is the container's oom_score_adj.
func OOMScore(pod *corev1.Pod, c *corev1.Container, memoryCapacity int64) int64 {
	if pod.Spec.Priority != nil && *pod.Spec.Priority >= systemCritical {
		return oomGuaranteed
	}
	switch cgroup.QOSClass(pod) {
	case corev1.PodQOSGuaranteed:
		return oomGuaranteed
	case corev1.PodQOSBestEffort:
		return oomBestEffort
	}
	if memoryCapacity <= 0 {
		return oomBestEffort - 1
	}
	request := c.Resources.Requests.Memory().Value() + unassigned(pod)
	score := 1000 - 1000*request/memoryCapacity
	if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways && isInit(pod, c) {
		// A sidecar isn't worth less than the containers that it serves.
		least := int64(-1)
		for i := range pod.Spec.Containers {
			if m := pod.Spec.Containers[i].Resources.Requests.Memory().Value(); least < 0 || m < least {
				least = m
			}
		}
		score = min(score, 1000-1000*(max(least, 0)+unassigned(pod))/memoryCapacity)
	}
	return min(max(score, 1000+oomGuaranteed), oomBestEffort-1)
}

func isInit(pod *corev1.Pod, c *corev1.Container) bool {
	return slices.ContainsFunc(pod.Spec.InitContainers, func(i corev1.Container) bool { return i.Name == c.Name })
}

// unassigned is each container's share of the memory that the pod requests as a whole beyond what its containers do
// (KEP-2837).
func unassigned(pod *corev1.Pod) int64 {
	if pod.Spec.Resources == nil || pod.Spec.Resources.Requests == nil {
		return 0
	}
	whole := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	parts := resourcehelper.AggregateContainerRequests(pod, resourcehelper.PodResourcesOptions{})
	n := len(pod.Spec.Containers)
	for i := range pod.Spec.InitContainers {
		if p := pod.Spec.InitContainers[i].RestartPolicy; p != nil && *p == corev1.ContainerRestartPolicyAlways {
			n++
		}
	}
	rest := whole.Memory().Value() - parts.Memory().Value()
	if n == 0 || rest <= 0 {
		return 0
	}
	return rest / int64(n)
}

// limitOf is a container's limit, or that of its pod where it has none itself.
func limitOf(pod *corev1.Pod, c *corev1.Container, name corev1.ResourceName) (resource.Quantity, bool) {
	if q, ok := c.Resources.Limits[name]; ok && !q.IsZero() {
		return q, true
	}
	if pod.Spec.Resources != nil {
		if q, ok := pod.Spec.Resources.Limits[name]; ok && !q.IsZero() {
			return q, true
		}
	}
	return resource.Quantity{}, false
}

// Resources is the container's share of CPU and memory, in the kernel's units.
func Resources(pod *corev1.Pod, c *corev1.Container, memoryCapacity int64, cgroupV2 bool) *runtimeapi.LinuxContainerResources {
	out := &runtimeapi.LinuxContainerResources{OomScoreAdj: OOMScore(pod, c, memoryCapacity), CpuPeriod: cpuPeriod}
	request, hasRequest := c.Resources.Requests[corev1.ResourceCPU]
	limit, hasLimit := limitOf(pod, c, corev1.ResourceCPU)
	if !hasRequest && hasLimit {
		request = limit
	}
	out.CpuShares = max(request.MilliValue()*1024/1000, minShares)
	if hasLimit && !limit.IsZero() {
		out.CpuQuota = max(limit.MilliValue()*cpuPeriod/1000, minQuota)
	}
	if memory, ok := limitOf(pod, c, corev1.ResourceMemory); ok {
		out.MemoryLimitInBytes = memory.Value()
		out.MemorySwapLimitInBytes = memory.Value() // no swap for pods
	}
	out.HugepageLimits = hugepages(c.Resources.Limits)
	if cgroupV2 { // the whole container dies, not a random process of it
		out.Unified = map[string]string{"memory.oom.group": "1"}
	}
	return out
}

func hugepages(limits corev1.ResourceList) []*runtimeapi.HugepageLimit {
	var out []*runtimeapi.HugepageLimit
	for name, q := range limits {
		size, ok := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix)
		if !ok {
			continue
		}
		page, err := resource.ParseQuantity(size)
		if err != nil {
			continue // the API server refuses such names
		}
		out = append(out, &runtimeapi.HugepageLimit{PageSize: pageSize(page.Value()), Limit: uint64(q.Value())})
	}
	return out
}

// pageSize is the size as the hugetlb cgroup's file names have it: 2MB, 1GB.
func pageSize(bytes int64) string {
	for _, u := range []struct {
		size int64
		unit string
	}{{1 << 30, "GB"}, {1 << 20, "MB"}, {1 << 10, "KB"}} {
		if bytes >= u.size && bytes%u.size == 0 {
			return strconv.FormatInt(bytes/u.size, 10) + u.unit
		}
	}
	return strconv.FormatInt(bytes, 10) + "B"
}
