package runtime

import (
	"context"
	"slices"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// metric is one of the counters and gauges that cAdvisor used to give under these names.
type metric struct {
	name, help string
	kind       cri.MetricType
	read       func(*cri.ContainerStats) (uint64, bool)
}

func value(v *cri.UInt64Value) (uint64, bool) { return v.GetValue(), v != nil }

// containerMetrics are labelled like cAdvisor's: id, name, image.
var containerMetrics = []metric{
	{
		"container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", cri.MetricType_COUNTER,
		func(s *cri.ContainerStats) (uint64, bool) {
			nanos, found := value(s.GetCpu().GetUsageCoreNanoSeconds())
			return nanos / 1e9, found
		},
	},
	{
		"container_memory_working_set_bytes", "Current working set of the container in bytes.", cri.MetricType_GAUGE,
		func(s *cri.ContainerStats) (uint64, bool) { return value(s.GetMemory().GetWorkingSetBytes()) },
	},
	{
		"container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed.", cri.MetricType_GAUGE,
		func(s *cri.ContainerStats) (uint64, bool) { return value(s.GetMemory().GetUsageBytes()) },
	},
	{
		"container_memory_rss", "Size of RSS in bytes.", cri.MetricType_GAUGE,
		func(s *cri.ContainerStats) (uint64, bool) { return value(s.GetMemory().GetRssBytes()) },
	},
	{
		"container_memory_swap", "Container swap usage in bytes.", cri.MetricType_GAUGE,
		func(s *cri.ContainerStats) (uint64, bool) { return value(s.GetSwap().GetSwapUsageBytes()) },
	},
	{
		"container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.", cri.MetricType_GAUGE,
		func(s *cri.ContainerStats) (uint64, bool) { return value(s.GetWritableLayer().GetUsedBytes()) },
	},
}

var metricLabels = []string{"id", "name", "image"}

// ListMetricDescriptors names the metrics.
func (s *Service) ListMetricDescriptors(context.Context, *cri.ListMetricDescriptorsRequest) (*cri.ListMetricDescriptorsResponse, error) {
	out := &cri.ListMetricDescriptorsResponse{}
	for _, m := range containerMetrics {
		out.Descriptors = append(out.Descriptors, &cri.MetricDescriptor{Name: m.name, Help: m.help, LabelKeys: metricLabels})
	}
	return out, nil
}

func (s *Service) listMetrics() []*cri.PodSandboxMetrics {
	byPod := map[string]*cri.PodSandboxMetrics{}
	for _, sb := range s.listSandboxes(&cri.PodSandboxFilter{State: &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY}}) {
		byPod[sb.Id] = &cri.PodSandboxMetrics{PodSandboxId: sb.Id}
	}
	for _, c := range s.allContainers() {
		if c.state() != stateRunning {
			continue
		}
		pod := byPod[c.rec.SandboxID]
		if pod == nil {
			continue // it is ending
		}
		stats := s.containerStats(c)
		labels := []string{c.rec.Cgroup, c.config.GetMetadata().GetName(), c.config.GetImage().GetUserSpecifiedImage()}
		mine := &cri.ContainerMetrics{ContainerId: c.rec.ID}
		for _, m := range containerMetrics {
			if number, found := m.read(stats); found {
				mine.Metrics = append(mine.Metrics, &cri.Metric{
					Name: m.name, Timestamp: time.Now().UnixNano(), MetricType: m.kind, LabelValues: labels, Value: &cri.UInt64Value{Value: number},
				})
			}
		}
		pod.ContainerMetrics = append(pod.ContainerMetrics, mine)
	}
	out := make([]*cri.PodSandboxMetrics, 0, len(byPod))
	for _, pod := range byPod {
		out = append(out, pod)
	}
	return out
}

// ListPodSandboxMetrics reads them.
func (s *Service) ListPodSandboxMetrics(context.Context, *cri.ListPodSandboxMetricsRequest) (*cri.ListPodSandboxMetricsResponse, error) {
	return &cri.ListPodSandboxMetricsResponse{PodMetrics: s.listMetrics()}, nil
}

// StreamPodSandboxMetrics reads them in messages of bounded size.
func (s *Service) StreamPodSandboxMetrics(_ *cri.StreamPodSandboxMetricsRequest, stream cri.RuntimeService_StreamPodSandboxMetricsServer) error {
	for page := range slices.Chunk(s.listMetrics(), streamPage) {
		if err := stream.Send(&cri.StreamPodSandboxMetricsResponse{PodSandboxMetrics: page}); err != nil {
			return err
		}
	}
	return nil
}
