package memory

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/mote-edge/mote/agent/numa"
	"github.com/mote-edge/mote/agent/topology"
)

// ContainerHints says on which nodes a container's memory could lie.
func (m *Memory) ContainerHints(pod *corev1.Pod, container *corev1.Container) topology.Hints {
	wants := m.wants(pod, container.Resources.Requests)
	if len(wants) == 0 {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if blocks := m.assigned[pod.UID][container.Name]; blocks != nil {
		return regenerated(blocks, wants)
	}
	return byKind(wants, m.hints(m.picture(), wants, func(nodes numa.Mask) map[corev1.ResourceName]int64 {
		return m.reusable(pod, container.Name, nodes)
	}))
}

// PodHints says on which nodes a pod's memory could lie as a whole.
func (m *Memory) PodHints(pod *corev1.Pod) topology.Hints {
	wants := m.podWants(pod)
	if len(wants) == 0 {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if blocks := m.assigned[pod.UID][list[i].Name]; blocks != nil { // all of the pod lies on the same nodes
				nodes := numa.MaskOf(blocks[0].Nodes...)
				return byKind(wants, []topology.Hint{{Nodes: nodes, Preferred: true}})
			}
		}
	}
	none := func(numa.Mask) map[corev1.ResourceName]int64 { return nil }
	return byKind(wants, m.hints(m.picture(), wants, none))
}

// podWants is the most that the pod has at one time.
func (m *Memory) podWants(pod *corev1.Pod) map[corev1.ResourceName]int64 {
	peak, long := map[corev1.ResourceName]int64{}, map[corev1.ResourceName]int64{}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		for name, size := range m.wants(pod, c.Resources.Requests) {
			if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
				long[name] += size
			} else {
				peak[name] = max(peak[name], long[name]+size)
			}
		}
	}
	for i := range pod.Spec.Containers {
		for name, size := range m.wants(pod, pod.Spec.Containers[i].Resources.Requests) {
			long[name] += size
		}
	}
	for name, size := range peak {
		long[name] = max(long[name], size)
	}
	return long
}

// regenerated is the hint of what is allocated already.
func regenerated(blocks []Block, wants map[corev1.ResourceName]int64) topology.Hints {
	out := topology.Hints{}
	for name := range wants {
		out[string(name)] = []topology.Hint{}
	}
	if len(blocks) != len(wants) {
		return out
	}
	for _, b := range blocks {
		if wants[b.Type] != b.Size {
			return out
		}
		out[string(b.Type)] = []topology.Hint{{Nodes: numa.MaskOf(b.Nodes...), Preferred: true}}
	}
	return out
}

func byKind(wants map[corev1.ResourceName]int64, hints []topology.Hint) topology.Hints {
	out := topology.Hints{}
	for name := range wants {
		out[string(name)] = hints
	}
	return out
}

// hints are the sets of nodes that have enough free and may be given out together. Preferred are those that are as small
// as an empty machine would allow.
func (m *Memory) hints(p picture, wants map[corev1.ResourceName]int64, reuse func(numa.Mask) map[corev1.ResourceName]int64) []topology.Hint {
	empty := picture{free: m.allocatable}
	least := m.nodes.Count()
	out := []topology.Hint{}
	m.nodes.Subsets(func(nodes numa.Mask) {
		if !empty.enough(nodes, wants, nil) {
			return
		}
		least = min(least, nodes.Count())
		if p.open(nodes) && p.enough(nodes, wants, reuse(nodes)) {
			out = append(out, topology.Hint{Nodes: nodes})
		}
	})
	for i := range out {
		out[i].Preferred = out[i].Nodes.Count() == least
	}
	return out
}

// bestOf is the best hint that includes all of within.
func bestOf(hints []topology.Hint, within numa.Mask) (topology.Hint, bool) {
	var best topology.Hint
	found := false
	for _, h := range hints {
		if h.Nodes&within != within {
			continue
		}
		if !found || h.Preferred && !best.Preferred || h.Preferred == best.Preferred && h.Nodes.Narrower(best.Nodes) {
			best, found = h, true
		}
	}
	return best, found
}
