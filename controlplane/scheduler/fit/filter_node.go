package fit

import (
	corev1 "k8s.io/api/core/v1"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

func filterUnschedulable(c *Cycle, n *Node) Refusal {
	if !n.Spec.Unschedulable {
		return Refusal{}
	}
	taint := corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
	if tolerates(c.Pod.Spec.Tolerations, &taint) {
		return Refusal{}
	}
	return refuseFinally(NodeUnschedulable, "node(s) were unschedulable")
}

func filterNodeName(c *Cycle, n *Node) Refusal {
	if want := c.Pod.Spec.NodeName; want != "" && want != n.Name {
		return refuseFinally(NodeName, "node(s) didn't match the requested node name")
	}
	return Refusal{}
}

// filterTaints also covers the node's conditions: the node lifecycle controller turns each of them into a taint.
func filterTaints(c *Cycle, n *Node) Refusal {
	for i := range n.Spec.Taints {
		if t := &n.Spec.Taints[i]; hasTaintEffect(t) && !tolerates(c.Pod.Spec.Tolerations, t) {
			return refuseFinally(TaintToleration, "node(s) had untolerated taint(s)")
		}
	}
	return Refusal{}
}

func tolerates(tolerations []corev1.Toleration, t *corev1.Taint) bool {
	return len(tolerations) > 0 && schedulinghelper.TolerationsTolerateTaint(klog.Background(), tolerations, t, true)
}

// requiredNodes is nodeSelector and required node affinity; nil asks for nothing.
type requiredNodes struct {
	match func(*corev1.Node) (bool, error)
}

func newRequiredNodes(p *corev1.Pod) requiredNodes {
	a := p.Spec.Affinity
	if len(p.Spec.NodeSelector) == 0 && (a == nil || a.NodeAffinity == nil) {
		return requiredNodes{}
	}
	return requiredNodes{match: nodeaffinity.GetRequiredNodeAffinity(p).Match}
}

// allows takes a term that can't be parsed for one that doesn't match; validation refuses such terms anyway.
func (r requiredNodes) allows(n *corev1.Node) bool {
	if r.match == nil {
		return true
	}
	ok, err := r.match(n)
	return ok && err == nil
}

func filterNodeAffinity(c *Cycle, n *Node) Refusal {
	if c.nodeAffinity.allows(n.Node) {
		return Refusal{}
	}
	return refuseFinally(NodeAffinity, "node(s) didn't match Pod's node affinity/selector")
}

func filterPorts(c *Cycle, n *Node) Refusal {
	if len(c.Pod.ports) == 0 {
		return Refusal{}
	}
	for _, p := range n.Pods {
		for _, used := range p.ports {
			for _, want := range c.Pod.ports {
				if want.conflicts(used) {
					return refuse(NodePorts, "node(s) didn't have free ports for the requested pod ports")
				}
			}
		}
	}
	return Refusal{}
}
