package server

import (
	"net/http"

	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/cgroup"
)

// series is one metric of cAdvisor's that dashboards rely on, read from a pod's or a container's cgroup.
type series struct {
	name, kind, help string
	value            func(*consumer) float64
}

var cadvisorSeries = []series{
	{"container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", func(c *consumer) float64 { return float64(c.usage.CPUNanos) / 1e9 }},
	{"container_cpu_cfs_periods_total", "counter", "Number of elapsed enforcement period intervals.", func(c *consumer) float64 { return float64(c.detail.Periods) }},
	{"container_cpu_cfs_throttled_periods_total", "counter", "Number of throttled period intervals.", func(c *consumer) float64 { return float64(c.detail.Throttled) }},
	{"container_cpu_cfs_throttled_seconds_total", "counter", "Total time duration the container has been throttled.", func(c *consumer) float64 { return float64(c.detail.ThrottledNanos) / 1e9 }},
	{"container_memory_usage_bytes", "gauge", "Current memory usage in bytes, including all memory regardless of when it was accessed", func(c *consumer) float64 { return float64(c.usage.Memory) }},
	{"container_memory_working_set_bytes", "gauge", "Current working set in bytes.", func(c *consumer) float64 { return float64(c.usage.WorkingSet) }},
	{"container_memory_rss", "gauge", "Size of RSS in bytes.", func(c *consumer) float64 { return float64(c.usage.RSS) }},
	{"container_memory_cache", "gauge", "Number of bytes of page cache memory.", func(c *consumer) float64 { return float64(c.detail.Cache) }},
	{"container_memory_swap", "gauge", "Container swap usage in bytes.", func(c *consumer) float64 { return float64(c.detail.Swap) }},
	{"container_spec_memory_limit_bytes", "gauge", "Memory limit for the container.", func(c *consumer) float64 {
		if c.usage.Limit > 1<<62 {
			return 0
		}
		return float64(c.usage.Limit)
	}},
	{"container_oom_events_total", "counter", "Count of out of memory events observed for the container", func(c *consumer) float64 { return float64(c.detail.OOMKills) }},
	{"container_processes", "gauge", "Number of processes running inside the container.", func(c *consumer) float64 { return float64(c.usage.PIDs) }},
	{"container_fs_reads_bytes_total", "counter", "Cumulative count of bytes read", func(c *consumer) float64 { return float64(c.detail.ReadBytes) }},
	{"container_fs_reads_total", "counter", "Cumulative count of reads completed", func(c *consumer) float64 { return float64(c.detail.Reads) }},
	{"container_fs_writes_total", "counter", "Cumulative count of writes completed", func(c *consumer) float64 { return float64(c.detail.Writes) }},
	{"container_last_seen", "gauge", "Last time a container was seen by the exporter", func(c *consumer) float64 { return float64(c.usage.Time.UnixMilli()) / 1000 }},
	{"container_fs_writes_bytes_total", "counter", "Cumulative count of bytes written", func(c *consumer) float64 { return float64(c.detail.WriteBytes) }},
}

// stalls are cAdvisor's series of what waits for what, for cgroups whose kernel tells it.
var stalls = []struct {
	name, help string
	of         func(*cgroup.Detail) *cgroup.Pressure
	full       bool
}{
	{"container_pressure_cpu_waiting_seconds_total", "Total time duration tasks in the container have waited due to CPU congestion.", func(d *cgroup.Detail) *cgroup.Pressure { return d.CPUPressure }, false},
	{"container_pressure_cpu_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to CPU congestion.", func(d *cgroup.Detail) *cgroup.Pressure { return d.CPUPressure }, true},
	{"container_pressure_memory_waiting_seconds_total", "Total time duration tasks in the container have waited due to memory congestion.", func(d *cgroup.Detail) *cgroup.Pressure { return d.MemoryPressure }, false},
	{"container_pressure_memory_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to memory congestion.", func(d *cgroup.Detail) *cgroup.Pressure { return d.MemoryPressure }, true},
	{"container_pressure_io_waiting_seconds_total", "Total time duration tasks in the container have waited due to IO congestion.", func(d *cgroup.Detail) *cgroup.Pressure { return d.IOPressure }, false},
	{"container_pressure_io_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to IO congestion.", func(d *cgroup.Detail) *cgroup.Pressure { return d.IOPressure }, true},
}

