package fit

import (
	"math"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// maxScore is what each score gives the best node, before its weight.
const maxScore = 100

// score gives every node of a list its raw points, and says how to bring them to 0…maxScore.
type score struct {
	weight    int64
	points    func(*Cycle, []*Node) []int64
	normalize func([]int64)
}

// scores has upstream's default weights.
var scores = [...]score{
	{3, scoreTaints, fewerIsBetter},
	{2, scoreNodeAffinity, moreIsBetter},
	{1, scoreLeastAllocated, nil},
	{1, scoreBalanced, nil},
	{2, scoreSpread, nil},
	{2, scoreAffinity, nil},
	{1, scoreImages, nil},
}

// Score returns each node's total. Nodes are those that passed the filters.
func (c *Cycle) Score(nodes []*Node) []int64 {
	total := make([]int64, len(nodes))
	for _, s := range scores {
		points := s.points(c, nodes)
		if points == nil {
			continue // nothing to tell the nodes apart
		}
		if s.normalize != nil {
			s.normalize(points)
		}
		for i, p := range points {
			total[i] += p * s.weight
		}
	}
	return total
}

func moreIsBetter(points []int64) {
	var most int64
	for _, p := range points {
		most = max(most, p)
	}
	for i := range points {
		if most > 0 {
			points[i] = points[i] * maxScore / most
		}
	}
}

func fewerIsBetter(points []int64) {
	moreIsBetter(points)
	for i := range points {
		points[i] = maxScore - points[i]
	}
}

func each(nodes []*Node, f func(*Node) int64) []int64 {
	out := make([]int64, len(nodes))
	for i, n := range nodes {
		out[i] = f(n)
	}
	return out
}

// scoreTaints counts the PreferNoSchedule taints that the pod doesn't tolerate.
func scoreTaints(c *Cycle, nodes []*Node) []int64 {
	return each(nodes, func(n *Node) (bad int64) {
		for i := range n.Spec.Taints {
			if t := &n.Spec.Taints[i]; t.Effect == corev1.TaintEffectPreferNoSchedule && !tolerates(c.Pod.Spec.Tolerations, t) {
				bad++
			}
		}
		return bad
	})
}

// scoreNodeAffinity sums the weights of the preferred node affinity terms that match.
func scoreNodeAffinity(c *Cycle, nodes []*Node) []int64 {
	a := c.Pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || len(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) == 0 {
		return nil
	}
	terms, err := nodeaffinity.NewPreferredSchedulingTerms(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	if err != nil {
		return nil // validation refuses such terms
	}
	return each(nodes, func(n *Node) int64 { return terms.Score(n.Node) })
}

// scoreLeastAllocated prefers the node with the most CPU and memory left, the pod included.
func scoreLeastAllocated(c *Cycle, nodes []*Node) []int64 {
	free := func(used, have int64) int64 {
		if have == 0 || used > have {
			return 0
		}
		return (have - used) * maxScore / have
	}
	return each(nodes, func(n *Node) int64 {
		cpu := free(n.assumedCPU+c.Pod.assumedCPU, n.allocatable.MilliCPU)
		mem := free(n.assumedMemory+c.Pod.assumedMemory, n.allocatable.Memory)
		return (cpu + mem) / 2
	})
}

// scoreBalanced prefers the node whose CPU and memory are used alike.
func scoreBalanced(c *Cycle, nodes []*Node) []int64 {
	if c.Pod.Request.MilliCPU == 0 && c.Pod.Request.Memory == 0 {
		return nil
	}
	used := func(used, have int64) float64 {
		if have == 0 {
			return 1
		}
		return math.Min(float64(used)/float64(have), 1)
	}
	return each(nodes, func(n *Node) int64 {
		cpu := used(n.Requested.MilliCPU+c.Pod.Request.MilliCPU, n.allocatable.MilliCPU)
		mem := used(n.Requested.Memory+c.Pod.Request.Memory, n.allocatable.Memory)
		return int64((1 - math.Abs(cpu-mem)/2) * maxScore)
	})
}

// Sizes between which a present image earns points; below, pulling it is cheap, above, it counts no more.
const (
	smallImage = 23 << 20
	largeImage = 1000 << 20
)

// scoreImages prefers nodes that have the pod's images. An image that is on few of the nodes counts less, lest all
// pods run to the first node that has it.
func scoreImages(c *Cycle, nodes []*Node) []int64 {
	if len(nodes) < 2 {
		return nil
	}
	var names []string
	for i := range c.Pod.Spec.InitContainers {
		names = append(names, imageName(c.Pod.Spec.InitContainers[i].Image))
	}
	for i := range c.Pod.Spec.Containers {
		names = append(names, imageName(c.Pod.Spec.Containers[i].Image))
	}
	present := make([]int64, len(names))
	all := c.Snapshot.Nodes
	for i, name := range names {
		for _, n := range all {
			if _, ok := n.images[name]; ok {
				present[i]++
			}
		}
	}
	limit := int64(largeImage) * int64(max(len(names), 1))
	return each(nodes, func(n *Node) int64 {
		var sum int64
		for i, name := range names {
			if size, ok := n.images[name]; ok {
				sum += size * present[i] / int64(len(all))
			}
		}
		sum = min(max(sum, smallImage), limit)
		return maxScore * (sum - smallImage) / (limit - smallImage)
	})
}

// imageName adds the tag that the node reports the image under.
func imageName(name string) string {
	if strings.LastIndex(name, ":") <= strings.LastIndex(name, "/") {
		return name + ":latest"
	}
	return name
}
