package scheduler

import (
	policyv1 "k8s.io/api/policy/v1"

	"github.com/mote-edge/mote/controlplane/scheduler/fit"
)

// decision is what is to be done about one pod.
type decision struct {
	node    string             // bind it there; empty: no node takes it
	volumes []fit.VolumeChoice // before the binding
	claims  fit.PodClaims      // likewise; also of a pod that no node takes

	refusedBy fit.Filter
	message   string       // why no node takes it
	victims   *fit.Victims // delete these, and it will fit their node
	nominate  *string      // the node to be kept for it, or "" to give that up; nil: as it was
}

// decide looks for a node for a pod and, if there is one, assumes that the pod is there.
func (s *state) decide(pod *fit.Pod, snap *fit.Snapshot, budgets func() []*policyv1.PodDisruptionBudget, turn int) decision {
	s.mu.Lock()
	defer s.mu.Unlock()
	snap.Nodes = s.order
	if len(snap.Nodes) == 0 {
		return decision{refusedBy: ^fit.Filter(0), message: fit.Explain(0, nil)}
	}
	cycle, refusal := fit.NewCycle(pod, snap)
	if refusal.Refused() {
		msg := fit.ExplainPod(len(snap.Nodes), refusal)
		return decision{refusedBy: refusal.By, message: msg + notHelpful(len(snap.Nodes))}
	}
	refusals := make([]fit.Refusal, len(snap.Nodes))
	var fitting []*fit.Node
	by := fit.Filter(0)
	for i, n := range snap.Nodes {
		refusals[i] = s.filter(cycle, i)
		if refusals[i].Refused() {
			by |= refusals[i].By
			continue
		}
		fitting = append(fitting, n)
		if n.Name == pod.Status.NominatedNodeName {
			fitting = []*fit.Node{n} // its victims left for it
			break
		}
	}
	if len(fitting) > 0 {
		best := choose(cycle, fitting, turn)
		choices, _ := cycle.ChooseVolumes(best)
		if cycle.Claims != nil {
			cycle.Claims.Reserve(best.Name)
		}
		s.assume(pod, best.Name)
		return decision{node: best.Name, volumes: choices, claims: cycle.Claims}
	}
	d := decision{refusedBy: by, claims: cycle.Claims, message: fit.Explain(len(snap.Nodes), refusals)}
	s.preempt(pod, snap, refusals, budgets, &d)
	return d
}

// filter asks about node i twice if more important pods wait for a place there: with them, and, since they may go
// elsewhere after all, without.
func (s *state) filter(c *fit.Cycle, i int) fit.Refusal {
	n := c.Snapshot.Nodes[i]
	if waiting := s.nominatedTo(n.Name, c.Pod); len(waiting) > 0 {
		with := n.Clone()
		for _, p := range waiting {
			with.Add(p)
		}
		cycle, r := fit.NewCycle(c.Pod, c.Snapshot.With(i, with))
		if !r.Refused() {
			r = cycle.Filter(with)
		}
		if r.Refused() {
			return r
		}
	}
	return c.Filter(n)
}

// choose takes the node with the highest score, each in turn among equals.
func choose(c *fit.Cycle, nodes []*fit.Node, turn int) *fit.Node {
	if len(nodes) == 1 {
		return nodes[0]
	}
	points := c.Score(nodes)
	var best []*fit.Node
	var most int64 = -1
	for i, n := range nodes {
		switch {
		case points[i] > most:
			most, best = points[i], []*fit.Node{n}
		case points[i] == most:
			best = append(best, n)
		}
	}
	return best[turn%len(best)]
}

func (s *state) preempt(pod *fit.Pod, snap *fit.Snapshot, refusals []fit.Refusal, budgets func() []*policyv1.PodDisruptionBudget, d *decision) {
	if ok, why := fit.MayPreempt(pod, s.nodes[pod.Status.NominatedNodeName]); !ok {
		d.message += " preemption: " + why
		return
	}
	none := ""
	victims, why := fit.Preempt(pod, snap, refusals, budgets())
	if victims == nil {
		d.message += " preemption: " + fit.Explain(len(snap.Nodes), why)
		d.nominate = &none
		return
	}
	for i, v := range victims.Pods {
		kept := *v // they are read outside the lock
		victims.Pods[i] = &kept
	}
	d.victims = victims
	d.nominate = &victims.Node
}

func notHelpful(nodes int) string {
	refusals := make([]fit.Refusal, nodes)
	for i := range refusals {
		refusals[i].Reasons = []string{"Preemption is not helpful for scheduling"}
	}
	return " preemption: " + fit.Explain(nodes, refusals)
}
