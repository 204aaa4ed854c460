package runtime

import (
	"context"
	"slices"
	"strings"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/runtime/network"
	"github.com/mote-edge/mote/agent/runtime/stats"
)

func (s *Service) group(path string) stats.Group {
	return stats.Group{Path: path, V2: s.host.CgroupV2}
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
		out.Cpu, out.Memory, out.Swap = s.stats.CPU(c.rec.ID, g), g.Memory(), g.Swap()
		if psi := g.Pressure("io.pressure"); psi != nil {
			out.Io = &cri.IoUsage{Timestamp: time.Now().UnixNano(), Psi: psi}
		}
	}
	out.WritableLayer = s.writableLayer(c.rec.ID)
	return out
}

func (s *Service) writableLayer(id string) *cri.FilesystemUsage {
	disk, err := s.stats.Disk(id, func() (stats.Disk, error) {
		usage, err := s.cfg.Images.Usage(id)
		return stats.Disk{At: time.Now(), Bytes: usage.Bytes, Inodes: usage.Inodes}, err
	})
	if err != nil {
		return nil
	}
	return &cri.FilesystemUsage{
		Timestamp: disk.At.UnixNano(), FsId: &cri.FilesystemIdentifier{Mountpoint: s.cfg.DataDir},
		UsedBytes: &cri.UInt64Value{Value: disk.Bytes}, InodesUsed: &cri.UInt64Value{Value: disk.Inodes},
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
			!strings.HasPrefix(c.rec.SandboxID, filter.GetPodSandboxId()) || !matches(filter.GetLabelSelector(), c.config.Labels) {
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
	out.Linux.Cpu, out.Linux.Memory = s.stats.CPU(sb.rec.ID, g), g.Memory()
	if psi := g.Pressure("io.pressure"); psi != nil {
		out.Linux.Io = &cri.IoUsage{Timestamp: time.Now().UnixNano(), Psi: psi}
	}
	now := time.Now().UnixNano()
	out.Linux.Process = &cri.ProcessUsage{Timestamp: now, ProcessCount: &cri.UInt64Value{Value: g.Processes()}}
	if sb.rec.NetPath != "" {
		out.Linux.Network = stats.Interfaces(sb.rec.NetPath, network.Interface)
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
