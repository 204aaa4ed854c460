package fit

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// spreadConstraint is one topology spread constraint, parsed.
type spreadConstraint struct {
	key         string
	maxSkew     int
	minDomains  int
	honorNodes  bool // nodes that the pod's node affinity excludes don't count
	honorTaints bool // nodes whose taints the pod doesn't tolerate don't count
	counts      func(*corev1.Pod) bool
	countsSelf  bool
	perDomain   map[string]int
	lowest      int // matching pods in the emptiest domain
}

type spreadState struct {
	hard []*spreadConstraint // DoNotSchedule
	soft []*spreadConstraint // ScheduleAnyway, or the built-in preference for spreading a controller's pods
}

func newSpreadState(c *Cycle) spreadState {
	var s spreadState
	p := c.Pod.Pod
	for i := range p.Spec.TopologySpreadConstraints {
		in := &p.Spec.TopologySpreadConstraints[i]
		out := newSpreadConstraint(p, in)
		if in.WhenUnsatisfiable == corev1.DoNotSchedule {
			s.hard = append(s.hard, out)
		} else {
			s.soft = append(s.soft, out)
		}
	}
	if len(p.Spec.TopologySpreadConstraints) == 0 {
		s.soft = defaultSpread(p)
	}
	for _, sc := range s.hard {
		sc.count(c, s.hard)
	}
	return s
}

func newSpreadConstraint(p *corev1.Pod, in *corev1.TopologySpreadConstraint) *spreadConstraint {
	out := &spreadConstraint{key: in.TopologyKey, maxSkew: int(in.MaxSkew), minDomains: 1, honorNodes: true}
	if in.MinDomains != nil {
		out.minDomains = int(*in.MinDomains)
	}
	if in.NodeAffinityPolicy != nil {
		out.honorNodes = *in.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor
	}
	if in.NodeTaintsPolicy != nil {
		out.honorTaints = *in.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor
	}
	selector, err := selectorWithKeys(in.LabelSelector, p.Labels, in.MatchLabelKeys, nil)
	if err != nil {
		selector = labels.Nothing()
	}
	out.counts = func(o *corev1.Pod) bool {
		return o.Namespace == p.Namespace && o.DeletionTimestamp == nil && selector.Matches(labels.Set(o.Labels))
	}
	out.countsSelf = selector.Matches(labels.Set(p.Labels))
	return out
}

// defaultSpread prefers to spread the pods of one controller over nodes, and less so over zones. Upstream gathers the
// selectors of the Services and controllers that select the pod; the owner is cheaper and means the same in practice.
func defaultSpread(p *corev1.Pod) []*spreadConstraint {
	owner := metav1.GetControllerOfNoCopy(p)
	if owner == nil {
		return nil
	}
	counts := func(o *corev1.Pod) bool {
		other := metav1.GetControllerOfNoCopy(o)
		return other != nil && other.UID == owner.UID && o.DeletionTimestamp == nil
	}
	return []*spreadConstraint{
		{key: corev1.LabelHostname, maxSkew: 3, honorNodes: true, counts: counts, countsSelf: true},
		{key: corev1.LabelTopologyZone, maxSkew: 5, honorNodes: true, counts: counts, countsSelf: true},
	}
}

// eligible says whether a node takes part in the count: it must carry every constraint's key.
func (sc *spreadConstraint) eligible(c *Cycle, n *Node, all []*spreadConstraint) bool {
	for _, o := range all {
		if _, ok := n.Labels[o.key]; !ok {
			return false
		}
	}
	if sc.honorNodes && !c.nodeAffinity.allows(n.Node) {
		return false
	}
	return !sc.honorTaints || !filterTaints(c, n).Refused()
}

func (sc *spreadConstraint) count(c *Cycle, all []*spreadConstraint) {
	sc.perDomain = map[string]int{}
	for _, n := range c.Snapshot.Nodes {
		if !sc.eligible(c, n, all) {
			continue
		}
		matching := sc.perDomain[n.Labels[sc.key]]
		for _, p := range n.Pods {
			if sc.counts(p.Pod) {
				matching++
			}
		}
		sc.perDomain[n.Labels[sc.key]] = matching
	}
	first := true
	for _, v := range sc.perDomain {
		if first || v < sc.lowest {
			sc.lowest, first = v, false
		}
	}
	if len(sc.perDomain) < sc.minDomains {
		sc.lowest = 0
	}
}

func filterSpread(c *Cycle, n *Node) Refusal {
	const mismatch = "node(s) didn't match pod topology spread constraints"
	for _, sc := range c.spread.hard {
		value, ok := n.Labels[sc.key]
		if !ok {
			return refuseFinally(TopologySpread, mismatch+" (missing required label)")
		}
		self := 0
		if sc.countsSelf {
			self = 1
		}
		if sc.perDomain[value]+self-sc.lowest > sc.maxSkew {
			return refuse(TopologySpread, mismatch)
		}
	}
	return Refusal{}
}
