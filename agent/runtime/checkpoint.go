package runtime

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// errCheckpoint answers all of CRI's checkpoint calls: docs/scope.md says why they are left out.
var errCheckpoint = status.Error(codes.Unimplemented, "mote-runtime makes no checkpoints: use another CRI runtime (--container-runtime-endpoint) where you need them")

// CheckpointContainer is not supported.
func (s *Service) CheckpointContainer(context.Context, *cri.CheckpointContainerRequest) (*cri.CheckpointContainerResponse, error) {
	return nil, errCheckpoint
}

// CheckpointPod is not supported.
func (s *Service) CheckpointPod(context.Context, *cri.CheckpointPodRequest) (*cri.CheckpointPodResponse, error) {
	return nil, errCheckpoint
}

// RestorePod is not supported.
func (s *Service) RestorePod(context.Context, *cri.RestorePodRequest) (*cri.RestorePodResponse, error) {
	return nil, errCheckpoint
}
