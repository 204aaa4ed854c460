package server

import (
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mote-edge/mote/agent/cri"
	"github.com/mote-edge/mote/agent/meter"
	"github.com/mote-edge/mote/internal/version"
)

// Metrics writes the Prometheus text format.
type Metrics = meter.Text

func send(w http.ResponseWriter, m *Metrics) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write(m.Bytes())
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
	send(w, m)
}

// process writes what any Go process tells about itself.
func (s *Server) process(m *Metrics) {
	m.Value("go_goroutines", "gauge", "Number of goroutines that currently exist.", float64(runtime.NumGoroutine()))
	threads, _ := runtime.ThreadCreateProfile(nil)
	m.Value("go_threads", "gauge", "Number of OS threads created.", float64(threads))
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	m.Value("go_info", "gauge", "Information about the Go environment.", 1, "version", runtime.Version())
	for _, x := range []struct {
		name, kind, help string
		v                uint64
	}{
		{"go_memstats_alloc_bytes", "gauge", "Number of bytes allocated in heap and currently in use.", stats.Alloc},
		{"go_memstats_alloc_bytes_total", "counter", "Total number of bytes allocated in heap until now, even if released already.", stats.TotalAlloc},
		{"go_memstats_heap_alloc_bytes", "gauge", "Number of heap bytes allocated and still in use.", stats.HeapAlloc},
		{"go_memstats_heap_inuse_bytes", "gauge", "Number of heap bytes that are in use.", stats.HeapInuse},
		{"go_memstats_heap_objects", "gauge", "Number of currently allocated objects.", stats.HeapObjects},
		{"go_memstats_stack_inuse_bytes", "gauge", "Number of bytes obtained from system for stack allocator in non-CGO environments.", stats.StackInuse},
		{"go_memstats_sys_bytes", "gauge", "Number of bytes obtained from system.", stats.Sys},
		{"go_memstats_mallocs_total", "counter", "Total number of heap objects allocated, both live and gc-ed.", stats.Mallocs},
		{"go_memstats_frees_total", "counter", "Total number of heap objects frees.", stats.Frees},
		{"go_memstats_next_gc_bytes", "gauge", "Number of heap bytes when next garbage collection will take place.", stats.NextGC},
	} {
		m.Value(x.name, x.kind, x.help, float64(x.v))
	}
	m.Value("go_gc_duration_seconds_count", "counter", "Number of garbage collections.", float64(stats.NumGC))
	m.Value("go_gc_duration_seconds_sum", "counter", "Time for which the program was stopped by garbage collections.", float64(stats.PauseTotalNs)/1e9)
	m.Value("process_start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds.", float64(s.started.UnixMilli())/1000)
	if b, err := os.ReadFile("/proc/self/statm"); err == nil {
		if f := strings.Fields(string(b)); len(f) > 1 {
			virtual, _ := strconv.ParseFloat(f[0], 64)
			m.Value("process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", virtual*float64(os.Getpagesize()))
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
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		m.Value("process_max_fds", "gauge", "Maximum number of open file descriptors.", float64(limit.Cur))
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
	send(w, m)
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
	each(func(c *consumer) {
		if c.container != nil && c.usage.SwapLimit != nil {
			m.Value("container_swap_limit_bytes", "gauge", "Current amount of the container swap limit in bytes. Reported only on non-windows systems", float64(*c.usage.SwapLimit), c.labels()...)
		}
	})
	each(func(c *consumer) {
		if c.container != nil && c.usage.Swap != nil {
			m.Value("container_swap_usage_bytes", "gauge", "Current amount of the container swap usage in bytes. Reported only on non-windows systems", float64(*c.usage.Swap), c.labels()...)
		}
	})
	if node, err := s.cfg.Usage.Usage("/"); err == nil {
		if node.Swap != nil {
			m.Value("node_swap_usage_bytes", "gauge", "Current swap usage of the node in bytes. Reported only on non-windows systems", float64(*node.Swap))
		}
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
	each(func(c *consumer) {
		if c.container == nil && c.usage.Swap != nil {
			m.Value("pod_swap_usage_bytes", "gauge", "Current amount of the pod swap usage in bytes. Reported only on non-windows systems", float64(*c.usage.Swap), c.labels()...)
		}
	})
	m.Value("resource_scrape_error", "gauge", "1 if there was an error while getting container metrics, 0 otherwise", failed)
	m.Value("scrape_error", "gauge", "1 if there was an error while getting container metrics, 0 otherwise", failed)
	send(w, m)
}

func (c *consumer) labels() []string {
	if c.container == nil {
		return []string{"namespace", c.pod.Namespace, "pod", c.pod.Name}
	}
	return []string{"container", c.container.Name, "namespace", c.pod.Namespace, "pod", c.pod.Name}
}
