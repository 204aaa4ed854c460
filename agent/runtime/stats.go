package runtime

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// statsCache remembers the last processor reading of each container and pod, for rates, and disk usage, which costs a
// walk, for a while.
type statsCache struct {
	mu   sync.Mutex
	cpu  map[string]cpuSample
	disk map[string]diskSample
}

type cpuSample struct {
	at    int64
	usage uint64
	rate  uint64
}

type diskSample struct {
	at            time.Time
	bytes, inodes uint64
}

// diskInterval is how old a container's disk usage may be.
const diskInterval = 30 * time.Second

// rateInterval is the shortest time over which a processor rate is computed.
const rateInterval = 100 * time.Millisecond

func (k *statsCache) rate(id string, at int64, usage uint64) *cri.UInt64Value {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.cpu == nil {
		k.cpu = map[string]cpuSample{}
	}
	last, known := k.cpu[id]
	switch {
	case !known || usage < last.usage:
		k.cpu[id] = cpuSample{at: at, usage: usage}
		return nil
	case at-last.at < int64(rateInterval):
		if last.rate == 0 {
			return nil
		}
		return &cri.UInt64Value{Value: last.rate}
	}
	rate := uint64(float64(usage-last.usage) / float64(at-last.at) * 1e9)
	k.cpu[id] = cpuSample{at: at, usage: usage, rate: rate}
	return &cri.UInt64Value{Value: rate}
}

func (k *statsCache) forget(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.cpu, id)
	delete(k.disk, id)
}

// controlGroup reads a cgroup's files directly.
type controlGroup struct {
	path string // as in CRI: absolute within each hierarchy
	v2   bool
}

func (g controlGroup) read(controller, name string) ([]byte, error) {
	if g.v2 {
		return os.ReadFile(filepath.Join("/sys/fs/cgroup", g.path, name))
	}
	return os.ReadFile(filepath.Join("/sys/fs/cgroup", controller, g.path, name))
}

func (g controlGroup) number(controller, name string) (uint64, bool) {
	raw, err := g.read(controller, name)
	if err != nil {
		return 0, false
	}
	value, err := strconv.ParseUint(string(bytes.TrimSpace(raw)), 10, 64)
	return value, err == nil
}

// table reads a file of "key value" lines.
func (g controlGroup) table(controller, name string) map[string]uint64 {
	raw, err := g.read(controller, name)
	if err != nil {
		return nil
	}
	out := map[string]uint64{}
	for line := range strings.Lines(string(raw)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if number, err := strconv.ParseUint(value, 10, 64); err == nil {
			out[key] = number
		}
	}
	return out
}

func (g controlGroup) cpuNanos() (uint64, bool) {
	if g.v2 {
		micros, found := g.table("", "cpu.stat")["usage_usec"]
		return micros * 1000, found
	}
	return g.number("cpuacct", "cpuacct.usage")
}

func (g controlGroup) pressure(name string) *cri.PsiStats {
	if !g.v2 {
		return nil
	}
	raw, err := g.read("", name)
	if err != nil {
		return nil
	}
	out := &cri.PsiStats{}
	for line := range strings.Lines(string(raw)) {
		data := &cri.PsiData{}
		kind := ""
		_, err := fmt.Sscanf(line, "%s avg10=%f avg60=%f avg300=%f total=%d", &kind, &data.Avg10, &data.Avg60, &data.Avg300, &data.Total)
		if err != nil {
			continue
		}
		data.Total *= 1000 // the file has microseconds
		if kind == "full" {
			out.Full = data
		} else {
			out.Some = data
		}
	}
	return out
}

func (s *Service) cpuUsage(key string, g controlGroup) *cri.CpuUsage {
	now := time.Now().UnixNano()
	usage, found := g.cpuNanos()
	if !found {
		return nil
	}
	return &cri.CpuUsage{
		Timestamp: now, UsageCoreNanoSeconds: &cri.UInt64Value{Value: usage},
		UsageNanoCores: s.stats.rate(key, now, usage), Psi: g.pressure("cpu.pressure"),
	}
}

// unlimited is what the kernel shows for "no limit", about: v1 rounds the largest number down to pages.
const unlimited = 1 << 60

// memoryUsage follows the kubelet's definition of the working set: usage without inactive file pages.
func (g controlGroup) memoryUsage() *cri.MemoryUsage {
	usageFile, limitFile, prefix := "memory.usage_in_bytes", "memory.limit_in_bytes", "total_"
	if g.v2 {
		usageFile, limitFile, prefix = "memory.current", "memory.max", ""
	}
	usage, found := g.number("memory", usageFile)
	if !found {
		return nil
	}
	stat := g.table("memory", "memory.stat")
	working := usage - min(usage, stat[prefix+"inactive_file"])
	rss := stat[prefix+"rss"]
	if g.v2 {
		rss = stat["anon"]
	}
	out := &cri.MemoryUsage{
		Timestamp: time.Now().UnixNano(), UsageBytes: &cri.UInt64Value{Value: usage}, WorkingSetBytes: &cri.UInt64Value{Value: working},
		RssBytes: &cri.UInt64Value{Value: rss}, PageFaults: &cri.UInt64Value{Value: stat[prefix+"pgfault"]},
		MajorPageFaults: &cri.UInt64Value{Value: stat[prefix+"pgmajfault"]}, Psi: g.pressure("memory.pressure"),
	}
	if limit, found := g.number("memory", limitFile); found && limit < unlimited {
		out.AvailableBytes = &cri.UInt64Value{Value: limit - min(limit, working)}
	}
	return out
}

