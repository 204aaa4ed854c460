package runtime

import (
	"context"
	"fmt"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// handlerName is the one runtime handler besides the default (empty) one; they are the same.
const handlerName = "mote"

// Version identifies the runtime.
func (s *Service) Version(context.Context, *cri.VersionRequest) (*cri.VersionResponse, error) {
	return &cri.VersionResponse{Version: "0.1.0", RuntimeName: handlerName, RuntimeVersion: s.cfg.Version, RuntimeApiVersion: "v1"}, nil
}

// Status reports readiness: the network is ready once a CNI configuration is there.
func (s *Service) Status(_ context.Context, req *cri.StatusRequest) (*cri.StatusResponse, error) {
	network := &cri.RuntimeCondition{Type: cri.NetworkReady, Status: true}
	if _, err := s.net.Config(); err != nil {
		network.Status, network.Reason = false, "NetworkPluginNotReady"
		network.Message = "Network plugin returns error: " + err.Error()
	}
	features := &cri.RuntimeHandlerFeatures{RecursiveReadOnlyMounts: recursiveReadOnly(), UserNamespaces: s.userNamespaces()}
	out := &cri.StatusResponse{
		Status: &cri.RuntimeStatus{Conditions: []*cri.RuntimeCondition{{Type: cri.RuntimeReady, Status: true}, network}},
		RuntimeHandlers: []*cri.RuntimeHandler{
			{Name: "", Features: features}, {Name: handlerName, Features: features},
		},
		Features: &cri.RuntimeFeatures{SupplementalGroupsPolicy: true},
	}
	if req.GetVerbose() {
		out.Info = map[string]string{"config": fmt.Sprintf(`{"dataDir":%q,"runDir":%q,"cgroupV2":%v}`, s.cfg.DataDir, s.cfg.RunDir, s.host.CgroupV2)}
	}
	return out, nil
}

// RuntimeConfig tells the kubelet which cgroup driver to use.
func (s *Service) RuntimeConfig(context.Context, *cri.RuntimeConfigRequest) (*cri.RuntimeConfigResponse, error) {
	return &cri.RuntimeConfigResponse{Linux: &cri.LinuxRuntimeConfiguration{CgroupDriver: cri.CgroupDriver_CGROUPFS}}, nil
}

// UpdateRuntimeConfig takes note of the pod CIDR; CNI configuration comes from the agent's file, so nothing follows.
func (s *Service) UpdateRuntimeConfig(context.Context, *cri.UpdateRuntimeConfigRequest) (*cri.UpdateRuntimeConfigResponse, error) {
	return &cri.UpdateRuntimeConfigResponse{}, nil
}
