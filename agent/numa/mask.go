package numa

import (
	"math/bits"
	"strconv"
	"strings"
)

// Mask is a set of memory nodes; node 63 is the highest that it holds, as with upstream.
type Mask uint64

// MaskOf is the mask of these nodes; those out of range are left out.
func MaskOf(nodes ...int) Mask {
	var m Mask
	for _, n := range nodes {
		m = m.With(n)
	}
	return m
}

// With adds a node.
func (m Mask) With(node int) Mask {
	if node < 0 || node > 63 {
		return m
	}
	return m | 1<<node
}

// Has tells whether a node is in it.
func (m Mask) Has(node int) bool { return node >= 0 && node < 64 && m&(1<<node) != 0 }

// Count is how many nodes are in it.
func (m Mask) Count() int { return bits.OnesCount64(uint64(m)) }

// Nodes lists them in order.
func (m Mask) Nodes() []int {
	var out []int
	for i := range 64 {
		if m.Has(i) {
			out = append(out, i)
		}
	}
	return out
}

// Narrower prefers fewer nodes, and the lower ones among as many.
func (m Mask) Narrower(o Mask) bool {
	if m.Count() == o.Count() {
		return m < o
	}
	return m.Count() < o.Count()
}

func (m Mask) String() string {
	var words []string
	for _, n := range m.Nodes() {
		words = append(words, strconv.Itoa(n))
	}
	return strings.Join(words, ",")
}

// Subsets calls f with every non-empty subset of m, smaller ones first.
func (m Mask) Subsets(f func(Mask)) {
	nodes := m.Nodes()
	for size := 1; size <= len(nodes); size++ {
		var choose func(from, left int, sub Mask)
		choose = func(from, left int, sub Mask) {
			if left == 0 {
				f(sub)
				return
			}
			for i := from; i <= len(nodes)-left; i++ {
				choose(i+1, left-1, sub.With(nodes[i]))
			}
		}
		choose(0, size, 0)
	}
}