func (g controlGroup) swapUsage() *cri.SwapUsage {
	usage, limit, known := uint64(0), uint64(0), false
	var limited bool
	if g.v2 {
		usage, known = g.number("memory", "memory.swap.current")
		limit, limited = g.number("memory", "memory.swap.max")
	} else {
		total, found := g.number("memory", "memory.memsw.usage_in_bytes")
		memory, found2 := g.number("memory", "memory.usage_in_bytes")
		usage, known = total-min(total, memory), found && found2
	}
	if !known {
		return nil
	}
	out := &cri.SwapUsage{Timestamp: time.Now().UnixNano(), SwapUsageBytes: &cri.UInt64Value{Value: usage}}
	if limited {
		out.SwapAvailableBytes = &cri.UInt64Value{Value: limit - min(limit, usage)}
	}
	return out
}

// processes counts threads as the pids controller does, and processes where there is none.
func (g controlGroup) processes() uint64 {
	if count, found := g.number("pids", "pids.current"); found {
		return count
	}
	raw, _ := g.read("memory", "cgroup.procs")
	return uint64(bytes.Count(raw, []byte("\n")))
}

func (s *Service) group(path string) controlGroup {
	return controlGroup{path: path, v2: s.host.CgroupV2}
}

func (s *Service) containerStats(c *container) *cri.ContainerStats {
	c.mu.Lock()
	out := &cri.ContainerStats{Attributes: &cri.ContainerAttributes{
		Id: c.rec.ID, Metadata: c.config.Metadata, Labels: c.config.Labels, Annotations: c.config.Annotations,
	}}
	running := c.rec.State == stateRunning
	c.mu.Unlock()
	if running {
		g := s.group(c.rec.Cgroup)
		out.Cpu, out.Memory, out.Swap = s.cpuUsage(c.rec.ID, g), g.memoryUsage(), g.swapUsage()
		if psi := g.pressure("io.pressure"); psi != nil {
			out.Io = &cri.IoUsage{Timestamp: time.Now().UnixNano(), Psi: psi}
		}
	}
	out.WritableLayer = s.writableLayer(c.rec.ID)
	return out
}

func (s *Service) writableLayer(id string) *cri.FilesystemUsage {
	s.stats.mu.Lock()
	last, known := s.stats.disk[id]
	s.stats.mu.Unlock()
	if !known || time.Since(last.at) > diskInterval || time.Since(last.at) > time.Second && last.inodes < 1000 {
		usage, err := s.cfg.Images.Usage(id)
		if err != nil {
			return nil
		}
		last = diskSample{time.Now(), usage.Bytes, usage.Inodes}
		s.stats.mu.Lock()
		if s.stats.disk == nil {
			s.stats.disk = map[string]diskSample{}
		}
		s.stats.disk[id] = last
		s.stats.mu.Unlock()
	}
	return &cri.FilesystemUsage{
		Timestamp: last.at.UnixNano(), FsId: &cri.FilesystemIdentifier{Mountpoint: s.cfg.DataDir},
		UsedBytes: &cri.UInt64Value{Value: last.bytes}, InodesUsed: &cri.UInt64Value{Value: last.inodes},
	}
}

// ContainerStats reports one container.
func (s *Service) ContainerStats(_ context.Context, req *cri.ContainerStatsRequest) (*cri.ContainerStatsResponse, error) {
	c, err := s.container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	return &cri.ContainerStatsResponse{Stats: s.containerStats(c)}, nil
}

func (s *Service) listContainerStats(filter *cri.ContainerStatsFilter) []*cri.ContainerStats {
	var out []*cri.ContainerStats
	for _, c := range s.allContainers() {
		if c.state() != stateRunning || filter.GetId() != "" && !strings.HasPrefix(c.rec.ID, filter.Id) ||
			filter.GetPodSandboxId() != "" && filter.PodSandboxId != c.rec.SandboxID || !matches(filter.GetLabelSelector(), c.config.Labels) {
			continue
		}
		out = append(out, s.containerStats(c))
	}
	return out
}

// ListContainerStats reports running containers.
func (s *Service) ListContainerStats(_ context.Context, req *cri.ListContainerStatsRequest) (*cri.ListContainerStatsResponse, error) {
	return &cri.ListContainerStatsResponse{Stats: s.listContainerStats(req.GetFilter())}, nil
}

