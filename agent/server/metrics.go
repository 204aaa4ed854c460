package server

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/mote-edge/mote/agent/cri"
	"github.com/mote-edge/mote/internal/version"
)

// Metrics writes the Prometheus text format. The client library would bring its registry, collectors and protobuf into
// every node; values that are read when asked for need none of it.
type Metrics struct {
	buf  bytes.Buffer
	last string
}

// Value writes one sample. Samples of one name must follow each other; labels are name, value, name, value, ….
func (m *Metrics) Value(name, kind, help string, v float64, labels ...string) {
	if name != m.last {
		fmt.Fprintf(&m.buf, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
		m.last = name
	}
	m.buf.WriteString(name)
	for i := 0; i+1 < len(labels); i += 2 {
		m.buf.WriteByte("{,"[min(i, 1)])
		m.buf.WriteString(labels[i])
		m.buf.WriteString(`="`)
		m.buf.WriteString(escapeLabel.Replace(labels[i+1]))
		m.buf.WriteByte('"')
	}
	if len(labels) > 1 {
		m.buf.WriteByte('}')
	}
	m.buf.WriteByte(' ')
	m.buf.WriteString(strconv.FormatFloat(v, 'g', -1, 64))
	m.buf.WriteByte('\n')
}

var escapeLabel = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)

func (m *Metrics) send(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write(m.buf.Bytes())
}

func (s *Server) metrics(w http.ResponseWriter, _ *http.Request) {
	m := &Metrics{}
	m.Value("kubelet_node_name", "gauge", "The node's name. The count is always 1.", 1, "node", s.cfg.NodeName)
	m.Value("kubernetes_build_info", "gauge", "A metric with a constant '1' value labeled by version.", 1,
		"git_commit", version.Commit, "git_version", version.GitVersion(), "go_version", runtime.Version(), "platform", runtime.GOOS+"/"+runtime.GOARCH)
	pods, states := 0, map[cri.State]int{}
	for _, p := range s.cfg.Pods.Cache().All() {
		if sb := p.Sandbox(); sb != nil && sb.State == cri.Running {
			pods++
		}
		for _, c := range p.Containers {
			states[c.State]++
		}
	}
	m.Value("kubelet_running_pods", "gauge", "Number of pods that have a running pod sandbox", float64(pods))
	for _, st := range []cri.State{cri.Created, cri.Exited, cri.Running} {
		m.Value("kubelet_running_containers", "gauge", "Number of containers currently running", float64(states[st]), "container_state", st.String())
	}
	m.Value("kubelet_desired_pods", "gauge", "The number of pods the kubelet is being instructed to run.", float64(len(s.cfg.Pods.Pods())))
	if s.cfg.Metrics != nil {
		s.cfg.Metrics(m)
	}
	s.process(m)
	m.send(w)
}

// process writes what any Go process tells about itself.
func (s *Server) process(m *Metrics) {
	m.Value("go_goroutines", "gauge", "Number of goroutines that currently exist.", float64(runtime.NumGoroutine()))
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	m.Value("go_memstats_heap_alloc_bytes", "gauge", "Number of heap bytes allocated and still in use.", float64(stats.HeapAlloc))
	m.Value("process_start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds.", float64(s.started.UnixMilli())/1000)
	if b, err := os.ReadFile("/proc/self/statm"); err == nil {
		if f := strings.Fields(string(b)); len(f) > 1 {
			pages, _ := strconv.ParseFloat(f[1], 64)
			m.Value("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", pages*float64(os.Getpagesize()))
		}
	}
	if b, err := os.ReadFile("/proc/self/stat"); err == nil {
		// The second field is a name in brackets that may hold anything; utime and stime are the 14th and 15th.
		if _, rest, ok := strings.Cut(string(b), ") "); ok {
			if f := strings.Fields(rest); len(f) > 12 {
				user, _ := strconv.ParseFloat(f[11], 64)
				system, _ := strconv.ParseFloat(f[12], 64)
				m.Value("process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.", (user+system)/100)
			}
		}
	}
	if fds, err := os.ReadDir("/proc/self/fd"); err == nil {
		m.Value("process_open_fds", "gauge", "Number of open file descriptors.", float64(len(fds)))
	}
}

func (s *Server) metricsProbes(w http.ResponseWriter, _ *http.Request) {
	m := &Metrics{}
	if s.cfg.Probes != nil {
		s.cfg.Probes(m)
	}
	m.Value("process_start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds.", float64(s.started.UnixMilli())/1000)
	m.send(w)
}

