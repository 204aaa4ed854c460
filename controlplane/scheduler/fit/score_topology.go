package fit

import (
	"math"

	corev1 "k8s.io/api/core/v1"
)

// scoreSpread prefers the domains with fewer matching pods, for the constraints that may be violated.
func scoreSpread(c *Cycle, nodes []*Node) []int64 {
	soft := c.spread.soft
	if len(soft) == 0 || len(nodes) < 2 {
		return nil
	}
	if len(c.Pod.Spec.TopologySpreadConstraints) == 0 {
		soft = withKeys(soft, nodes) // a built-in constraint doesn't exclude nodes that lack its label
	}
	raw := make([]float64, len(nodes))
	ignored := make([]bool, len(nodes))
	for _, sc := range soft {
		sc.count(c, soft)
		domains := map[string]bool{}
		for i, n := range nodes {
			if value, ok := n.Labels[sc.key]; ok {
				domains[value] = true
			} else {
				ignored[i] = true
			}
		}
		weight := math.Log(float64(len(domains) + 2)) // few domains: a difference in one matters less
		for i, n := range nodes {
			raw[i] += float64(sc.perDomain[n.Labels[sc.key]])*weight + float64(sc.maxSkew-1)
		}
	}
	low, high := int64(math.MaxInt64), int64(0)
	points := make([]int64, len(nodes))
	for i := range nodes {
		points[i] = int64(math.Round(raw[i]))
		if !ignored[i] {
			low, high = min(low, points[i]), max(high, points[i])
		}
	}
	for i := range points {
		switch {
		case ignored[i]:
			points[i] = 0
		case high == 0:
			points[i] = maxScore
		default:
			points[i] = maxScore * (high + low - points[i]) / high
		}
	}
	return points
}

func withKeys(in []*spreadConstraint, nodes []*Node) []*spreadConstraint {
	var out []*spreadConstraint
	for _, sc := range in {
		everywhere := true
		for _, n := range nodes {
			_, ok := n.Labels[sc.key]
			everywhere = everywhere && ok
		}
		if everywhere {
			out = append(out, sc)
		}
	}
	return out
}

// hardTermWeight is what an existing pod's required affinity to the incoming one counts: it would be glad to have it.
const hardTermWeight = 1

// scoreAffinity sums, by topology domain, the weights of the incoming pod's preferences about the pods there and of
// their preferences about it.
func scoreAffinity(c *Cycle, nodes []*Node) []int64 {
	pod, nsLabels := c.Pod, c.Snapshot.NamespaceLabels
	own := len(pod.prefer)+len(pod.avoid) > 0
	sums := map[domain]int64{}
	for _, n := range c.Snapshot.Nodes {
		if !own && n.withTerms == 0 {
			continue
		}
		for _, o := range n.Pods {
			weigh(sums, n, pod.prefer, o.Pod, nsLabels, 1)
			weigh(sums, n, pod.avoid, o.Pod, nsLabels, -1)
			weigh(sums, n, o.prefer, pod.Pod, nsLabels, 1)
			weigh(sums, n, o.avoid, pod.Pod, nsLabels, -1)
			for i := range o.affinity {
				weigh(sums, n, []weightedTerm{{o.affinity[i], hardTermWeight}}, pod.Pod, nsLabels, 1)
			}
		}
	}
	if len(sums) == 0 {
		return nil
	}
	points := each(nodes, func(n *Node) (sum int64) {
		for d, w := range sums {
			if value, ok := n.Labels[d.key]; ok && value == d.value {
				sum += w
			}
		}
		return sum
	})
	low, high := int64(math.MaxInt64), int64(math.MinInt64)
	for _, p := range points {
		low, high = min(low, p), max(high, p)
	}
	for i := range points {
		if high > low {
			points[i] = maxScore * (points[i] - low) / (high - low)
		} else {
			points[i] = 0
		}
	}
	return points
}

func weigh(sums map[domain]int64, n *Node, terms []weightedTerm, p *corev1.Pod, nsLabels nsLabelsFunc, sign int64) {
	for i := range terms {
		t := &terms[i]
		if value, ok := n.Labels[t.topologyKey]; ok && t.selects(p, nsLabels) {
			sums[domain{t.topologyKey, value}] += sign * t.weight
		}
	}
}
