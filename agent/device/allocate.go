package device

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/mote-edge/mote/agent/meter"
	"github.com/mote-edge/mote/agent/topology"
)

// Allocate gives a container the devices that its limits ask for. Idempotent: what it has already stays.
func (p *Plugins) Allocate(ctx context.Context, pod *corev1.Pod, c *corev1.Container, hint topology.Hint) error {
	p.turn.Lock()
	defer p.turn.Unlock()
	for _, name := range slices.Sorted(maps.Keys(c.Resources.Limits)) {
		q := c.Resources.Limits[name]
		if q.Value() == 0 || claimed(pod, c.Name, string(name)) || !p.Manages(string(name)) {
			continue
		}
		if err := p.allocate(ctx, pod, c, string(name), int(q.Value()), hint); err != nil {
			return err
		}
	}
	return nil
}

// claimed tells whether a resource claim stands for the extended resource (DRA): then no plugin is asked.
func claimed(pod *corev1.Pod, container, resource string) bool {
	s := pod.Status.ExtendedResourceClaimStatus
	return s != nil && slices.ContainsFunc(s.RequestMappings, func(m corev1.ContainerExtendedResourceRequest) bool {
		return m.ContainerName == container && m.ResourceName == resource
	})
}

func (p *Plugins) allocate(ctx context.Context, pod *corev1.Pod, c *corev1.Container, name string, need int, hint topology.Hint) error {
	p.mu.Lock()
	choice, err := p.candidates(pod, c.Name, name, need, hint)
	var e *endpoint
	if k := p.resources[name]; k != nil {
		e = k.current
	}
	p.mu.Unlock()
	if err != nil || choice == nil {
		return err
	}
	if e == nil {
		return fmt.Errorf("unknown Device Plugin %s", name)
	}
	ctx, cancel := context.WithTimeout(ctx, allocateTimeout)
	defer cancel()
	ids, err := choice.pick(func(from, must []string, size int) ([]string, error) { return e.prefer(ctx, from, must, size) })
	if err != nil {
		return err
	}
	begin := time.Now()
	r, err := e.api.Allocate(ctx, &pluginapi.AllocateRequest{ContainerRequests: []*pluginapi.ContainerAllocateRequest{{DevicesIds: ids}}})
	p.cfg.Tally.Since(meter.DeviceAllocations, begin, name)
	if err != nil {
		return err
	}
	if len(r.GetContainerResponses()) == 0 {
		return fmt.Errorf("no containers return in allocation response %v", r)
	}
	response, err := proto.Marshal(r.GetContainerResponses()[0])
	if err != nil {
		return fmt.Errorf("allocation response of %s: %w", name, err)
	}
	return p.note(pod, c.Name, name, ids, response)
}

// note takes an allocation in, on disk first of all: devices must not be given out twice after a restart.
func (p *Plugins) note(pod *corev1.Pod, container, name string, ids []string, response []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := &Allocation{Devices: map[int][]string{}, Response: response}
	for _, id := range ids {
		nodes := []int{noNode}
		if k := p.resources[name]; k != nil {
			if on := nodesOf(k.devices[id]); len(on) > 0 {
				nodes = on
			}
		}
		for _, n := range nodes {
			a.Devices[n] = append(a.Devices[n], id)
		}
	}
	if p.held[pod.UID] == nil {
		p.held[pod.UID] = map[string]map[string]*Allocation{}
	}
	if p.held[pod.UID][container] == nil {
		p.held[pod.UID][container] = map[string]*Allocation{}
	}
	p.held[pod.UID][container][name] = a
	if err := p.save(); err != nil {
		delete(p.held[pod.UID][container], name)
		return err
	}
	return nil
}

// candidates are the devices that may be picked from; nil if the container has its devices. The lock is held.
func (p *Plugins) candidates(pod *corev1.Pod, container, name string, need int, hint topology.Hint) (*choice, error) {
	var have []string
	if a := p.held[pod.UID][container][name]; a != nil {
		if have = a.ids(); len(have) != need {
			return nil, fmt.Errorf("pod %q container %q changed request for resource %q from %d to %d", pod.UID, container, name, len(have), need)
		}
	}
	k := p.resources[name]
	if k == nil {
		return nil, fmt.Errorf("cannot allocate unregistered device %s", name)
	}
	healthy := k.healthy()
	switch {
	case len(healthy) == 0:
		return nil, fmt.Errorf("no healthy devices present; cannot allocate unhealthy devices %s", name)
	case !subset(have, healthy):
		return nil, fmt.Errorf("previously allocated devices are no longer healthy; cannot allocate unhealthy devices %s", name)
	case have != nil:
		return nil, nil
	}
	c := &choice{name: name, need: need}
	used := p.used(name)
	again := p.reusable(pod, container, name)
	for _, id := range healthy {
		switch {
		case slices.Contains(again, id):
			c.again = append(c.again, id)
		case !used[id]:
			c.free = append(c.free, id)
		}
	}
	c.split(k.devices, hint)
	return c, nil
}

func subset(a, of []string) bool {
	return !slices.ContainsFunc(a, func(id string) bool { return !slices.Contains(of, id) })
}

// reusable are the devices of the pod's init containers that have ended before this container starts.
func (p *Plugins) reusable(pod *corev1.Pod, until, name string) []string {
	var out []string
	walk := func(list []corev1.Container, init bool) bool {
		for i := range list {
			if list[i].Name == until {
				return true
			}
			a := p.held[pod.UID][list[i].Name][name]
			if a == nil {
				continue
			}
			if init && (list[i].RestartPolicy == nil || *list[i].RestartPolicy != corev1.ContainerRestartPolicyAlways) {
				out = append(out, a.ids()...)
			} else {
				out = slices.DeleteFunc(out, func(id string) bool { return slices.Contains(a.ids(), id) })
			}
		}
		return false
	}
	if !walk(pod.Spec.InitContainers, true) {
		walk(pod.Spec.Containers, false)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// prefer asks the plugin which of the devices it would rather give; nothing if it doesn't care.
func (e *endpoint) prefer(ctx context.Context, from, must []string, size int) ([]string, error) {
	if !e.options.GetGetPreferredAllocationAvailable() {
		return nil, nil
	}
	r, err := e.api.GetPreferredAllocation(ctx, &pluginapi.PreferredAllocationRequest{ContainerRequests: []*pluginapi.ContainerPreferredAllocationRequest{
		{AvailableDeviceIDs: from, MustIncludeDeviceIDs: must, AllocationSize: int32(size)},
	}})
	if err != nil {
		return nil, fmt.Errorf("device plugin GetPreferredAllocation rpc failed with err: %w", err)
	}
	if len(r.GetContainerResponses()) == 0 {
		return nil, nil
	}
	return r.GetContainerResponses()[0].GetDeviceIDs(), nil
}
