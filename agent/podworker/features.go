package podworker

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// features are what the runtime can do under one of its handlers. It is asked when a pod wants something of the kind.
func (m *Manager) features(ctx context.Context, handler string) (*runtimeapi.RuntimeHandlerFeatures, error) {
	status, err := m.cri.Status(ctx, &runtimeapi.StatusRequest{})
	if err != nil {
		return nil, err
	}
	for _, h := range status.GetRuntimeHandlers() {
		if h.GetName() == handler {
			return h.GetFeatures(), nil
		}
	}
	return nil, nil
}

// resolveReadOnly settles recursive read-only mounts with a runtime that may not have them: IfPossible means what it
// says, Enabled is an error.
func (m *Manager) resolveReadOnly(ctx context.Context, handler string, c *corev1.Container, mounts []*runtimeapi.Mount) error {
	asked := false
	for _, mount := range mounts {
		asked = asked || mount.RecursiveReadOnly
	}
	if !asked {
		return nil
	}
	f, err := m.features(ctx, handler)
	if err != nil {
		return err
	}
	if f.GetRecursiveReadOnlyMounts() {
		return nil
	}
	for _, vm := range c.VolumeMounts {
		if r := vm.RecursiveReadOnly; r != nil && *r == corev1.RecursiveReadOnlyEnabled {
			return fmt.Errorf("volume %q requested recursive read-only mode, but it is not supported by the runtime", vm.Name)
		}
	}
	for _, mount := range mounts {
		mount.RecursiveReadOnly = false
	}
	return nil
}
