// Package numa is the shape of the machine: which CPUs share a core, a cache, a socket and a memory node, how much memory
// each node has, and how far nodes are from each other. It is read once from /sys; what policies compute with it is pure.
//
// Reads:  /sys/devices/system/{cpu,node}, or another tree of that layout.
// Writes: nothing.
package numa

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"k8s.io/utils/cpuset"
)

// CPU is one logical CPU. Core, Socket and Cache are unique in the machine, whatever the kernel numbers them as.
type CPU struct {
	ID, Core, Socket, Node int
	Cache                  int // the last-level cache ("uncore") that it shares
}

// Node is one memory node.
type Node struct {
	ID        int
	Memory    int64         // bytes
	HugePages map[int64]int // pages set aside, by page size in bytes
	Distances map[int]int   // to every node, itself included
}

// Machine is all CPUs and memory nodes that are online.
type Machine struct {
	CPUs  []CPU  // by ID
	Nodes []Node // by ID
}

// System is where the kernel shows the machine.
const System = "/sys/devices/system"

// Read reads the machine below root (System). A kernel without NUMA counts as one node 0 that has all the memory.
func Read(root string) (Machine, error) {
	var m Machine
	online, err := readSet(filepath.Join(root, "cpu", "online"))
	if err != nil {
		return m, fmt.Errorf("CPUs that are online: %w", err)
	}
	if err := m.readNodes(filepath.Join(root, "node")); err != nil {
		return m, err
	}
	nodeOf := map[int]int{}
	for _, n := range m.Nodes {
		cpus, err := readSet(filepath.Join(root, "node", fmt.Sprintf("node%d", n.ID), "cpulist"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return m, fmt.Errorf("CPUs of memory node %d: %w", n.ID, err)
		}
		for _, id := range cpus.UnsortedList() {
			nodeOf[id] = n.ID
		}
	}
	if len(m.Nodes) == 0 {
		m.Nodes = []Node{{Distances: map[int]int{0: 10}}}
	}
	for _, id := range online.List() {
		m.CPUs = append(m.CPUs, readCPU(filepath.Join(root, "cpu", fmt.Sprintf("cpu%d", id)), id, nodeOf[id]))
	}
	return m, nil
}

// readCPU reads one CPU's place. Core IDs of the kernel are unique in a socket alone, so the lowest sibling names a core;
// files that a kernel doesn't have make each CPU a core of socket 0.
func readCPU(dir string, id, node int) CPU {
	c := CPU{ID: id, Core: id, Node: node, Cache: -1}
	if s, err := strconv.Atoi(readWord(filepath.Join(dir, "topology", "physical_package_id"))); err == nil && s >= 0 {
		c.Socket = s
	}
	for _, name := range []string{"core_cpus_list", "thread_siblings_list"} {
		if set, err := readSet(filepath.Join(dir, "topology", name)); err == nil && !set.IsEmpty() {
			c.Core = set.List()[0]
			break
		}
	}
	caches, _ := filepath.Glob(filepath.Join(dir, "cache", "index*"))
	level := 2 // what is private to a core is no uncore cache
	for _, cache := range caches {
		if l, err := strconv.Atoi(readWord(filepath.Join(cache, "level"))); err != nil || l <= level {
			continue
		} else if set, err := readSet(filepath.Join(cache, "shared_cpu_list")); err == nil && !set.IsEmpty() {
			level, c.Cache = l, set.List()[0]
		}
	}
	if c.Cache < 0 { // none: the socket stands for it
		c.Cache = -1 - c.Socket
	}
	return c
}

func (m *Machine) readNodes(dir string) error {
	online, err := readSet(filepath.Join(dir, "online"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("memory nodes that are online: %w", err)
	}
	ids := online.List()
	for _, id := range ids {
		at := filepath.Join(dir, fmt.Sprintf("node%d", id))
		n := Node{ID: id, HugePages: map[int64]int{}, Distances: map[int]int{}}
		info, err := os.ReadFile(filepath.Join(at, "meminfo"))
		if err != nil {
			return fmt.Errorf("memory of node %d: %w", id, err)
		}
		n.Memory = memTotal(string(info))
		// distance has one number for each node that is online, in order.
		for i, word := range strings.Fields(readWord(filepath.Join(at, "distance"))) {
			if d, err := strconv.Atoi(word); err == nil && i < len(ids) {
				n.Distances[ids[i]] = d
			}
		}
		pages, _ := filepath.Glob(filepath.Join(at, "hugepages", "hugepages-*kB"))
		for _, p := range pages {
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(p), "hugepages-"), "kB"), 10, 64)
			if err != nil {
				continue
			}
			if n.HugePages[kb<<10], err = strconv.Atoi(readWord(filepath.Join(p, "nr_hugepages"))); err != nil {
				return fmt.Errorf("huge pages of node %d: %w", id, err)
			}
		}
		m.Nodes = append(m.Nodes, n)
	}
	slices.SortFunc(m.Nodes, func(a, b Node) int { return cmp.Compare(a.ID, b.ID) })
	return nil
}

// memTotal is the MemTotal of a node's meminfo ("Node 0 MemTotal:  1234 kB") in bytes.
func memTotal(text string) int64 {
	for line := range strings.Lines(text) {
		if _, rest, ok := strings.Cut(line, "MemTotal:"); ok {
			if f := strings.Fields(rest); len(f) > 0 {
				kb, _ := strconv.ParseInt(f[0], 10, 64)
				return kb << 10
			}
		}
	}
	return 0
}

func readWord(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func readSet(path string) (cpuset.CPUSet, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return cpuset.New(), err
	}
	return cpuset.Parse(strings.TrimSpace(string(b)))
}

// All is every CPU.
func (m Machine) All() cpuset.CPUSet {
	return m.Where(func(CPU) bool { return true })
}

// Where is the set of CPUs that keep says yes to.
func (m Machine) Where(keep func(CPU) bool) cpuset.CPUSet {
	var ids []int
	for _, c := range m.CPUs {
		if keep(c) {
			ids = append(ids, c.ID)
		}
	}
	return cpuset.New(ids...)
}

// In is the set of CPUs on the nodes of a mask.
func (m Machine) In(nodes Mask) cpuset.CPUSet {
	return m.Where(func(c CPU) bool { return nodes.Has(c.Node) })
}

// Mask is the set of all memory nodes.
func (m Machine) Mask() Mask {
	var out Mask
	for _, n := range m.Nodes {
		out = out.With(n.ID)
	}
	return out
}

// ThreadsPerCore is how many CPUs a core has.
func (m Machine) ThreadsPerCore() int {
	cores := map[int]bool{}
	for _, c := range m.CPUs {
		cores[c.Core] = true
	}
	return max(len(m.CPUs)/max(len(cores), 1), 1)
}

// Distance is the mean distance between the nodes of a mask, themselves included.
func (m Machine) Distance(nodes Mask) float64 {
	sum, count := 0, 0
	for _, n := range m.Nodes {
		for _, o := range m.Nodes {
			if nodes.Has(n.ID) && nodes.Has(o.ID) {
				sum, count = sum+n.Distances[o.ID], count+1
			}
		}
	}
	return float64(sum) / float64(max(count, 1))
}
