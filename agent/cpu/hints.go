package cpu

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/cpuset"

	"github.com/mote-edge/mote/agent/numa"
	"github.com/mote-edge/mote/agent/topology"
)

// ContainerHints says on which nodes a container's CPUs could lie.
func (c *CPUs) ContainerHints(pod *corev1.Pod, container *corev1.Container) topology.Hints {
	n := c.Exclusive(pod, container)
	if n == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	free, reuse := c.available(), c.reusable(pod, container.Name)
	if have, ok := c.assigned[pod.UID][container.Name]; ok {
		if have.Size() != n {
			return topology.Hints{string(corev1.ResourceCPU): {}}
		}
		free, reuse = have, cpuset.New()
	}
	return topology.Hints{string(corev1.ResourceCPU): hints(c.cfg.Machine, free, reuse, n)}
}

// PodHints says on which nodes a pod's CPUs could lie as a whole.
func (c *CPUs) PodHints(pod *corev1.Pod) topology.Hints {
	n := c.podExclusive(pod)
	if n == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	have := cpuset.New()
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			set, ok := c.assigned[pod.UID][list[i].Name]
			if ok && set.Size() != c.Exclusive(pod, &list[i]) {
				return topology.Hints{string(corev1.ResourceCPU): {}}
			}
			have = have.Union(set)
		}
	}
	free := c.available()
	if have.Size() == n {
		free, have = have, cpuset.New()
	}
	return topology.Hints{string(corev1.ResourceCPU): hints(c.cfg.Machine, free, have, n)}
}

// podExclusive is the most CPUs that the pod has for itself at one time: init containers run before the others, with the
// sidecars that came before them.
func (c *CPUs) podExclusive(pod *corev1.Pod) int {
	peak, sidecars, regular := 0, 0, 0
	for i := range pod.Spec.InitContainers {
		ctr := &pod.Spec.InitContainers[i]
		n := c.Exclusive(pod, ctr)
		if p := ctr.RestartPolicy; p != nil && *p == corev1.ContainerRestartPolicyAlways {
			sidecars += n
		} else {
			peak = max(peak, sidecars+n)
		}
	}
	for i := range pod.Spec.Containers {
		regular += c.Exclusive(pod, &pod.Spec.Containers[i])
	}
	return max(peak, sidecars+regular)
}

// hints are the sets of nodes with enough free CPUs; all that is reused must lie on them. Preferred are those that are as
// small as an empty machine would allow.
func hints(m numa.Machine, free, reuse cpuset.CPUSet, n int) []topology.Hint {
	least := len(m.Nodes)
	out := []topology.Hint{}
	m.Mask().Subsets(func(nodes numa.Mask) {
		in := m.In(nodes)
		if in.Size() >= n {
			least = min(least, nodes.Count())
		}
		if !reuse.IsSubsetOf(in) || free.Union(reuse).Intersection(in).Size() < n {
			return
		}
		out = append(out, topology.Hint{Nodes: nodes})
	})
	for i := range out {
		out[i].Preferred = out[i].Nodes.Count() == least
	}
	return out
}
