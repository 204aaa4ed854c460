package runtime

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (sb *sandbox) state() cri.PodSandboxState {
	if sb.rec.Ready {
		return cri.PodSandboxState_SANDBOX_READY
	}
	return cri.PodSandboxState_SANDBOX_NOTREADY
}

// status is the sandbox as CRI shows it.
func (sb *sandbox) status() *cri.PodSandboxStatus {
	sb.mu.Lock()
	defer sb.mu.Unlock()
	out := &cri.PodSandboxStatus{
		Id: sb.rec.ID, Metadata: sb.config.Metadata, State: sb.state(), CreatedAt: sb.rec.CreatedAt,
		Network: &cri.PodSandboxNetworkStatus{}, Labels: sb.config.Labels, Annotations: sb.config.Annotations,
		RuntimeHandler: sb.rec.Handler,
		Linux:          &cri.LinuxPodSandboxStatus{Namespaces: &cri.Namespace{Options: nsOptions(sb.config)}},
	}
	if sb.rec.Ready && len(sb.rec.IPs) > 0 {
		out.Network.Ip = sb.rec.IPs[0]
		for _, ip := range sb.rec.IPs[1:] {
			out.Network.AdditionalIps = append(out.Network.AdditionalIps, &cri.PodIP{Ip: ip})
		}
	}
	return out
}

// PodSandboxStatus reports one sandbox with its containers.
func (s *Service) PodSandboxStatus(_ context.Context, req *cri.PodSandboxStatusRequest) (*cri.PodSandboxStatusResponse, error) {
	sb, err := s.sandbox(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	out := &cri.PodSandboxStatusResponse{Status: sb.status(), Timestamp: time.Now().UnixNano()}
	for _, c := range s.containersOf(sb.rec.ID) {
		out.ContainersStatuses = append(out.ContainersStatuses, c.status())
	}
	if req.GetVerbose() {
		sb.mu.Lock()
		out.Info = map[string]string{"info": fmt.Sprintf(`{"netns":%q,"pid":%d,"runtimeType":"mote"}`, sb.rec.NetPath, sb.rec.InitPid)}
		sb.mu.Unlock()
	}
	return out, nil
}

// ListPodSandbox lists sandboxes, the newest first.
func (s *Service) ListPodSandbox(_ context.Context, req *cri.ListPodSandboxRequest) (*cri.ListPodSandboxResponse, error) {
	return &cri.ListPodSandboxResponse{Items: s.listSandboxes(req.GetFilter())}, nil
}

func (s *Service) listSandboxes(filter *cri.PodSandboxFilter) []*cri.PodSandbox {
	s.mu.RLock()
	all := make([]*sandbox, 0, len(s.sandboxes))
	for _, sb := range s.sandboxes {
		all = append(all, sb)
	}
	s.mu.RUnlock()
	items := make([]*cri.PodSandbox, 0, len(all))
	for _, sb := range all {
		sb.mu.Lock()
		item := &cri.PodSandbox{
			Id: sb.rec.ID, Metadata: sb.config.Metadata, State: sb.state(), CreatedAt: sb.rec.CreatedAt,
			Labels: sb.config.Labels, Annotations: sb.config.Annotations, RuntimeHandler: sb.rec.Handler,
		}
		sb.mu.Unlock()
		if filter.GetId() != "" && !strings.HasPrefix(item.Id, filter.Id) ||
			filter.GetState() != nil && filter.State.State != item.State || !matches(filter.GetLabelSelector(), item.Labels) {
			continue
		}
		items = append(items, item)
	}
	slices.SortFunc(items, func(a, b *cri.PodSandbox) int { return int(b.CreatedAt - a.CreatedAt) })
	return items
}

func matches(selector, labels map[string]string) bool {
	for key, value := range selector {
		if labels[key] != value {
			return false
		}
	}
	return true
}

// StreamPodSandboxes lists in messages of bounded size.
func (s *Service) StreamPodSandboxes(req *cri.StreamPodSandboxesRequest, stream cri.RuntimeService_StreamPodSandboxesServer) error {
	for page := range slices.Chunk(s.listSandboxes(req.GetFilter()), streamPage) {
		if err := stream.Send(&cri.StreamPodSandboxesResponse{PodSandboxes: page}); err != nil {
			return err
		}
	}
	return nil
}

// streamPage is how many items go into one message of a list stream.
const streamPage = 100

// UpdatePodSandboxResources has nothing to do: the pod's cgroup is the kubelet's, and no sandbox process lives in it.
func (s *Service) UpdatePodSandboxResources(_ context.Context, req *cri.UpdatePodSandboxResourcesRequest) (*cri.UpdatePodSandboxResourcesResponse, error) {
	if _, err := s.sandbox(req.GetPodSandboxId()); err != nil {
		return nil, err
	}
	return &cri.UpdatePodSandboxResourcesResponse{}, nil
}
