package criconfig

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/cgroup"
)

// MemoryQoS is what the kernel does for and against containers beyond their limit (KEP-2570), on cgroup v2. The zero value
// is nothing, as by default.
type MemoryQoS struct {
	// Throttle is how far between request and limit a container is slowed down for reclaim (memory.high); 0 means never.
	Throttle float64
	// Protect keeps what was requested from reclaim: memory.min for guaranteed pods, memory.low for burstable ones.
	Protect bool
	// Allocatable stands for the limit of containers without one.
	Allocatable int64
}

func (q MemoryQoS) apply(r *runtimeapi.LinuxContainerResources, pod *corev1.Pod, c *corev1.Container) {
	if q.Throttle == 0 && !q.Protect {
		return
	}
	if r.Unified == nil {
		r.Unified = map[string]string{}
	}
	request, limit := c.Resources.Requests.Memory().Value(), c.Resources.Limits.Memory().Value()
	// All three are set, so that a resize takes back what held before.
	r.Unified["memory.min"], r.Unified["memory.low"], r.Unified["memory.high"] = "0", "0", "max"
	if q.Protect && request > 0 {
		file := "memory.low"
		if cgroup.QOSClass(pod) == corev1.PodQOSGuaranteed {
			file = "memory.min"
		}
		r.Unified[file] = strconv.FormatInt(request, 10)
	}
	if limit == 0 && pod.Spec.Resources != nil && !pod.Spec.Resources.Limits.Memory().IsZero() {
		return // its pod is slowed down as a whole
	}
	if request > 0 && request == limit {
		return // it may have all that it asked for
	}
	if limit == 0 {
		limit = q.Allocatable
	}
	if high := cgroup.MemoryHigh(request, limit, q.Throttle); high > 0 {
		r.Unified["memory.high"] = strconv.FormatInt(high, 10)
	}
}