// StreamContainerStats reports in messages of bounded size.
func (s *Service) StreamContainerStats(req *cri.StreamContainerStatsRequest, stream cri.RuntimeService_StreamContainerStatsServer) error {
	for page := range slices.Chunk(s.listContainerStats(req.GetFilter()), streamPage) {
		if err := stream.Send(&cri.StreamContainerStatsResponse{ContainerStats: page}); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) podStats(sb *sandbox) *cri.PodSandboxStats {
	out := &cri.PodSandboxStats{
		Attributes: &cri.PodSandboxAttributes{Id: sb.rec.ID, Metadata: sb.config.Metadata, Labels: sb.config.Labels, Annotations: sb.config.Annotations},
		Linux:      &cri.LinuxPodSandboxStats{},
	}
	for _, c := range s.containersOf(sb.rec.ID) {
		if c.state() == stateRunning {
			out.Linux.Containers = append(out.Linux.Containers, s.containerStats(c))
		}
	}
	parent := sb.config.GetLinux().GetCgroupParent()
	if parent == "" {
		return out
	}
	g := s.group(parent)
	out.Linux.Cpu, out.Linux.Memory = s.cpuUsage(sb.rec.ID, g), g.memoryUsage()
	if psi := g.pressure("io.pressure"); psi != nil {
		out.Linux.Io = &cri.IoUsage{Timestamp: time.Now().UnixNano(), Psi: psi}
	}
	now := time.Now().UnixNano()
	out.Linux.Process = &cri.ProcessUsage{Timestamp: now, ProcessCount: &cri.UInt64Value{Value: g.processes()}}
	if sb.rec.NetPath != "" {
		out.Linux.Network = interfaces(sb.rec.NetPath)
	}
	return out
}

// PodSandboxStats reports one pod.
func (s *Service) PodSandboxStats(_ context.Context, req *cri.PodSandboxStatsRequest) (*cri.PodSandboxStatsResponse, error) {
	sb, err := s.sandbox(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	return &cri.PodSandboxStatsResponse{Stats: s.podStats(sb)}, nil
}

func (s *Service) listPodStats(filter *cri.PodSandboxStatsFilter) []*cri.PodSandboxStats {
	s.mu.RLock()
	all := make([]*sandbox, 0, len(s.sandboxes))
	for _, sb := range s.sandboxes {
		all = append(all, sb)
	}
	s.mu.RUnlock()
	var out []*cri.PodSandboxStats
	for _, sb := range all {
		sb.mu.Lock()
		ready := sb.rec.Ready
		sb.mu.Unlock()
		if !ready || filter.GetId() != "" && !strings.HasPrefix(sb.rec.ID, filter.Id) || !matches(filter.GetLabelSelector(), sb.config.Labels) {
			continue
		}
		out = append(out, s.podStats(sb))
	}
	return out
}

// ListPodSandboxStats reports running pods.
func (s *Service) ListPodSandboxStats(_ context.Context, req *cri.ListPodSandboxStatsRequest) (*cri.ListPodSandboxStatsResponse, error) {
	return &cri.ListPodSandboxStatsResponse{Stats: s.listPodStats(req.GetFilter())}, nil
}

// StreamPodSandboxStats reports in messages of bounded size.
func (s *Service) StreamPodSandboxStats(req *cri.StreamPodSandboxStatsRequest, stream cri.RuntimeService_StreamPodSandboxStatsServer) error {
	for page := range slices.Chunk(s.listPodStats(req.GetFilter()), streamPage) {
		if err := stream.Send(&cri.StreamPodSandboxStatsResponse{PodSandboxStats: page}); err != nil {
			return err
		}
	}
	return nil
}

// interfaces reads /proc/net/dev as a thread inside the namespace sees it.
func interfaces(netns string) *cri.NetworkUsage {
	result := make(chan []byte, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with this goroutine
		fd, err := unix.Open(netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			result <- nil
			return
		}
		defer unix.Close(fd)
		if unix.Setns(fd, unix.CLONE_NEWNET) != nil {
			result <- nil
			return
		}
		raw, _ := os.ReadFile("/proc/thread-self/net/dev")
		result <- raw
	}()
	raw := <-result
	if raw == nil {
		return nil
	}
	out := &cri.NetworkUsage{Timestamp: time.Now().UnixNano()}
	lines := bufio.NewScanner(bytes.NewReader(raw))
	for lines.Scan() {
		name, counters, found := strings.Cut(lines.Text(), ":")
		fields := strings.Fields(counters)
		name = strings.TrimSpace(name)
		if !found || len(fields) < 11 || name == "lo" {
			continue
		}
		value := func(i int) *cri.UInt64Value {
			number, _ := strconv.ParseUint(fields[i], 10, 64)
			return &cri.UInt64Value{Value: number}
		}
		// proc(5): bytes packets errs drop fifo frame compressed multicast, for both directions.
		usage := &cri.NetworkInterfaceUsage{Name: name, RxBytes: value(0), RxErrors: value(2), TxBytes: value(8), TxErrors: value(10)}
		if name == podInterface {
			out.DefaultInterface = usage
		} else {
			out.Interfaces = append(out.Interfaces, usage)
		}
	}
	return out
}
