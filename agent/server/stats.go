package server

import (
	"maps"
	"net/http"
	"path"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/mote-edge/mote/agent/cgroup"
	"github.com/mote-edge/mote/agent/cri"
)

// consumer is a running pod, or one of its running containers, with what it has consumed.
type consumer struct {
	pod       *corev1.Pod
	container *cri.Container // nil: the pod as a whole
	path      string
	usage     cgroup.Usage
	detail    cgroup.Detail // for those who ask for it
	err       error
}

// running reads the counters of everything that runs: each pod, followed by its containers.
func (s *Server) running() []consumer {
	var out []consumer
	add := func(c consumer) {
		c.usage, c.err = s.cfg.Usage.Usage(c.path)
		out = append(out, c)
	}
	for _, pod := range s.cfg.Pods.Pods() {
		observed := s.cfg.Pods.Cache().Get(pod.UID)
		if sb := observed.Sandbox(); sb == nil || sb.State != cri.Running {
			continue
		}
		at := s.cfg.Usage.PodPath(pod)
		add(consumer{pod: pod, path: at})
		for _, c := range observed.Containers {
			if c.State == cri.Running {
				add(consumer{pod: pod, container: c, path: path.Join(at, c.ID)})
			}
		}
	}
	return out
}

// samples remembers the last counters, so that a request can tell a rate since the one before.
type samples struct {
	mu   sync.Mutex
	last map[string]cgroup.Usage
}

// rate is the CPU use since the last call for a path, in billionths of a core; nil at the first.
func (s *samples) rate(path string, now cgroup.Usage) *uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil {
		s.last = map[string]cgroup.Usage{}
	}
	before, ok := s.last[path]
	if ok && now.Time.Sub(before.Time) < time.Second {
		return nil // too short to say much; the older sample stays
	}
	s.last[path] = now
	if !ok || now.CPUNanos < before.CPUNanos {
		return nil
	}
	r := uint64(float64(now.CPUNanos-before.CPUNanos) / now.Time.Sub(before.Time).Seconds())
	return &r
}

// keep forgets the paths that are gone.
func (s *samples) keep(paths map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.last {
		if !paths[p] {
			delete(s.last, p)
		}
	}
}

func (s *Server) summary(w http.ResponseWriter, r *http.Request) {
	brief := isOn(r.URL.Query().Get("only_cpu_and_memory"))
	out := stats.Summary{Node: stats.NodeStats{NodeName: s.cfg.NodeName, StartTime: metav1.NewTime(s.started)}, Pods: []stats.PodStats{}}
	paths := map[string]bool{"/": true}
	if u, err := s.cfg.Usage.Usage("/"); err == nil {
		out.Node.CPU, out.Node.Memory, out.Node.Swap = s.cpu("/", u), memory(u), swap(u)
		out.Node.Rlimit = rlimit()
	}
	out.Node.IO = s.pressure("/", out.Node.CPU, out.Node.Memory)
	for _, name := range slices.Sorted(maps.Keys(s.cfg.System)) {
		at := s.cfg.System[name]
		paths[at] = true
		if u, err := s.cfg.Usage.Usage(at); err == nil {
			c := stats.ContainerStats{Name: name, StartTime: metav1.NewTime(s.started), CPU: s.cpu(at, u), Memory: memory(u), Swap: swap(u)}
			c.IO = s.pressure(at, c.CPU, c.Memory)
			out.Node.SystemContainers = append(out.Node.SystemContainers, c)
		}
	}
	var sandboxes map[string]*runtimeapi.PodSandboxStats
	if !brief {
		out.Node.Fs = fileSystem(s.cfg.DataDir)
		out.Node.Network = nodeNetwork()
		out.Node.Runtime = &stats.RuntimeStats{ImageFs: out.Node.Fs, ContainerFs: out.Node.Fs}
		sandboxes = s.sandboxes(r)
	}
	for _, c := range s.running() {
		if c.err != nil {
			continue // it ended between the list and the look
		}
		paths[c.path] = true
		if c.container == nil {
			p := stats.PodStats{
				PodRef: stats.PodReference{Name: c.pod.Name, Namespace: c.pod.Namespace, UID: string(c.pod.UID)},
				CPU:    s.cpu(c.path, c.usage), Memory: memory(c.usage), ProcessStats: &stats.ProcessStats{ProcessCount: &c.usage.PIDs},
				Containers: []stats.ContainerStats{}, Swap: swap(c.usage),
			}
			p.IO = s.pressure(c.path, p.CPU, p.Memory)
			if c.pod.Status.StartTime != nil {
				p.StartTime = *c.pod.Status.StartTime
			}
			if !brief {
				p.Network = network(sandboxes[string(c.pod.UID)])
				if s.cfg.Volumes != nil {
					p.VolumeStats = s.cfg.Volumes(c.pod)
				}
				p.EphemeralStorage = ephemeral(out.Node.Fs, p.VolumeStats, c.pod)
			}
			out.Pods = append(out.Pods, p)
			continue
		}
		pod := &out.Pods[len(out.Pods)-1]
		if pod.PodRef.UID != string(c.pod.UID) {
			continue
		}
		k := stats.ContainerStats{
			Name: c.container.Name, StartTime: metav1.NewTime(time.Unix(0, c.container.StartedAt)), CPU: s.cpu(c.path, c.usage), Memory: memory(c.usage),
			Swap: swap(c.usage),
		}
		k.IO = s.pressure(c.path, k.CPU, k.Memory)
		if !brief {
			s.files(&k, &c, out.Node.Fs, sandboxes[string(c.pod.UID)])
			add(pod.EphemeralStorage, k.Rootfs)
			add(pod.EphemeralStorage, k.Logs)
		}
		pod.Containers = append(pod.Containers, k)
	}
	s.samples.keep(paths)
	writeJSON(w, out)
}

