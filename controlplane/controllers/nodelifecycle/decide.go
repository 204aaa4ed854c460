package nodelifecycle

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"
)

// silentConditions are set to Unknown when a node has not been heard of for the grace period.
var silentConditions = []corev1.NodeConditionType{
	corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure,
}

// silence returns the conditions of a node that fell silent, and whether they differ from what it has.
func silence(n *corev1.Node, now metav1.Time) ([]corev1.NodeCondition, bool) {
	out, changed := make([]corev1.NodeCondition, 0, len(n.Status.Conditions)), false
	known := map[corev1.NodeConditionType]bool{}
	for _, c := range n.Status.Conditions {
		known[c.Type] = true
		for _, t := range silentConditions {
			if c.Type == t && c.Status != corev1.ConditionUnknown {
				c.Status, c.Reason, c.Message = corev1.ConditionUnknown, "NodeStatusUnknown", "Kubelet stopped posting node status."
				c.LastTransitionTime, changed = now, true
			}
		}
		out = append(out, c)
	}
	for _, t := range silentConditions {
		if !known[t] {
			out = append(out, corev1.NodeCondition{
				Type: t, Status: corev1.ConditionUnknown, Reason: "NodeStatusNeverUpdated", Message: "Kubelet never posted node status.",
				LastHeartbeatTime: n.CreationTimestamp, LastTransitionTime: now,
			})
			changed = true
		}
	}
	return out, changed
}

func condition(n *corev1.Node, t corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range n.Status.Conditions {
		if n.Status.Conditions[i].Type == t {
			return &n.Status.Conditions[i]
		}
	}
	return nil
}

func ready(n *corev1.Node) bool {
	c := condition(n, corev1.NodeReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// conditionTaints says which condition in which state is which taint.
var conditionTaints = []struct {
	condition corev1.NodeConditionType
	status    corev1.ConditionStatus
	taint     string
}{
	{corev1.NodeReady, corev1.ConditionFalse, corev1.TaintNodeNotReady},
	{corev1.NodeReady, corev1.ConditionUnknown, corev1.TaintNodeUnreachable},
	{corev1.NodeMemoryPressure, corev1.ConditionTrue, corev1.TaintNodeMemoryPressure},
	{corev1.NodeDiskPressure, corev1.ConditionTrue, corev1.TaintNodeDiskPressure},
	{corev1.NodePIDPressure, corev1.ConditionTrue, corev1.TaintNodePIDPressure},
	{corev1.NodeNetworkUnavailable, corev1.ConditionTrue, corev1.TaintNodeNetworkUnavailable},
}

// desiredTaints returns a node's taints as its conditions want them: one with NoSchedule for each bad condition, one
// with NoExecute in addition if the node is not ready or unreachable and pods may be moved away. Taints that speak of
// something else are kept as they are.
func desiredTaints(n *corev1.Node, mayEvict bool, now metav1.Time) ([]corev1.Taint, bool) {
	want := map[taintID]bool{}
	ours := map[taintID]bool{{corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule}: true}
	var order []taintID
	add := func(key string, effect corev1.TaintEffect) {
		id := taintID{key, effect}
		if !want[id] {
			want[id] = true
			order = append(order, id)
		}
	}
	if n.Spec.Unschedulable {
		add(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule)
	}
	for _, ct := range conditionTaints {
		ours[taintID{ct.taint, corev1.TaintEffectNoSchedule}] = true
		evicts := ct.condition == corev1.NodeReady
		if evicts {
			ours[taintID{ct.taint, corev1.TaintEffectNoExecute}] = true
		}
		if c := condition(n, ct.condition); c != nil && c.Status == ct.status {
			add(ct.taint, corev1.TaintEffectNoSchedule)
			if evicts && mayEvict {
				add(ct.taint, corev1.TaintEffectNoExecute)
			}
		}
	}
	if condition(n, corev1.NodeReady) == nil {
		// Not heard of yet: admission's taint stays until the first status.
		delete(ours, taintID{corev1.TaintNodeNotReady, corev1.TaintEffectNoSchedule})
	}
	var out []corev1.Taint
	changed := false
	for _, t := range n.Spec.Taints {
		id := taintID{t.Key, t.Effect}
		switch {
		case want[id]:
			delete(want, id)
		case ours[id]:
			changed = true
			continue
		}
		out = append(out, t)
	}
	for _, id := range order {
		if want[id] {
			t := corev1.Taint{Key: id.key, Effect: id.effect}
			if id.effect == corev1.TaintEffectNoExecute {
				t.TimeAdded = &now
			}
			out = append(out, t)
			changed = true
		}
	}
	return out, changed
}

type taintID struct {
	key    string
	effect corev1.TaintEffect
}

// mayEvict says whether pods may be moved off nodes that are not ready. If all nodes are away, or most of more than a
// few, then it is more likely the network, or this process, that is cut off: as upstream, nothing is moved then.
func mayEvict(readyNodes, others int) bool {
	if readyNodes == 0 {
		return false
	}
	return others <= 2 || float64(others)/float64(others+readyNodes) < 0.55
}

// evictAt says when a pod has to leave a node because of its NoExecute taints. The taints have been seen since the
// given times; a pod without a toleration leaves at once.
func evictAt(p *corev1.Pod, taints []corev1.Taint, since func(*corev1.Taint) time.Time) (at time.Time, leaves bool) {
	for i := range taints {
		t := &taints[i]
		if t.Effect != corev1.TaintEffectNoExecute {
			continue
		}
		stay, tolerated := toleratedFor(p.Spec.Tolerations, t)
		if tolerated && stay < 0 {
			continue // forever
		}
		end := since(t)
		if tolerated {
			end = end.Add(stay)
		}
		if !leaves || end.Before(at) {
			at, leaves = end, true
		}
	}
	return at, leaves
}

// toleratedFor is the shortest time of the tolerations that match a taint; negative means without limit.
func toleratedFor(tolerations []corev1.Toleration, t *corev1.Taint) (time.Duration, bool) {
	stay, found := time.Duration(-1), false
	for i := range tolerations {
		if !schedulinghelper.TolerationsTolerateTaint(klog.Background(), tolerations[i:i+1], t, true) {
			continue
		}
		found = true
		if s := tolerations[i].TolerationSeconds; s != nil {
			if d := time.Duration(max(*s, 0)) * time.Second; stay < 0 || d < stay {
				stay = d
			}
		}
	}
	return stay, found
}
