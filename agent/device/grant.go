package device

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/mote-edge/mote/agent/topology"
)

var anywhere = topology.Hint{Any: true, Preferred: true}

// Grant is what a container gets for its devices.
type Grant struct {
	Env         []*runtimeapi.KeyValue
	Mounts      []*runtimeapi.Mount
	Devices     []*runtimeapi.Device
	CDI         []*runtimeapi.CDIDevice
	Annotations map[string]string
}

// Prepare returns what a container that is about to be created gets for its devices, and tells plugins that want to know.
// A container that has none although its limits ask for some, because its pod was admitted by an agent that knew nothing
// of the plugin, gets them now.
func (p *Plugins) Prepare(ctx context.Context, pod *corev1.Pod, c *corev1.Container) (Grant, error) {
	for _, name := range slices.Sorted(maps.Keys(c.Resources.Limits)) {
		q := c.Resources.Limits[name]
		if q.Value() == 0 || claimed(pod, c.Name, string(name)) || !p.Manages(string(name)) {
			continue
		}
		if err := p.preStart(ctx, pod, c, string(name), int(q.Value())); err != nil {
			return Grant{}, err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return merge(p.held[pod.UID][c.Name])
}

func (p *Plugins) preStart(ctx context.Context, pod *corev1.Pod, c *corev1.Container, name string, need int) error {
	p.mu.Lock()
	a := p.held[pod.UID][c.Name][name]
	var e *endpoint
	if k := p.resources[name]; k != nil {
		e = k.current
	}
	p.mu.Unlock()
	if a == nil {
		p.turn.Lock()
		err := p.allocate(ctx, pod, c, name, need, anywhere)
		p.turn.Unlock()
		if err != nil {
			return err
		}
		p.mu.Lock()
		a = p.held[pod.UID][c.Name][name]
		p.mu.Unlock()
	}
	if e == nil {
		return nil // it isn't back yet; what it gave stands in the checkpoint
	}
	if !e.options.GetPreStartRequired() || a == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, preStartTimeout)
	defer cancel()
	if _, err := e.api.PreStartContainer(ctx, &pluginapi.PreStartContainerRequest{DevicesIds: a.ids()}); err != nil {
		return fmt.Errorf("device plugin PreStartContainer rpc failed with err: %w", err)
	}
	return nil
}

// merge puts the answers of a container's plugins together. Where two say something about the same thing, the first one
// (by resource name) counts.
func merge(kinds map[string]*Allocation) (Grant, error) {
	g := Grant{Annotations: map[string]string{}}
	env, mounts, devices, cdi := map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(kinds)) {
		var r pluginapi.ContainerAllocateResponse
		if err := proto.Unmarshal(kinds[name].Response, &r); err != nil {
			return g, fmt.Errorf("checkpoint of %s: %w", name, err)
		}
		for _, k := range slices.Sorted(maps.Keys(r.GetEnvs())) {
			if !env[k] {
				env[k], g.Env = true, append(g.Env, &runtimeapi.KeyValue{Key: k, Value: []byte(r.GetEnvs()[k])})
			}
		}
		for _, d := range r.GetDevices() {
			if !devices[d.GetContainerPath()] {
				devices[d.GetContainerPath()] = true
				g.Devices = append(g.Devices, &runtimeapi.Device{ContainerPath: d.GetContainerPath(), HostPath: d.GetHostPath(), Permissions: d.GetPermissions()})
			}
		}
		for _, m := range r.GetMounts() {
			if !mounts[m.GetContainerPath()] {
				mounts[m.GetContainerPath()] = true
				g.Mounts = append(g.Mounts, &runtimeapi.Mount{ContainerPath: m.GetContainerPath(), HostPath: m.GetHostPath(), Readonly: m.GetReadOnly()})
			}
		}
		for k, v := range r.GetAnnotations() {
			if _, ok := g.Annotations[k]; !ok {
				g.Annotations[k] = v
			}
		}
		for _, d := range r.GetCdiDevices() {
			if !cdi[d.GetName()] {
				cdi[d.GetName()], g.CDI = true, append(g.CDI, &runtimeapi.CDIDevice{Name: d.GetName()})
			}
		}
	}
	return g, nil
}

// Health is the health of a container's devices, for its status.
func (p *Plugins) Health(uid types.UID, container string) []corev1.ResourceStatus {
	var out []corev1.ResourceStatus
	for _, h := range p.Of(uid, container) {
		if len(out) == 0 || string(out[len(out)-1].Name) != h.Resource {
			out = append(out, corev1.ResourceStatus{Name: corev1.ResourceName(h.Resource)})
		}
		s := &out[len(out)-1]
		health := corev1.ResourceHealthStatusHealthy
		if !h.Healthy {
			health = corev1.ResourceHealthStatusUnhealthy
		}
		s.Resources = append(s.Resources, corev1.ResourceHealth{ResourceID: corev1.ResourceID(h.ID), Health: health})
	}
	return out
}
