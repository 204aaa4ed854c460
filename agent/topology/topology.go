// Package topology decides on which memory nodes a pod's CPUs, memory and devices should lie: every kind of resource says
// what it could do (hints), and a policy merges that into one answer, or refuses the pod. All of it is pure.
//
// Reads:  nothing.
// Writes: nothing.
package topology

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/mote-edge/mote/agent/numa"
)

// The policies and scopes, as KubeletConfiguration spells them.
const (
	None           = "none"
	BestEffort     = "best-effort"
	Restricted     = "restricted"
	SingleNUMANode = "single-numa-node"

	ScopeContainer = "container"
	ScopePod       = "pod"
)

// The admission reason and words that users know.
const (
	ErrorReason  = "TopologyAffinityError"
	ErrorMessage = "Resources cannot be allocated with Topology locality"
)

// maxNodes bounds the combinations that merging walks through, unless the administrator raises it.
const maxNodes = 8

// Hint is one way to serve a request: from these nodes. Any means that it doesn't matter.
type Hint struct {
	Nodes     numa.Mask
	Any       bool
	Preferred bool
}

// Hints are what one kind of provider says, by resource. No entry, or a nil list: no preference; an empty list: it can't
// be done at all.
type Hints map[string][]Hint

// Config is the administrator's choice.
type Config struct {
	Policy, Scope string // empty: none, container
	Options       map[string]string
}

// Policy merges hints.
type Policy struct {
	name    string
	scope   string
	closest bool
	machine numa.Machine
}

// New checks a configuration against the machine.
func New(cfg Config, m numa.Machine) (*Policy, error) {
	p := &Policy{name: cfg.Policy, scope: cfg.Scope, machine: m}
	if p.name == "" {
		p.name = None
	}
	if p.scope == "" {
		p.scope = ScopeContainer
	}
	if !slices.Contains([]string{None, BestEffort, Restricted, SingleNUMANode}, p.name) {
		return nil, fmt.Errorf("topology manager policy %q: give none, best-effort, restricted or single-numa-node", p.name)
	}
	if p.scope != ScopeContainer && p.scope != ScopePod {
		return nil, fmt.Errorf("topology manager scope %q: give container or pod", p.scope)
	}
	limit := maxNodes
	for _, name := range slices.Sorted(maps.Keys(cfg.Options)) {
		value := cfg.Options[name]
		var err error
		switch name {
		case "prefer-closest-numa-nodes":
			p.closest, err = strconv.ParseBool(value)
		case "max-allowable-numa-nodes":
			if limit, err = strconv.Atoi(value); err == nil && limit < maxNodes {
				err = fmt.Errorf("give at least %d", maxNodes)
			}
		default:
			err = fmt.Errorf("no such option: give prefer-closest-numa-nodes or max-allowable-numa-nodes")
		}
		if err != nil {
			return nil, fmt.Errorf("topology manager policy option %s=%q: %w", name, value, err)
		}
	}
	if p.name != None && len(m.Nodes) > limit {
		return nil, fmt.Errorf("topology manager policy %s: unsupported on machines with more than %d NUMA nodes: raise the option max-allowable-numa-nodes", p.name, limit)
	}
	return p, nil
}

// Active tells whether hints are asked for at all.
func (p *Policy) Active() bool { return p.name != None }

// PodScope tells whether a pod is placed as a whole.
func (p *Policy) PodScope() bool { return p.scope == ScopePod }

// Name is the policy's.
func (p *Policy) Name() string { return p.name }

// Merge returns where the resources should lie, and whether the pod may run.
func (p *Policy) Merge(providers []Hints) (Hint, bool) {
	if p.name == None {
		return Hint{Any: true, Preferred: true}, true
	}
	lists := flatten(providers)
	if p.name == SingleNUMANode {
		for i, list := range lists {
			lists[i] = slices.DeleteFunc(slices.Clone(list), func(h Hint) bool { return !h.Preferred || !h.Any && h.Nodes.Count() != 1 })
		}
	}
	best := p.best(lists)
	if p.name == SingleNUMANode && best.Nodes == p.machine.Mask() {
		best = Hint{Any: true, Preferred: best.Preferred} // nobody asked for a node
	}
	return best, p.name == BestEffort || best.Preferred
}

// flatten makes one list of hints a resource.
func flatten(providers []Hints) [][]Hint {
	var out [][]Hint
	for _, hints := range providers {
		if len(hints) == 0 {
			out = append(out, []Hint{{Any: true, Preferred: true}})
		}
		for _, name := range slices.Sorted(maps.Keys(hints)) {
			switch list := hints[name]; {
			case list == nil:
				out = append(out, []Hint{{Any: true, Preferred: true}})
			case len(list) == 0:
				out = append(out, []Hint{{Any: true}})
			default:
				out = append(out, list)
			}
		}
	}
	return out
}

// best walks through every combination of one hint a resource.
func (p *Policy) best(lists [][]Hint) Hint {
	all := p.machine.Mask()
	enough := 0 // nodes that the most demanding resource needs at least
	for _, list := range lists {
		least := 0
		for _, h := range list {
			if !h.Any && (least == 0 || h.Nodes.Count() < least) {
				least = h.Nodes.Count()
			}
		}
		enough = max(enough, least)
	}
	var best *Hint
	var walk func(i int, nodes numa.Mask, preferred bool, first *Hint)
	walk = func(i int, nodes numa.Mask, preferred bool, first *Hint) {
		if i == len(lists) {
			if h := (Hint{Nodes: nodes, Preferred: preferred}); nodes != 0 && (best == nil || p.better(h, *best, enough)) {
				best = &h
			}
			return
		}
		for j := range lists[i] {
			h := &lists[i][j]
			if h.Any {
				walk(i+1, nodes, preferred && h.Preferred, first)
				continue
			}
			f := first
			if f == nil {
				f = h
			}
			// Resources that lie on different nodes aren't aligned, however happy each of them is.
			walk(i+1, nodes&h.Nodes, preferred && h.Preferred && h.Nodes == f.Nodes, f)
		}
	}
	walk(0, all, true, nil)
	if best == nil {
		return Hint{Nodes: all}
	}
	return *best
}

// better tells whether h beats cur. Among hints that aren't preferred, the one that comes closest to (but not above) what
// the most demanding resource needs: fewer nodes would leave that resource with nothing.
func (p *Policy) better(h, cur Hint, enough int) bool {
	switch {
	case h.Preferred != cur.Preferred:
		return h.Preferred
	case h.Preferred, cur.Nodes.Count() > enough:
		return p.fitter(h.Nodes, cur.Nodes)
	}
	n, c := h.Nodes.Count(), cur.Nodes.Count()
	switch {
	case n > enough || n < c:
		return false
	case n > c:
		return true
	default:
		return p.fitter(h.Nodes, cur.Nodes)
	}
}

func (p *Policy) fitter(a, b numa.Mask) bool {
	if p.closest && p.name != SingleNUMANode && a.Count() == b.Count() {
		if da, db := p.machine.Distance(a), p.machine.Distance(b); da != db {
			return da < db
		}
	}
	return a.Narrower(b)
}
