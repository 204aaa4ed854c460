package device

import (
	corev1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/mote-edge/mote/agent/numa"
	"github.com/mote-edge/mote/agent/topology"
)

// ContainerHints says on which memory nodes a container's devices could lie.
func (p *Plugins) ContainerHints(pod *corev1.Pod, c *corev1.Container) topology.Hints {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hints(c.Resources.Limits, func(name string) (have, again []string) {
		if a := p.held[pod.UID][c.Name][name]; a != nil {
			have = a.ids()
		}
		return have, p.reusable(pod, c.Name, name)
	})
}

// PodHints says on which memory nodes a pod's devices could lie as a whole.
func (p *Plugins) PodHints(pod *corev1.Pod) topology.Hints {
	p.mu.Lock()
	defer p.mu.Unlock()
	limits := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{ExcludeOverhead: true})
	return p.hints(limits, func(name string) (have, again []string) {
		seen := map[string]bool{}
		for _, kinds := range p.held[pod.UID] {
			if a := kinds[name]; a != nil {
				for _, id := range a.ids() {
					if !seen[id] {
						seen[id], have = true, append(have, id)
					}
				}
			}
		}
		return have, nil
	})
}

func (p *Plugins) hints(limits corev1.ResourceList, of func(name string) (have, again []string)) topology.Hints {
	out := topology.Hints{}
	for res, q := range limits {
		name, need := string(res), int(q.Value())
		k := p.resources[name]
		if k == nil || need == 0 {
			continue
		}
		free, used := []string{}, p.used(name)
		for _, id := range k.healthy() {
			if !used[id] {
				free = append(free, id)
			}
		}
		have, again := of(name)
		switch {
		case len(have) > 0 && len(have) != need:
			out[name] = []topology.Hint{}
		case len(have) > 0:
			out[name] = hints(k.devices, have, nil, need, p.cfg.Nodes)
		case len(free)+len(again) < need:
			if out[name] = nil; placed(k.devices) != 0 {
				out[name] = []topology.Hint{}
			}
		default:
			out[name] = hints(k.devices, free, again, need, p.cfg.Nodes)
		}
	}
	return out
}

// placed is the nodes that devices lie on, 0 when the plugin says nothing of that.
func placed(devices map[string]*pluginapi.Device) numa.Mask {
	var out numa.Mask
	for _, d := range devices {
		out |= numa.MaskOf(nodesOf(d)...)
	}
	return out
}

// hints are the sets of nodes with enough free devices; all that is used again must touch them. nil means no preference.
func hints(devices map[string]*pluginapi.Device, free, again []string, need int, machine numa.Mask) []topology.Hint {
	nodes := placed(devices)
	if nodes == 0 {
		return nil
	}
	if nodes &= machine; nodes == 0 {
		nodes = machine // the plugin names nodes that this machine doesn't have
	}
	on := func(id string, mask numa.Mask) bool { return numa.MaskOf(nodesOf(devices[id])...)&mask != 0 }
	least := nodes.Count()
	out := []topology.Hint{}
	nodes.Subsets(func(mask numa.Mask) {
		all, match := 0, 0
		for id := range devices {
			if on(id, mask) {
				all++
			}
		}
		if all >= need {
			least = min(least, mask.Count())
		}
		for _, id := range again {
			if len(nodesOf(devices[id])) == 0 {
				continue
			}
			if !on(id, mask) {
				return
			}
			match++
		}
		for _, id := range free {
			if on(id, mask) {
				match++
			}
		}
		if match >= need {
			out = append(out, topology.Hint{Nodes: mask})
		}
	})
	for i := range out {
		out[i].Preferred = out[i].Nodes.Count() == least
	}
	return out
}