func (s *Server) cpu(path string, u cgroup.Usage) *stats.CPUStats {
	return &stats.CPUStats{Time: metav1.NewTime(u.Time), UsageCoreNanoSeconds: &u.CPUNanos, UsageNanoCores: s.samples.rate(path, u)}
}

func memory(u cgroup.Usage) *stats.MemoryStats {
	m := &stats.MemoryStats{
		Time: metav1.NewTime(u.Time), UsageBytes: &u.Memory, WorkingSetBytes: &u.WorkingSet, RSSBytes: &u.RSS, PageFaults: &u.Faults, MajorPageFaults: &u.MajFaults,
	}
	if u.Limit < 1<<62 && u.Limit > u.WorkingSet {
		free := u.Limit - u.WorkingSet
		m.AvailableBytes = &free
	}
	return m
}

// swap is nil where the kernel doesn't account it.
func swap(u cgroup.Usage) *stats.SwapStats {
	if u.Swap == nil {
		return nil
	}
	out := &stats.SwapStats{Time: metav1.NewTime(u.Time), SwapUsageBytes: u.Swap}
	if u.SwapLimit != nil {
		free := *u.SwapLimit - min(*u.Swap, *u.SwapLimit)
		out.SwapAvailableBytes = &free
	}
	return out
}

// pressure adds what waits for CPU time and memory, and returns what waits for devices.
func (s *Server) pressure(path string, cpu *stats.CPUStats, memory *stats.MemoryStats) *stats.IOStats {
	if s.cfg.Detail == nil {
		return nil
	}
	d := s.cfg.Detail(path)
	if cpu != nil {
		cpu.PSI = psi(d.CPUPressure)
	}
	if memory != nil {
		memory.PSI = psi(d.MemoryPressure)
	}
	if d.IOPressure == nil {
		return nil
	}
	return &stats.IOStats{Time: metav1.Now(), PSI: psi(d.IOPressure)}
}

func psi(p *cgroup.Pressure) *stats.PSIStats {
	if p == nil {
		return nil
	}
	data := func(s cgroup.Stall) stats.PSIData {
		return stats.PSIData{Total: uint64(s.Total.Nanoseconds()), Avg10: s.Avg10, Avg60: s.Avg60, Avg300: s.Avg300}
	}
	return &stats.PSIStats{Full: data(p.Full), Some: data(p.Some)}
}

func fileSystem(dir string) *stats.FsStats {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return nil
	}
	size := uint64(st.Bsize)
	capacity, free, used := st.Blocks*size, st.Bavail*size, (st.Blocks-st.Bfree)*size
	inodes, inodesFree := st.Files, st.Ffree
	inodesUsed := inodes - inodesFree
	return &stats.FsStats{
		Time: metav1.Now(), CapacityBytes: &capacity, AvailableBytes: &free, UsedBytes: &used, Inodes: &inodes, InodesFree: &inodesFree, InodesUsed: &inodesUsed,
	}
}