func (s *Server) metricsResource(w http.ResponseWriter, _ *http.Request) {
	m := &Metrics{}
	running, failed := s.running(), 0.0
	each := func(write func(*consumer)) {
		for i := range running {
			if running[i].err == nil {
				write(&running[i])
			}
		}
	}
	const cpu, memory = "Cumulative cpu time consumed by the %s in core-seconds", "Current working set of the %s in bytes"
	each(func(c *consumer) {
		if c.container != nil {
			m.Value("container_cpu_usage_seconds_total", "counter", fmt.Sprintf(cpu, "container"), float64(c.usage.CPUNanos)/1e9, c.labels()...)
		}
	})
	each(func(c *consumer) {
		if c.container != nil {
			m.Value("container_memory_working_set_bytes", "gauge", fmt.Sprintf(memory, "container"), float64(c.usage.WorkingSet), c.labels()...)
		}
	})
	each(func(c *consumer) {
		if c.container != nil {
			m.Value("container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds", float64(c.container.StartedAt)/1e9, c.labels()...)
		}
	})
	if node, err := s.cfg.Usage.Usage("/"); err == nil {
		m.Value("node_cpu_usage_seconds_total", "counter", fmt.Sprintf(cpu, "node"), float64(node.CPUNanos)/1e9)
		m.Value("node_memory_working_set_bytes", "gauge", fmt.Sprintf(memory, "node"), float64(node.WorkingSet))
	} else {
		failed = 1
	}
	each(func(c *consumer) {
		if c.container == nil {
			m.Value("pod_cpu_usage_seconds_total", "counter", fmt.Sprintf(cpu, "pod"), float64(c.usage.CPUNanos)/1e9, c.labels()...)
		}
	})
	each(func(c *consumer) {
		if c.container == nil {
			m.Value("pod_memory_working_set_bytes", "gauge", fmt.Sprintf(memory, "pod"), float64(c.usage.WorkingSet), c.labels()...)
		}
	})
	m.Value("resource_scrape_error", "gauge", "1 if there was an error while getting container metrics, 0 otherwise", failed)
	m.Value("scrape_error", "gauge", "1 if there was an error while getting container metrics, 0 otherwise", failed)
	m.send(w)
}

// metricsCadvisor is the part of cAdvisor's metrics that common dashboards rely on.
func (s *Server) metricsCadvisor(w http.ResponseWriter, _ *http.Request) {
	m := &Metrics{}
	running := s.running()
	for _, series := range []struct {
		name, kind, help string
		value            func(*consumer) float64
	}{
		{"container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", func(c *consumer) float64 { return float64(c.usage.CPUNanos) / 1e9 }},
		{"container_memory_usage_bytes", "gauge", "Current memory usage in bytes, including all memory regardless of when it was accessed", func(c *consumer) float64 { return float64(c.usage.Memory) }},
		{"container_memory_working_set_bytes", "gauge", "Current working set in bytes.", func(c *consumer) float64 { return float64(c.usage.WorkingSet) }},
		{"container_memory_rss", "gauge", "Size of RSS in bytes.", func(c *consumer) float64 { return float64(c.usage.RSS) }},
		{"container_processes", "gauge", "Number of processes running inside the container.", func(c *consumer) float64 { return float64(c.usage.PIDs) }},
	} {
		for i := range running {
			if c := &running[i]; c.err == nil {
				labels := []string{"container", "", "id", c.path, "image", "", "namespace", c.pod.Namespace, "pod", c.pod.Name}
				if c.container != nil {
					labels[1], labels[5] = c.container.Name, c.container.ImageRef
				}
				m.Value(series.name, series.kind, series.help, series.value(c), labels...)
			}
		}
	}
	if s.cfg.Capacity != nil {
		capacity := s.cfg.Capacity()
		m.Value("machine_cpu_cores", "gauge", "Number of logical CPU cores.", float64(capacity.Cpu().Value()))
		m.Value("machine_memory_bytes", "gauge", "Amount of memory installed on the machine.", float64(capacity.Memory().Value()))
	}
	m.send(w)
}

func (c *consumer) labels() []string {
	if c.container == nil {
		return []string{"namespace", c.pod.Namespace, "pod", c.pod.Name}
	}
	return []string{"container", c.container.Name, "namespace", c.pod.Namespace, "pod", c.pod.Name}
}
