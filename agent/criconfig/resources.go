package criconfig

import (
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
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
	request := c.Resources.Requests.Memory().Value()
	return min(max(1000-1000*request/memoryCapacity, 1000+oomGuaranteed), oomBestEffort-1)
}

// Resources is the container's share of CPU and memory, in the kernel's units.
func Resources(pod *corev1.Pod, c *corev1.Container, memoryCapacity int64, cgroupV2 bool) *runtimeapi.LinuxContainerResources {
	out := &runtimeapi.LinuxContainerResources{OomScoreAdj: OOMScore(pod, c, memoryCapacity), CpuPeriod: cpuPeriod}
	request, hasRequest := c.Resources.Requests[corev1.ResourceCPU]
	limit, hasLimit := c.Resources.Limits[corev1.ResourceCPU]
	if !hasRequest && hasLimit {
		request = limit
	}
	out.CpuShares = max(request.MilliValue()*1024/1000, minShares)
	if hasLimit && !limit.IsZero() {
		out.CpuQuota = max(limit.MilliValue()*cpuPeriod/1000, minQuota)
	}
	if memory, ok := c.Resources.Limits[corev1.ResourceMemory]; ok {
		out.MemoryLimitInBytes = memory.Value()
		out.MemorySwapLimitInBytes = memory.Value() // no swap for pods
	}
	out.HugepageLimits = hugepages(c)
	if cgroupV2 { // the whole container dies, not a random process of it
		out.Unified = map[string]string{"memory.oom.group": "1"}
	}
	return out
}

func hugepages(c *corev1.Container) []*runtimeapi.HugepageLimit {
	var out []*runtimeapi.HugepageLimit
	for name, q := range c.Resources.Limits {
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
