package fakecri

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var (
	_ runtimeapi.RuntimeServiceServer = (*Runtime)(nil)
	_ runtimeapi.ImageServiceServer   = (*Runtime)(nil)
)

func clone(s *runtimeapi.ContainerStatus) *runtimeapi.ContainerStatus {
	return proto.Clone(s).(*runtimeapi.ContainerStatus)
}

func cloneSandbox(s *runtimeapi.PodSandboxStatus) *runtimeapi.PodSandboxStatus {
	return proto.Clone(s).(*runtimeapi.PodSandboxStatus)
}

// Version answers as a runtime named fake.
func (r *Runtime) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{Version: "0.1.0", RuntimeName: "fake", RuntimeVersion: "1", RuntimeApiVersion: "v1"}, nil
}

// Status says that all is ready.
func (r *Runtime) Status(context.Context, *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	return &runtimeapi.StatusResponse{Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
		{Type: runtimeapi.RuntimeReady, Status: true}, {Type: runtimeapi.NetworkReady, Status: true},
	}}, RuntimeHandlers: []*runtimeapi.RuntimeHandler{{Features: r.Features}}}, nil
}

// RunPodSandbox makes a ready sandbox with an address.
func (r *Runtime) RunPodSandbox(_ context.Context, q *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	if r.OnSandbox != nil {
		if err := r.OnSandbox(q.Config); err != nil {
			return nil, err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next++
	s := &runtimeapi.PodSandboxStatus{
		Id: id("s", r.next), Metadata: q.Config.Metadata, CreatedAt: time.Now().UnixNano(), Labels: q.Config.Labels, Annotations: q.Config.Annotations,
		Network: &runtimeapi.PodSandboxNetworkStatus{Ip: "10.42.0.9"},
	}
	r.sandboxes[s.Id] = s
	r.calls = append(r.calls, "RunPodSandbox")
	r.emit(s.Id, s.Id, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT)
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: s.Id}, nil
}

// StopPodSandbox stops the sandbox and its containers.
func (r *Runtime) StopPodSandbox(_ context.Context, q *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.sandboxes[q.PodSandboxId]; s != nil && s.State == runtimeapi.PodSandboxState_SANDBOX_READY {
		for cid, c := range r.containers {
			if c.sandbox == s.Id {
				r.exit(cid, 137, "")
			}
		}
		s.State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
		r.calls = append(r.calls, "StopPodSandbox")
		r.emit(s.Id, s.Id, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
	}
	return &runtimeapi.StopPodSandboxResponse{}, nil
}

// RemovePodSandbox removes the sandbox and its containers.
func (r *Runtime) RemovePodSandbox(_ context.Context, q *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.sandboxes[q.PodSandboxId]; s != nil {
		for cid, c := range r.containers {
			if c.sandbox == s.Id {
				r.exit(cid, 137, "")
				delete(r.containers, cid)
				r.emit(s.Id, cid, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT)
			}
		}
		delete(r.sandboxes, s.Id)
		r.calls = append(r.calls, "RemovePodSandbox")
		r.emit("", q.PodSandboxId, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT)
	}
	return &runtimeapi.RemovePodSandboxResponse{}, nil
}

// PodSandboxStatus answers with the containers' statuses too.
func (r *Runtime) PodSandboxStatus(_ context.Context, q *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sandboxes[q.PodSandboxId]
	if s == nil {
		return nil, notFound(q.PodSandboxId)
	}
	return &runtimeapi.PodSandboxStatusResponse{Status: cloneSandbox(s), ContainersStatuses: r.statuses(s.Id)}, nil
}

// ListPodSandbox lists all, without filters.
func (r *Runtime) ListPodSandbox(context.Context, *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &runtimeapi.ListPodSandboxResponse{}
	for _, s := range r.sandboxes {
		out.Items = append(out.Items, &runtimeapi.PodSandbox{Id: s.Id, Metadata: s.Metadata, State: s.State, CreatedAt: s.CreatedAt, Labels: s.Labels})
	}
	return out, nil
}

// CreateContainer makes a container in a ready sandbox.
func (r *Runtime) CreateContainer(_ context.Context, q *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.sandboxes[q.PodSandboxId]; s == nil || s.State != runtimeapi.PodSandboxState_SANDBOX_READY {
		return nil, notFound(q.PodSandboxId)
	}
	r.next++
	c := &ctr{sandbox: q.PodSandboxId, config: q.Config, exited: make(chan struct{}), ContainerStatus: &runtimeapi.ContainerStatus{
		Id: id("c", r.next), Metadata: q.Config.Metadata, CreatedAt: time.Now().UnixNano(), Image: q.Config.Image, ImageRef: q.Config.Image.Image,
		ImageId: q.Config.Image.Image, Labels: q.Config.Labels, Annotations: q.Config.Annotations, Mounts: q.Config.Mounts, LogPath: q.Config.LogPath,
	}}
	r.containers[c.Id] = c
	r.calls = append(r.calls, "CreateContainer "+q.Config.Metadata.Name)
	r.emit(c.sandbox, c.Id, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT)
	return &runtimeapi.CreateContainerResponse{ContainerId: c.Id}, nil
}

// StartContainer starts it by its script.
func (r *Runtime) StartContainer(_ context.Context, q *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[q.ContainerId]
	if c == nil {
		return nil, notFound(q.ContainerId)
	}
	if r.OnStart != nil {
		c.script = r.OnStart(c.config)
	}
	r.calls = append(r.calls, "StartContainer "+c.Metadata.Name)
	if c.script.StartErr != nil {
		return nil, c.script.StartErr
	}
	c.State, c.StartedAt = runtimeapi.ContainerState_CONTAINER_RUNNING, time.Now().UnixNano()
	r.emit(c.sandbox, c.Id, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT)
	if c.script.Exits {
		time.AfterFunc(c.script.After, func() { r.Exit(c.Id, c.script.Code, c.script.Reason) })
	}
	return &runtimeapi.StartContainerResponse{}, nil
}

// UpdateContainerResources notes the new memory limit among the calls.
func (r *Runtime) UpdateContainerResources(_ context.Context, q *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[q.ContainerId]
	if c == nil {
		return nil, notFound(q.ContainerId)
	}
	r.calls = append(r.calls, fmt.Sprintf("UpdateContainerResources %s %d", c.Metadata.Name, q.GetLinux().GetMemoryLimitInBytes()))
	return &runtimeapi.UpdateContainerResourcesResponse{}, nil
}

// PodSandboxStats answers that the pod uses Used bytes.
func (r *Runtime) PodSandboxStats(context.Context, *runtimeapi.PodSandboxStatsRequest) (*runtimeapi.PodSandboxStatsResponse, error) {
	return &runtimeapi.PodSandboxStatsResponse{Stats: &runtimeapi.PodSandboxStats{Linux: &runtimeapi.LinuxPodSandboxStats{
		Memory: &runtimeapi.MemoryUsage{UsageBytes: &runtimeapi.UInt64Value{Value: r.Used}},
	}}}, nil
}

// StopContainer ends the container: at once, or after the timeout when its script is deaf.
func (r *Runtime) StopContainer(ctx context.Context, q *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	r.mu.Lock()
	c := r.containers[q.ContainerId]
	if c == nil {
		r.mu.Unlock()
		return &runtimeapi.StopContainerResponse{}, nil
	}
	r.calls = append(r.calls, "StopContainer "+c.Metadata.Name)
	code, deaf, exited := int32(143), c.script.Deaf, c.exited
	if c.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		deaf = false
	}
	r.mu.Unlock()
	if deaf {
		select {
		case <-time.After(time.Duration(q.Timeout) * time.Second):
			code = 137
		case <-exited:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	r.Exit(q.ContainerId, code, "")
	return &runtimeapi.StopContainerResponse{}, nil
}

// RemoveContainer removes it; gone is success.
func (r *Runtime) RemoveContainer(_ context.Context, q *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.containers[q.ContainerId]; c != nil {
		r.exit(c.Id, 137, "")
		delete(r.containers, c.Id)
		r.calls = append(r.calls, "RemoveContainer "+c.Metadata.Name)
		r.emit(c.sandbox, c.Id, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT)
	}
	return &runtimeapi.RemoveContainerResponse{}, nil
}

// ContainerStatus answers the status of one container.
func (r *Runtime) ContainerStatus(_ context.Context, q *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[q.ContainerId]
	if c == nil {
		return nil, notFound(q.ContainerId)
	}
	return &runtimeapi.ContainerStatusResponse{Status: clone(c.ContainerStatus)}, nil
}

// ListContainers lists all, without filters.
func (r *Runtime) ListContainers(context.Context, *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &runtimeapi.ListContainersResponse{}
	for _, c := range r.containers {
		out.Containers = append(out.Containers, &runtimeapi.Container{
			Id: c.Id, PodSandboxId: c.sandbox, Metadata: c.Metadata, Image: c.Image, State: c.State, CreatedAt: c.CreatedAt, Labels: c.Labels,
		})
	}
	return out, nil
}

// ExecSync answers by OnExec.
func (r *Runtime) ExecSync(_ context.Context, q *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	if r.OnExec == nil {
		return &runtimeapi.ExecSyncResponse{}, nil
	}
	out, code, err := r.OnExec(q.ContainerId, q.Cmd)
	return &runtimeapi.ExecSyncResponse{Stdout: []byte(out), ExitCode: code}, err
}

// GetContainerEvents streams the events from now on.
func (r *Runtime) GetContainerEvents(_ *runtimeapi.GetEventsRequest, s grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	ch := make(chan *runtimeapi.ContainerEventResponse, 1024)
	r.mu.Lock()
	r.watchers[ch] = true
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.watchers, ch)
		r.mu.Unlock()
	}()
	if err := s.SendHeader(nil); err != nil {
		return err
	}
	for {
		select {
		case <-s.Context().Done():
			return nil
		case ev := <-ch:
			if err := s.Send(ev); err != nil {
				return err
			}
		}
	}
}

// ImageStatus answers nil for an image that isn't there.
func (r *Runtime) ImageStatus(_ context.Context, q *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &runtimeapi.ImageStatusResponse{Image: r.images[q.Image.Image]}, nil
}

// PullImage adds the image, unless OnPull refuses.
func (r *Runtime) PullImage(_ context.Context, q *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	if r.OnPull != nil {
		if err := r.OnPull(q); err != nil {
			return nil, err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.images[q.Image.Image] = image(q.Image.Image)
	r.calls = append(r.calls, "PullImage "+q.Image.Image)
	return &runtimeapi.PullImageResponse{ImageRef: q.Image.Image}, nil
}

// ListImages lists all.
func (r *Runtime) ListImages(context.Context, *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &runtimeapi.ListImagesResponse{}
	for _, i := range r.images {
		out.Images = append(out.Images, i)
	}
	return out, nil
}

// RemoveImage removes it; gone is success.
func (r *Runtime) RemoveImage(_ context.Context, q *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for ref, i := range r.images {
		if ref == q.Image.Image || i.Id == q.Image.Image {
			delete(r.images, ref)
			r.calls = append(r.calls, "RemoveImage "+ref)
		}
	}
	return &runtimeapi.RemoveImageResponse{}, nil
}
