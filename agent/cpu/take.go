package cpu

import (
	"cmp"
	"fmt"
	"slices"

	"k8s.io/utils/cpuset"

	"github.com/mote-edge/mote/agent/numa"
)

// level names the unit of a machine that a CPU belongs to.
type level func(numa.CPU) int

func byNode(c numa.CPU) int   { return c.Node }
func bySocket(c numa.CPU) int { return c.Socket }
func byCache(c numa.CPU) int  { return c.Cache }
func byCore(c numa.CPU) int   { return c.Core }

// taking collects CPUs out of the free ones.
type taking struct {
	machine numa.Machine
	outer   []level // the two outermost levels, larger units first
	free    []numa.CPU
	need    int
	got     []int
}

// take picks n of the free CPUs: whole sockets and nodes where the request is as large, then whole cores, then what is
// left of cores that are in use already. align keeps what is smaller than a node on one last-level cache if it can.
func take(m numa.Machine, free cpuset.CPUSet, n int, align bool) (cpuset.CPUSet, error) {
	if free.Size() < n {
		return cpuset.New(), fmt.Errorf("not enough cpus available to satisfy request: requested=%d, available=%d", n, free.Size())
	}
	t := &taking{machine: m, need: n}
	for _, c := range m.CPUs {
		if free.Contains(c.ID) {
			t.free = append(t.free, c)
		}
	}
	// Where sockets have several nodes, a socket is the larger unit; elsewhere a node may span sockets.
	if t.outer = []level{byNode, bySocket}; count(m.CPUs, bySocket) < len(m.Nodes) {
		t.outer = []level{bySocket, byNode}
	}
	t.whole(t.outer[0])
	t.whole(t.outer[1])
	if align {
		t.aligned()
	}
	t.whole(byCore)
	for _, c := range t.order() {
		if t.need == 0 {
			break
		}
		t.claim([]numa.CPU{c})
	}
	return cpuset.New(t.got...), nil
}

func count(cpus []numa.CPU, of level) int {
	seen := map[int]bool{}
	for _, c := range cpus {
		seen[of(c)] = true
	}
	return len(seen)
}

func sizes(cpus []numa.CPU, of level) map[int]int {
	n := map[int]int{}
	for _, c := range cpus {
		n[of(c)]++
	}
	return n
}

// order is the free CPUs with those of the fullest units first, so that large units stay whole for large requests.
func (t *taking) order() []numa.CPU {
	levels := append(slices.Clone(t.outer), byCore)
	free := make([]map[int]int, len(levels))
	for i, l := range levels {
		free[i] = sizes(t.free, l)
	}
	out := slices.Clone(t.free)
	slices.SortFunc(out, func(a, b numa.CPU) int {
		for i, l := range levels {
			if d := cmp.Or(cmp.Compare(free[i][l(a)], free[i][l(b)]), cmp.Compare(l(a), l(b))); d != 0 {
				return d
			}
		}
		return cmp.Compare(a.ID, b.ID)
	})
	return out
}

// whole claims units of a level that are entirely free, as long as a whole one is needed.
func (t *taking) whole(of level) {
	all := sizes(t.machine.CPUs, of)
	free := map[int][]numa.CPU{}
	var order []int
	for _, c := range t.order() {
		if u := of(c); free[u] == nil {
			order = append(order, u)
		}
		free[of(c)] = append(free[of(c)], c)
	}
	for _, u := range order {
		if len(free[u]) == all[u] && t.need >= all[u] {
			t.claim(free[u])
		}
	}
}

// aligned claims whole caches, and then the rest from the fullest cache that has enough.
func (t *taking) aligned() {
	t.whole(byCache)
	if t.need == 0 {
		return
	}
	free := sizes(t.free, byCache)
	best, found := 0, false
	for _, c := range t.order() {
		if u := c.Cache; free[u] >= t.need && (!found || free[u] < free[best]) {
			best, found = u, true
		}
	}
	if !found {
		return
	}
	var in []int
	for _, c := range t.free {
		if c.Cache == best {
			in = append(in, c.ID)
		}
	}
	got, err := take(t.machine, cpuset.New(in...), t.need, false)
	if err != nil {
		return // there were enough: nothing to do but take them elsewhere
	}
	t.claim(slices.DeleteFunc(slices.Clone(t.free), func(c numa.CPU) bool { return !got.Contains(c.ID) }))
}

func (t *taking) claim(cpus []numa.CPU) {
	for _, c := range cpus {
		t.got = append(t.got, c.ID)
	}
	t.need -= len(cpus)
	t.free = slices.DeleteFunc(t.free, func(c numa.CPU) bool { return slices.Contains(t.got, c.ID) })
}
