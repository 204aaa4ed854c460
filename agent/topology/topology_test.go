package topology

import (
	"strings"
	"testing"

	"github.com/mote-edge/mote/agent/numa"
	"github.com/mote-edge/mote/agent/numa/numatest"
)

var (
	two  = numatest.Shape{Sockets: 2, NodesPerSocket: 1, CachesPerNode: 1, CoresPerCache: 2, ThreadsPerCore: 2}.Machine()
	four = numatest.Shape{Sockets: 2, NodesPerSocket: 2, CachesPerNode: 1, CoresPerCache: 2, ThreadsPerCore: 2}.Machine()
)

// yes and no are preferred hints and those that aren't; "" is any.
func yes(nodes ...int) Hint {
	return Hint{Nodes: numa.MaskOf(nodes...), Any: len(nodes) == 0, Preferred: true}
}
func no(nodes ...int) Hint { return Hint{Nodes: numa.MaskOf(nodes...), Any: len(nodes) == 0} }

func TestMerge(t *testing.T) {
	cpu := func(h ...Hint) Hints { return Hints{"cpu": h} }
	dev := func(h ...Hint) Hints { return Hints{"example.com/gpu": h} }
	for _, tc := range []struct {
		name    string
		machine numa.Machine
		hints   []Hints
		want    Hint
		// who admits: best-effort, restricted, single-numa-node
		admit [3]bool
		// what single-numa-node answers when that differs
		single *Hint
	}{
		{"nobody cares", two, []Hints{nil, {}}, yes(0, 1), [3]bool{true, true, true}, &Hint{Any: true, Preferred: true}},
		{"a nil list is no preference", two, []Hints{{"cpu": nil}}, yes(0, 1), [3]bool{true, true, true}, &Hint{Any: true, Preferred: true}},
		{"an empty list can't be done", two, []Hints{{"cpu": {}}}, no(0, 1), [3]bool{true, false, false}, &Hint{Any: true}},
		{"one resource, one node", two, []Hints{cpu(yes(0), yes(1), no(0, 1))}, yes(0), [3]bool{true, true, true}, nil},
		{"one resource, the other node alone", two, []Hints{cpu(yes(1), no(0, 1))}, yes(1), [3]bool{true, true, true}, nil},
		{"two resources that agree", two, []Hints{cpu(yes(0), yes(1), no(0, 1)), dev(yes(1), no(0, 1))}, yes(1), [3]bool{true, true, true}, nil},
		{"two resources that don't", two, []Hints{cpu(yes(0), no(0, 1)), dev(yes(1), no(0, 1))}, no(0), [3]bool{true, false, false}, &Hint{Any: true}},
		{"a request larger than a node", two, []Hints{cpu(yes(0, 1))}, yes(0, 1), [3]bool{true, true, false}, &Hint{Any: true}},
		{"larger than a node, and a device on one", two, []Hints{cpu(yes(0, 1)), dev(yes(0), no(0, 1))}, no(0, 1), [3]bool{true, false, false}, &Hint{Any: true}},
		{"two resources of one provider", two, []Hints{{"a": {yes(0), yes(1), no(0, 1)}, "b": {yes(1), no(0, 1)}}}, yes(1), [3]bool{true, true, true}, nil},
		{"one provider doesn't care", two, []Hints{cpu(yes(1), no(0, 1)), nil, {"x": nil}}, yes(1), [3]bool{true, true, true}, nil},
		{"nothing in common", two, []Hints{cpu(yes(0)), dev(yes(1))}, no(0, 1), [3]bool{true, false, false}, &Hint{Any: true}},
		{"only what isn't preferred is left", two, []Hints{cpu(no(0, 1))}, no(0, 1), [3]bool{true, false, false}, &Hint{Any: true}},
		{"four nodes: pairs", four, []Hints{cpu(yes(0, 1), yes(0, 2), yes(2, 3), no(0, 1, 2)), dev(yes(2, 3), no(0, 1, 2, 3))}, yes(2, 3), [3]bool{true, true, false}, &Hint{Any: true}},
		{"not fewer nodes than the most demanding needs", four, []Hints{cpu(no(0, 1, 2), no(0, 1, 2, 3)), dev(no(0), no(0, 1, 2), no(0, 1, 2, 3))}, no(0, 1, 2), [3]bool{true, false, false}, &Hint{Any: true}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for i, name := range []string{BestEffort, Restricted, SingleNUMANode} {
				p, err := New(Config{Policy: name}, tc.machine)
				if err != nil {
					t.Fatal(err)
				}
				want := tc.want
				if name == SingleNUMANode && tc.single != nil {
					want = *tc.single
				}
				got, ok := p.Merge(tc.hints)
				if got != want || ok != tc.admit[i] {
					t.Errorf("%s: %+v %t, want %+v %t", name, got, ok, want, tc.admit[i])
				}
			}
		})
	}
}

func TestNoneTakesEverything(t *testing.T) {
	p, err := New(Config{}, two)
	if err != nil || p.Active() {
		t.Fatal(err)
	}
	if h, ok := p.Merge([]Hints{{"cpu": {}}}); !ok || !h.Any {
		t.Errorf("Merge = %+v %t", h, ok)
	}
}

// Nodes of one socket are closer to each other than node 0 is to node 2 (option prefer-closest-numa-nodes).
func TestClosest(t *testing.T) {
	hints := []Hints{{"cpu": {yes(0, 2), yes(2, 3), yes(1, 3)}}}
	for option, want := range map[string]numa.Mask{"false": numa.MaskOf(0, 2), "true": numa.MaskOf(2, 3)} {
		p, err := New(Config{Policy: BestEffort, Options: map[string]string{"prefer-closest-numa-nodes": option}}, four)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := p.Merge(hints); got.Nodes != want {
			t.Errorf("closest %s: %s, want %s", option, got.Nodes, want)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	nine := numatest.Shape{Sockets: 9, NodesPerSocket: 1, CachesPerNode: 1, CoresPerCache: 1, ThreadsPerCore: 1}.Machine()
	for _, tc := range []struct {
		cfg  Config
		m    numa.Machine
		want string
	}{
		{Config{Policy: "strict"}, two, "give none"},
		{Config{Scope: "node"}, two, "give container or pod"},
		{Config{Policy: Restricted, Options: map[string]string{"x": "1"}}, two, "no such option"},
		{Config{Policy: Restricted, Options: map[string]string{"max-allowable-numa-nodes": "2"}}, two, "at least 8"},
		{Config{Policy: Restricted, Options: map[string]string{"prefer-closest-numa-nodes": "maybe"}}, two, "prefer-closest"},
		{Config{Policy: Restricted}, nine, "more than 8 NUMA nodes"},
	} {
		if _, err := New(tc.cfg, tc.m); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: %v, want %q", tc.cfg, err, tc.want)
		}
	}
	if _, err := New(Config{Policy: Restricted, Options: map[string]string{"max-allowable-numa-nodes": "9"}}, nine); err != nil {
		t.Error(err)
	}
}
