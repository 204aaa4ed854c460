package criconfig

import (
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/cgroup"
)

// Tuning is what the node's configuration says about all containers. The zero value is the usual.
type Tuning struct {
	CPUPeriod      time.Duration // of CFS quotas; 0 means 100 ms
	NoQuota        bool          // CPU limits don't become quotas
	SeccompDefault bool          // containers that name no profile have the runtime's
	// Swap lets burstable pods use the machine's swap, in the proportion of their memory requests to the machine's memory:
	// both in bytes. 0 lets nobody.
	Swap, Memory int64
	CgroupV2     bool
	SwapControl  bool     // the kernel bounds the swap of a cgroup (v2): nobody has any unless Swap says so
	HugePages    []string // the page sizes that the kernel has: 2MB, 1GB
	// SingleOOM has the kernel kill one process of a container that runs out of memory, not all of it.
	SingleOOM bool
	MemoryQoS MemoryQoS
}

// Apply changes a container's resources accordingly.
func (t Tuning) Apply(r *runtimeapi.LinuxContainerResources, pod *corev1.Pod, c *corev1.Container) *runtimeapi.LinuxContainerResources {
	if t.NoQuota {
		r.CpuQuota, r.CpuPeriod = 0, 0
	} else if p := t.CPUPeriod.Microseconds(); p > 0 && p != r.CpuPeriod && r.CpuPeriod > 0 {
		if r.CpuQuota > 0 {
			r.CpuQuota = max(r.CpuQuota*p/r.CpuPeriod, minQuota)
		}
		r.CpuPeriod = p
	}
	r.HugepageLimits = t.hugePages(r.HugepageLimits, pod)
	if t.CgroupV2 {
		t.MemoryQoS.apply(r, pod, c)
		if t.SingleOOM && r.Unified["memory.oom.group"] != "" {
			r.Unified["memory.oom.group"] = "0"
		}
	}
	if swap := t.swap(pod, c); swap > 0 || t.SwapControl && t.CgroupV2 {
		if r.Unified == nil {
			r.Unified = map[string]string{}
		}
		r.Unified["memory.swap.max"] = strconv.FormatInt(swap, 10)
		if r.MemoryLimitInBytes > 0 {
			r.MemorySwapLimitInBytes = r.MemoryLimitInBytes + swap // CRI counts both together
		}
	}
	return r
}

// swap is a container's share; KEP-2400 says who has one: burstable pods' containers that asked for memory, and not for
// all that they may have.
func (t Tuning) swap(pod *corev1.Pod, c *corev1.Container) int64 {
	request, limit := c.Resources.Requests.Memory(), c.Resources.Limits.Memory()
	critical := pod.Spec.Priority != nil && *pod.Spec.Priority >= 2000000000
	if t.Swap == 0 || t.Memory == 0 || !t.CgroupV2 || critical || cgroup.QOSClass(pod) != corev1.PodQOSBurstable || request.IsZero() || request.Cmp(*limit) == 0 {
		return 0
	}
	page := int64(4096)
	return int64(float64(request.Value())/float64(t.Memory)*float64(t.Swap)) / page * page
}

// seccompDefault is the profile of containers that name none.
func (t Tuning) seccompDefault() *corev1.SeccompProfile {
	if !t.SeccompDefault {
		return nil
	}
	return &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}
}
