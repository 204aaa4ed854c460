package cpu

import (
	"strings"
	"testing"

	"k8s.io/utils/cpuset"

	"github.com/mote-edge/mote/agent/numa"
	"github.com/mote-edge/mote/agent/numa/numatest"
)

var (
	// 0-3 are the first threads of cores 0-3, 4-7 the second ones.
	single = numatest.Shape{Sockets: 1, NodesPerSocket: 1, CachesPerNode: 1, CoresPerCache: 4, ThreadsPerCore: 2}.Machine()
	flat   = numatest.Shape{Sockets: 1, NodesPerSocket: 1, CachesPerNode: 1, CoresPerCache: 4, ThreadsPerCore: 1}.Machine()
	// Node 0: 0-2,6-8; node 1: 3-5,9-11.
	dual = numatest.Shape{Sockets: 2, NodesPerSocket: 1, CachesPerNode: 1, CoresPerCache: 3, ThreadsPerCore: 2}.Machine()
	// Two nodes a socket of two cores each: nodes 0,1 are 0-3 and 8-11; nodes 2,3 are 4-7 and 12-15.
	quad = numatest.Shape{Sockets: 2, NodesPerSocket: 2, CachesPerNode: 1, CoresPerCache: 2, ThreadsPerCore: 2}.Machine()
	// Four caches of four cores in one node, no SMT: 0-3, 4-7, 8-11, 12-15.
	caches = numatest.Shape{Sockets: 1, NodesPerSocket: 1, CachesPerNode: 4, CoresPerCache: 4, ThreadsPerCore: 1}.Machine()
)

func set(t *testing.T, text string) cpuset.CPUSet {
	t.Helper()
	s, err := cpuset.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTake(t *testing.T) {
	for _, tc := range []struct {
		name  string
		m     numa.Machine
		free  string
		n     int
		align bool
		want  string // or "error"
	}{
		{"nothing", single, "0-7", 0, false, ""},
		{"too many", single, "0-6", 8, false, "error"},
		{"all", single, "0-7", 8, false, "0-7"},
		{"one thread", single, "0-7", 1, false, "0"},
		{"a core", single, "0-7", 2, false, "0,4"},
		{"a core and a thread", single, "0-7", 3, false, "0-1,4"},
		{"a core that is whole", single, "1-7", 2, false, "1,5"},
		{"the thread that is alone goes first", single, "1-7", 1, false, "4"},
		{"a whole core and then the lone thread", single, "1-7", 3, false, "1,4-5"},
		{"no whole core left", single, "0,1,2,3", 2, false, "0-1"},
		{"without SMT", flat, "0-3", 2, false, "0-1"},
		{"without SMT, some taken", flat, "1,3", 2, false, "1,3"},
		{"a whole node", dual, "0-11", 6, false, "0-2,6-8"},
		{"the node that is whole", dual, "1-11", 6, false, "3-5,9-11"},
		{"the fuller node keeps whole ones whole", dual, "1-5,7-11", 2, false, "1,7"},
		{"from the fuller node, even the second one", dual, "0-4,6-10", 2, false, "3,9"},
		{"a node and a core", dual, "0-11", 8, false, "0-3,6-9"},
		{"both nodes", dual, "0-11", 12, false, "0-11"},
		{"a socket of two nodes", quad, "0-15", 8, false, "0-3,8-11"},
		{"a node of a socket", quad, "0-15", 4, false, "0-1,8-9"},
		{"a node where its socket is broken already", quad, "0-7,9-15", 4, false, "2-3,10-11"},
		{"more than a node", quad, "0-15", 6, false, "0-2,8-10"},
		{"a cache", caches, "0-15", 4, true, "0-3"},
		{"a cache that is whole", caches, "1-15", 4, true, "4-7"},
		{"not over two caches", caches, "2-15", 3, true, "4-6"},
		{"without the option, over two caches", caches, "2-15", 3, false, "2-4"},
		{"the tightest cache that has enough", caches, "2-15", 2, true, "2-3"},
		{"a cache and the rest from one", caches, "1-15", 6, true, "1-2,4-7"},
		{"no cache has enough", caches, "0,1,4,5,8,9", 3, true, "0-1,4"},
		{"whole caches first", caches, "0-15", 9, true, "0-8"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := take(tc.m, set(t, tc.free), tc.n, tc.align)
			if tc.want == "error" {
				if err == nil || !strings.Contains(err.Error(), "not enough cpus available to satisfy request: requested=8, available=7") {
					t.Fatalf("take = %s, %v", got, err)
				}
				return
			}
			if err != nil || got.String() != tc.want {
				t.Errorf("take = %q, %v, want %q", got, err, tc.want)
			}
		})
	}
}

// Whatever is free and asked for: as many as asked, of the free ones only.
func TestTakeAlwaysFits(t *testing.T) {
	for name, m := range map[string]numa.Machine{"single": single, "dual": dual, "quad": quad, "caches": caches} {
		for seed := range 500 {
			var ids []int
			for _, c := range m.CPUs {
				if (seed*2654435761>>uint(c.ID%16))&1 == 1 {
					ids = append(ids, c.ID)
				}
			}
			free := cpuset.New(ids...)
			for n := range free.Size() + 1 {
				for _, align := range []bool{false, true} {
					got, err := take(m, free, n, align)
					if err != nil || got.Size() != n || !got.IsSubsetOf(free) {
						t.Fatalf("%s: take %d of %s = %s, %v", name, n, free, got, err)
					}
				}
			}
		}
	}
}
