package fit

// domain is one value of one topology key.
type domain struct{ key, value string }

// affinityState counts, by topology domain, the pods that matter to the incoming pod's required terms, and the pods
// whose own anti-affinity keeps it away.
type affinityState struct {
	existingAnti map[domain]int // pods that don't want the incoming one in their domain
	affinity     map[domain]int // pods that all of the incoming pod's affinity terms select
	anti         map[domain]int // pods that one of the incoming pod's anti-affinity terms selects
	selectsSelf  bool           // the pod is one of those it wants to be with: the first of a group may start it
}

func newAffinityState(c *Cycle) affinityState {
	s := affinityState{}
	pod, nsLabels := c.Pod, c.Snapshot.NamespaceLabels
	count := func(m *map[domain]int, n *Node, key string) {
		value, ok := n.Labels[key]
		if !ok {
			return
		}
		if *m == nil {
			*m = map[domain]int{}
		}
		(*m)[domain{key, value}]++
	}
	wanted := len(pod.affinity)+len(pod.antiAffinity) > 0
	for _, n := range c.Snapshot.Nodes {
		if !wanted && n.withTerms == 0 {
			continue
		}
		for _, other := range n.Pods {
			for i := range other.antiAffinity {
				if t := &other.antiAffinity[i]; t.selects(pod.Pod, nsLabels) {
					count(&s.existingAnti, n, t.topologyKey)
				}
			}
			if len(pod.affinity) > 0 && selectedByAll(pod.affinity, other, c) {
				for i := range pod.affinity {
					count(&s.affinity, n, pod.affinity[i].topologyKey)
				}
			}
			for i := range pod.antiAffinity {
				if t := &pod.antiAffinity[i]; t.selects(other.Pod, nsLabels) {
					count(&s.anti, n, t.topologyKey)
				}
			}
		}
	}
	s.selectsSelf = len(pod.affinity) > 0 && selectedByAll(pod.affinity, pod, c)
	return s
}

func selectedByAll(terms []term, p *Pod, c *Cycle) bool {
	for i := range terms {
		if !terms[i].selects(p.Pod, c.Snapshot.NamespaceLabels) {
			return false
		}
	}
	return true
}

func filterAffinity(c *Cycle, n *Node) Refusal {
	if c.Pod.badAffinity != nil {
		return refuseFinally(InterPodAffinity, "pod affinity: "+c.Pod.badAffinity.Error())
	}
	if !affinitySatisfied(c, n) {
		return refuseFinally(InterPodAffinity, "node(s) didn't match pod affinity rules")
	}
	for i := range c.Pod.antiAffinity {
		key := c.Pod.antiAffinity[i].topologyKey
		if value, ok := n.Labels[key]; ok && c.affinity.anti[domain{key, value}] > 0 {
			return refuse(InterPodAffinity, "node(s) didn't match pod anti-affinity rules")
		}
	}
	for d := range c.affinity.existingAnti {
		if value, ok := n.Labels[d.key]; ok && value == d.value {
			return refuse(InterPodAffinity, "node(s) didn't satisfy existing pods anti-affinity rules")
		}
	}
	return Refusal{}
}

func affinitySatisfied(c *Cycle, n *Node) bool {
	found := true
	for i := range c.Pod.affinity {
		key := c.Pod.affinity[i].topologyKey
		value, ok := n.Labels[key]
		if !ok {
			return false
		}
		if c.affinity.affinity[domain{key, value}] == 0 {
			found = false
		}
	}
	return found || (len(c.affinity.affinity) == 0 && c.affinity.selectsSelf)
}
