package runtime

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/runtime/spec"
)

// ContainerStatus reports one container.
func (s *Service) ContainerStatus(_ context.Context, req *cri.ContainerStatusRequest) (*cri.ContainerStatusResponse, error) {
	c, err := s.container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	out := &cri.ContainerStatusResponse{Status: c.status()}
	if req.GetVerbose() {
		c.mu.Lock()
		out.Info = map[string]string{"info": fmt.Sprintf(`{"sandboxID":%q,"pid":%d,"cgroup":%q}`, c.rec.SandboxID, c.rec.Pid, c.rec.Cgroup)}
		c.mu.Unlock()
	}
	return out, nil
}

// ListContainers lists containers, the newest first.
func (s *Service) ListContainers(_ context.Context, req *cri.ListContainersRequest) (*cri.ListContainersResponse, error) {
	return &cri.ListContainersResponse{Containers: s.listContainers(req.GetFilter())}, nil
}

// StreamContainers lists in messages of bounded size.
func (s *Service) StreamContainers(req *cri.StreamContainersRequest, stream cri.RuntimeService_StreamContainersServer) error {
	for page := range slices.Chunk(s.listContainers(req.GetFilter()), streamPage) {
		if err := stream.Send(&cri.StreamContainersResponse{Containers: page}); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) allContainers() []*container {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := make([]*container, 0, len(s.containers))
	for _, c := range s.containers {
		all = append(all, c)
	}
	return all
}

func (s *Service) listContainers(filter *cri.ContainerFilter) []*cri.Container {
	var items []*cri.Container
	for _, c := range s.allContainers() {
		c.mu.Lock()
		item := &cri.Container{
			Id: c.rec.ID, PodSandboxId: c.rec.SandboxID, Metadata: c.config.Metadata, Image: c.config.Image,
			ImageRef: c.rec.ImageRef, ImageId: c.rec.ImageID, State: c.criState(), CreatedAt: c.rec.CreatedAt,
			Labels: c.config.Labels, Annotations: c.config.Annotations,
		}
		c.mu.Unlock()
		if !strings.HasPrefix(item.Id, filter.GetId()) ||
			!strings.HasPrefix(item.PodSandboxId, filter.GetPodSandboxId()) ||
			filter.GetState() != nil && filter.State.State != item.State || !matches(filter.GetLabelSelector(), item.Labels) {
			continue
		}
		items = append(items, item)
	}
	slices.SortFunc(items, func(a, b *cri.Container) int { return int(b.CreatedAt - a.CreatedAt) })
	return items
}

// ReopenContainerLog opens the log's path anew, after the kubelet moved the file.
func (s *Service) ReopenContainerLog(_ context.Context, req *cri.ReopenContainerLogRequest) (*cri.ReopenContainerLogResponse, error) {
	c, err := s.container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	pump, running := c.pump, c.rec.State == stateRunning
	c.mu.Unlock()
	if !running || pump == nil {
		return nil, fmt.Errorf("container %q is not running: %w", c.rec.ID, errState)
	}
	return &cri.ReopenContainerLogResponse{}, pump.Reopen()
}

// UpdateContainerResources changes a container's limits in its cgroup, and in its record for a later start.
func (s *Service) UpdateContainerResources(_ context.Context, req *cri.UpdateContainerResourcesRequest) (*cri.UpdateContainerResourcesResponse, error) {
	c, err := s.container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	if req.GetLinux() == nil {
		return &cri.UpdateContainerResourcesResponse{}, nil
	}
	c.op.Lock()
	defer c.op.Unlock()
	c.mu.Lock()
	merged := mergeResources(c.resources(), req.Linux)
	st := c.rec.State
	c.mu.Unlock()
	switch st {
	case stateExited:
		return nil, fmt.Errorf("container %q has exited: %w", c.rec.ID, errState)
	case stateRunning:
		if err := s.setResources(c.rec.Cgroup, merged); err != nil {
			return nil, fmt.Errorf("update resources of container %q: %w", c.rec.ID, err)
		}
	}
	raw, err := proto.Marshal(merged)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.rec.Resources = raw
	asked := st == stateCreated && c.config.Linux != nil
	if asked {
		c.config.Linux.Resources = merged
	}
	c.mu.Unlock()
	return &cri.UpdateContainerResourcesResponse{}, s.saveContainerWith(c, asked)
}

// mergeResources lays an update over what is in force: zero and empty fields leave it as it is.
func mergeResources(old, update *cri.LinuxContainerResources) *cri.LinuxContainerResources {
	if old == nil {
		return proto.CloneOf(update)
	}
	out := proto.CloneOf(old)
	for _, f := range []struct {
		to   *int64
		from int64
	}{
		{&out.CpuPeriod, update.CpuPeriod},
		{&out.CpuQuota, update.CpuQuota},
		{&out.CpuShares, update.CpuShares},
		{&out.MemoryLimitInBytes, update.MemoryLimitInBytes},
		{&out.MemorySwapLimitInBytes, update.MemorySwapLimitInBytes},
		{&out.OomScoreAdj, update.OomScoreAdj},
	} {
		if f.from != 0 {
			*f.to = f.from
		}
	}
	if update.CpusetCpus != "" {
		out.CpusetCpus = update.CpusetCpus
	}
	if update.CpusetMems != "" {
		out.CpusetMems = update.CpusetMems
	}
	if len(update.HugepageLimits) > 0 {
		out.HugepageLimits = update.HugepageLimits
	}
	for key, value := range update.Unified {
		if out.Unified == nil {
			out.Unified = map[string]string{}
		}
		out.Unified[key] = value
	}
	return out
}

func (s *Service) setResources(cgroup string, r *cri.LinuxContainerResources) error {
	limits := spec.Resources(r, s.host)
	if r.MemoryLimitInBytes < 0 && s.host.Controllers["memory"] { // "no limit" is a limit of -1
		limits.Memory = &specs.LinuxMemory{Limit: new(int64(-1))}
	}
	converted, err := specconv.CreateCgroupConfig(&specconv.CreateOpts{
		CgroupName: "update", Spec: &specs.Spec{Linux: &specs.Linux{CgroupsPath: cgroup, Resources: limits}},
	}, nil)
	if err != nil {
		return err
	}
	converted.Resources.SkipDevices = true
	m, err := s.cgroup(cgroup)
	if err != nil {
		return err
	}
	return m.Set(converted.Resources)
}
