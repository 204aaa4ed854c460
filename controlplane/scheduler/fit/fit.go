// Package fit decides which node a pod goes to: filters that say whether a node can take the pod, and why not, and
// scores that say how well it would. Everything is a pure function over plain values; the reasons are worded as
// upstream's scheduler words them, because people and tests search for them.
//
// A Cycle holds what the filters and scores need to know about one pod against one Snapshot, computed once. Preemption
// asks "what if these pods were not there" by evaluating a changed copy of the snapshot.
//
// Reads: a Snapshot, and volume objects through Volumes. Writes: nothing.
package fit

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	ndf "k8s.io/component-helpers/nodedeclaredfeatures"
)

// Filter names one filter; a set of them is a bit mask, so that the queue can remember who refused a pod.
type Filter uint32

// The filters in the order in which they are asked. The first refusal of a node counts.
const (
	NodeUnschedulable Filter = 1 << iota
	NodeName
	TaintToleration
	NodeAffinity
	NodePorts
	NodeResources
	VolumeBinding
	TopologySpread
	InterPodAffinity
	DynamicResources
	DeclaredFeatures
)

// Refusal says why a node, or every node, can't take the pod. The zero value is no refusal.
type Refusal struct {
	By      Filter
	Reasons []string
	Final   bool // removing other pods from the node would not help
}

// Refused says whether there is a refusal.
func (r Refusal) Refused() bool { return r.By != 0 }

func refuse(by Filter, reason string) Refusal { return Refusal{By: by, Reasons: []string{reason}} }

func refuseFinally(by Filter, reason string) Refusal {
	return Refusal{By: by, Reasons: []string{reason}, Final: true}
}

// Snapshot is the cluster as the scheduler sees it.
type Snapshot struct {
	Nodes           []*Node                           // those whose Node object is known
	NamespaceLabels func(namespace string) labels.Set // for namespace selectors of affinity terms
	Volumes         Volumes                           // nil: pods with claims are refused
	Claims          Claims                            // nil: pods with resource claims are refused
}

// With returns a snapshot with one node replaced, and the index of it unchanged.
func (s *Snapshot) With(i int, n *Node) *Snapshot {
	c := *s
	c.Nodes = slices.Clone(s.Nodes)
	c.Nodes[i] = n
	return &c
}

// Cycle is one pod against one snapshot.
type Cycle struct {
	Pod      *Pod
	Snapshot *Snapshot

	nodeAffinity requiredNodes
	spread       spreadState
	affinity     affinityState
	volumes      volumeState
	needs        ndf.FeatureSet

	// Claims are the pod's resource claims; nil if it has none.
	Claims PodClaims
}

// NewCycle computes what the filters need. A refusal concerns the pod, whichever the node.
func NewCycle(pod *Pod, s *Snapshot) (*Cycle, Refusal) {
	c := &Cycle{Pod: pod, Snapshot: s}
	c.nodeAffinity, c.needs = newRequiredNodes(pod.Pod), newNeeds(pod.Pod)
	var r Refusal
	if c.Claims, r = newClaims(pod, s.Claims); r.Refused() {
		return c, r
	}
	if c.volumes, r = newVolumeState(pod, s.Volumes); r.Refused() {
		return c, r
	}
	c.spread = newSpreadState(c)
	c.affinity = newAffinityState(c)
	return c, Refusal{}
}

// Filter asks every filter about a node of the snapshot.
func (c *Cycle) Filter(n *Node) Refusal {
	for _, f := range [...]func(*Cycle, *Node) Refusal{
		filterUnschedulable,
		filterNodeName,
		filterTaints,
		filterNodeAffinity,
		filterFeatures,
		filterPorts,
		filterResources,
		filterVolumes,
		filterSpread,
		filterAffinity,
		filterClaims, // the dearest one comes last
	} {
		if r := f(c, n); r.Refused() {
			return r
		}
	}
	return Refusal{}
}

// Explain counts the refusals by reason in the words of a FailedScheduling event.
func Explain(nodes int, refusals []Refusal) string {
	if nodes == 0 {
		return "no nodes available to schedule pods"
	}
	count := map[string]int{}
	for _, r := range refusals {
		for _, reason := range r.Reasons {
			count[reason]++
		}
	}
	lines := make([]string, 0, len(count))
	for reason, n := range count {
		lines = append(lines, fmt.Sprintf("%d %s", n, reason))
	}
	slices.Sort(lines)
	msg := fmt.Sprintf("0/%d nodes are available:", nodes)
	if len(lines) > 0 {
		msg += " " + strings.Join(lines, ", ") + "."
	}
	return msg
}

// ExplainPod is Explain for a refusal that concerns every node alike.
func ExplainPod(nodes int, r Refusal) string {
	return fmt.Sprintf("0/%d nodes are available: %s.", nodes, strings.Join(r.Reasons, ", "))
}

func hasTaintEffect(t *corev1.Taint) bool {
	return t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute
}