// metricsCadvisor is the part of cAdvisor's metrics that common dashboards rely on: the counters of cgroups, read here,
// and what only the runtime knows, writable layers and network interfaces.
func (s *Server) metricsCadvisor(w http.ResponseWriter, r *http.Request) {
	m := &Metrics{}
	running := s.running()
	for i := range running {
		if c := &running[i]; c.err == nil && s.cfg.Detail != nil {
			c.detail = s.cfg.Detail(c.path)
		}
	}
	labels := func(c *consumer) []string {
		out := []string{"container", "", "id", c.path, "image", "", "name", "", "namespace", c.pod.Namespace, "pod", c.pod.Name}
		if c.container != nil {
			out[1], out[5], out[7] = c.container.Name, c.container.ImageRef, c.container.ID
		}
		return out
	}
	for _, x := range cadvisorSeries {
		for i := range running {
			if c := &running[i]; c.err == nil {
				m.Value(x.name, x.kind, x.help, x.value(c), labels(c)...)
			}
		}
	}
	for _, x := range stalls {
		for i := range running {
			c := &running[i]
			if p := x.of(&c.detail); p != nil && c.err == nil {
				stall := p.Some
				if x.full {
					stall = p.Full
				}
				m.Value(x.name, "counter", x.help, stall.Total.Seconds(), labels(c)...)
			}
		}
	}
	for i := range running {
		if c := &running[i]; c.container != nil {
			m.Value("container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds.", float64(c.container.StartedAt)/1e9, labels(c)...)
		}
	}
	sandboxes := s.sandboxes(r)
	for i := range running {
		c := &running[i]
		if sb := sandboxes[string(c.pod.UID)]; c.container != nil && sb != nil {
			for _, k := range sb.GetLinux().GetContainers() {
				if k.GetAttributes().GetId() == c.container.ID && k.GetWritableLayer() != nil {
					m.Value("container_fs_usage_bytes", "gauge", "Number of bytes that are consumed by the container on this filesystem.", float64(k.GetWritableLayer().GetUsedBytes().GetValue()), labels(c)...)
				}
			}
		}
	}
	s.network(m, running, sandboxes)
	if s.cfg.Capacity != nil {
		capacity := s.cfg.Capacity()
		m.Value("machine_cpu_cores", "gauge", "Number of logical CPU cores.", float64(capacity.Cpu().Value()))
		m.Value("machine_memory_bytes", "gauge", "Amount of memory installed on the machine.", float64(capacity.Memory().Value()))
	}
	send(w, m)
}

// network writes the counters of pods' interfaces, as their containers see them, or else what the runtime knows, which is
// less. Pods on the host's network have none of their own.
func (s *Server) network(m *Metrics, running []consumer, sandboxes map[string]*runtimeapi.PodSandboxStats) {
	links := map[types.UID][]cgroup.Link{}
	for i := range running {
		if c := &running[i]; s.cfg.Links != nil && c.container != nil && !c.pod.Spec.HostNetwork && len(links[c.pod.UID]) == 0 {
			links[c.pod.UID] = s.cfg.Links(c.path)
		}
	}
	for i := range running {
		if c := &running[i]; c.container == nil && !c.pod.Spec.HostNetwork && len(links[c.pod.UID]) == 0 {
			for _, l := range interfaces(sandboxes[string(c.pod.UID)]) {
				links[c.pod.UID] = append(links[c.pod.UID], cgroup.Link{
					Name: l.GetName(), RxBytes: l.GetRxBytes().GetValue(), RxErrors: l.GetRxErrors().GetValue(), TxBytes: l.GetTxBytes().GetValue(), TxErrors: l.GetTxErrors().GetValue(),
				})
			}
		}
	}
	for _, x := range []struct {
		name, help string
		value      func(*cgroup.Link) uint64
	}{
		{"container_network_receive_bytes_total", "Cumulative count of bytes received", func(l *cgroup.Link) uint64 { return l.RxBytes }},
		{"container_network_receive_packets_total", "Cumulative count of packets received", func(l *cgroup.Link) uint64 { return l.RxPackets }},
		{"container_network_receive_packets_dropped_total", "Cumulative count of packets dropped while receiving", func(l *cgroup.Link) uint64 { return l.RxDropped }},
		{"container_network_receive_errors_total", "Cumulative count of errors encountered while receiving", func(l *cgroup.Link) uint64 { return l.RxErrors }},
		{"container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", func(l *cgroup.Link) uint64 { return l.TxBytes }},
		{"container_network_transmit_packets_total", "Cumulative count of packets transmitted", func(l *cgroup.Link) uint64 { return l.TxPackets }},
		{"container_network_transmit_packets_dropped_total", "Cumulative count of packets dropped while transmitting", func(l *cgroup.Link) uint64 { return l.TxDropped }},
		{"container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting", func(l *cgroup.Link) uint64 { return l.TxErrors }},
	} {
		for i := range running {
			c := &running[i]
			if c.container != nil {
				continue
			}
			for k := range links[c.pod.UID] {
				l := &links[c.pod.UID][k]
				m.Value(x.name, "counter", x.help, float64(x.value(l)), "container", "", "id", c.path, "image", "", "interface", l.Name, "name", "", "namespace", c.pod.Namespace, "pod", c.pod.Name)
			}
		}
	}
}

// interfaces lists a pod's, the default one first.
func interfaces(sb *runtimeapi.PodSandboxStats) []*runtimeapi.NetworkInterfaceUsage {
	n := sb.GetLinux().GetNetwork()
	if n.GetDefaultInterface() == nil {
		return n.GetInterfaces()
	}
	return append([]*runtimeapi.NetworkInterfaceUsage{n.GetDefaultInterface()}, n.GetInterfaces()...)
}

// sandboxes asks the runtime for its statistics, by the pods' UIDs. Without an answer there are none.
func (s *Server) sandboxes(r *http.Request) map[string]*runtimeapi.PodSandboxStats {
	out := map[string]*runtimeapi.PodSandboxStats{}
	if s.cfg.Sandboxes == nil {
		return out
	}
	list, err := s.cfg.Sandboxes(r.Context())
	if err != nil {
		s.cfg.Log.Debug("no statistics from the runtime", "error", err)
	}
	for _, sb := range list {
		out[sb.GetAttributes().GetMetadata().GetUid()] = sb
	}
	return out
}
