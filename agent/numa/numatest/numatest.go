// Package numatest makes machines for tests: regular ones, and their /sys trees.
//
// Reads:  nothing.
// Writes: the tree that it is asked for.
package numatest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/utils/cpuset"

	"github.com/mote-edge/mote/agent/numa"
)

// Shape describes a regular machine, for tests on machines that the test doesn't run on.
type Shape struct {
	Sockets, NodesPerSocket, CachesPerNode, CoresPerCache, ThreadsPerCore int
	Memory                                                                int64         // bytes a node
	HugePages                                                             map[int64]int // pages a node
}

// Machine is the machine of that shape. Threads are numbered as most firmware does it: first every core's first thread.
func (s Shape) Machine() numa.Machine {
	var m numa.Machine
	cores := s.Sockets * s.NodesPerSocket * s.CachesPerNode * s.CoresPerCache
	m.CPUs = make([]numa.CPU, cores*s.ThreadsPerCore)
	for core := range cores {
		cache := core / s.CoresPerCache
		node := cache / s.CachesPerNode
		for t := range s.ThreadsPerCore {
			id := t*cores + core
			m.CPUs[id] = numa.CPU{ID: id, Core: core, Socket: node / s.NodesPerSocket, Node: node, Cache: cache * s.CoresPerCache}
		}
	}
	nodes := s.Sockets * s.NodesPerSocket
	for n := range nodes {
		node := numa.Node{ID: n, Memory: s.Memory, HugePages: map[int64]int{}, Distances: map[int]int{}}
		for size, count := range s.HugePages {
			node.HugePages[size] = count
		}
		for o := range nodes {
			switch {
			case o == n:
				node.Distances[o] = 10
			case o/s.NodesPerSocket == n/s.NodesPerSocket:
				node.Distances[o] = 12
			default:
				node.Distances[o] = 21
			}
		}
		m.Nodes = append(m.Nodes, node)
	}
	return m
}

// WriteTree writes m the way the kernel shows a machine, below root.
func WriteTree(root string, m numa.Machine) error {
	var first error
	put := func(text string, path ...string) {
		file := filepath.Join(append([]string{root}, path...)...)
		err := os.MkdirAll(filepath.Dir(file), 0o755)
		if err == nil {
			err = os.WriteFile(file, []byte(text+"\n"), 0o644)
		}
		if err != nil && first == nil {
			first = err
		}
	}
	put(m.All().String(), "cpu", "online")
	for _, c := range m.CPUs {
		dir := fmt.Sprintf("cpu%d", c.ID)
		put(fmt.Sprint(c.Socket), "cpu", dir, "topology", "physical_package_id")
		put(m.Where(func(o numa.CPU) bool { return o.Core == c.Core }).String(), "cpu", dir, "topology", "core_cpus_list")
		put("1", "cpu", dir, "cache", "index0", "level")
		put(cpuset.New(c.ID).String(), "cpu", dir, "cache", "index0", "shared_cpu_list")
		put("3", "cpu", dir, "cache", "index3", "level")
		put(m.Where(func(o numa.CPU) bool { return o.Cache == c.Cache }).String(), "cpu", dir, "cache", "index3", "shared_cpu_list")
	}
	put(cpuset.New(m.Mask().Nodes()...).String(), "node", "online")
	for _, n := range m.Nodes {
		dir := fmt.Sprintf("node%d", n.ID)
		put(m.In(numa.MaskOf(n.ID)).String(), "node", dir, "cpulist")
		put(fmt.Sprintf("Node %d MemTotal:       %d kB\nNode %d MemFree:        1 kB", n.ID, n.Memory>>10, n.ID), "node", dir, "meminfo")
		var distances []string
		for _, o := range m.Nodes {
			distances = append(distances, fmt.Sprint(n.Distances[o.ID]))
		}
		put(strings.Join(distances, " "), "node", dir, "distance")
		for size, count := range n.HugePages {
			put(fmt.Sprint(count), "node", dir, "hugepages", fmt.Sprintf("hugepages-%dkB", size>>10), "nr_hugepages")
		}
	}
	return first
}
