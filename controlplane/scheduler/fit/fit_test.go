package fit

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

type podOption func(*corev1.Pod)

var podCount int

func pod(opts ...podOption) *corev1.Pod {
	podCount++
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p", podCount), Namespace: "ns", UID: types.UID(fmt.Sprint("u", podCount))},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "img:1"}}},
	}
	for _, o := range opts {
		o(p)
	}
	return p
}

func list(kv ...string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for i := 0; i < len(kv); i += 2 {
		l[corev1.ResourceName(kv[i])] = resource.MustParse(kv[i+1])
	}
	return l
}

func requests(kv ...string) podOption {
	return func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests = list(kv...) }
}

func labeled(kv ...string) podOption {
	return func(p *corev1.Pod) {
		p.Labels = map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			p.Labels[kv[i]] = kv[i+1]
		}
	}
}

func priority(v int32) podOption { return func(p *corev1.Pod) { p.Spec.Priority = &v } }

func spec(f func(*corev1.PodSpec)) podOption { return func(p *corev1.Pod) { f(&p.Spec) } }

func inNamespace(ns string) podOption { return func(p *corev1.Pod) { p.Namespace = ns } }

type nodeOption func(*corev1.Node)

func node(name string, opts ...nodeOption) *Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}},
		Status:     corev1.NodeStatus{Allocatable: list("cpu", "4", "memory", "8Gi", "pods", "110", "ephemeral-storage", "10Gi")},
	}
	for _, o := range opts {
		o(n)
	}
	f := &Node{}
	f.SetNode(n)
	return f
}

func (n *Node) with(pods ...*corev1.Pod) *Node {
	for _, p := range pods {
		n.Add(NewPod(p))
	}
	return n
}

func zone(z string) nodeOption {
	return func(n *corev1.Node) { n.Labels[corev1.LabelTopologyZone] = z }
}

func nodeLabel(k, v string) nodeOption { return func(n *corev1.Node) { n.Labels[k] = v } }

func taint(key string, effect corev1.TaintEffect) nodeOption {
	return func(n *corev1.Node) { n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: effect}) }
}

func allocatable(kv ...string) nodeOption {
	return func(n *corev1.Node) {
		for name, q := range list(kv...) {
			n.Status.Allocatable[name] = q
		}
	}
}

func snapshot(nodes ...*Node) *Snapshot {
	return &Snapshot{Nodes: nodes, NamespaceLabels: func(ns string) labels.Set { return labels.Set{"name": ns} }}
}

// verdicts filters every node and returns the reasons, joined, empty for a node that fits.
func verdicts(t *testing.T, p *corev1.Pod, s *Snapshot) []string {
	t.Helper()
	c, r := NewCycle(NewPod(p), s)
	out := make([]string, len(s.Nodes))
	for i, n := range s.Nodes {
		v := r
		if !r.Refused() {
			v = c.Filter(n)
		}
		out[i] = strings.Join(v.Reasons, ", ")
		if v.Refused() != (out[i] != "") {
			t.Errorf("node %s: a refusal and its reason go together: %+v", n.Name, v)
		}
	}
	return out
}

func same(a, b []string) bool { return strings.Join(a, "|") == strings.Join(b, "|") }

func selector(kv ...string) *metav1.LabelSelector {
	s := &metav1.LabelSelector{MatchLabels: map[string]string{}}
	for i := 0; i < len(kv); i += 2 {
		s.MatchLabels[kv[i]] = kv[i+1]
	}
	return s
}

func TestExplain(t *testing.T) {
	refusals := []Refusal{
		{By: TaintToleration, Reasons: []string{"node(s) had untolerated taint(s)"}},
		{By: NodeResources, Reasons: []string{"Insufficient cpu", "Insufficient memory"}},
		{By: TaintToleration, Reasons: []string{"node(s) had untolerated taint(s)"}},
	}
	want := "0/3 nodes are available: 1 Insufficient cpu, 1 Insufficient memory, 2 node(s) had untolerated taint(s)."
	if got := Explain(3, refusals); got != want {
		t.Errorf("Explain = %q, want %q", got, want)
	}
	if got := Explain(0, nil); got != "no nodes available to schedule pods" {
		t.Errorf("Explain(0) = %q", got)
	}
}
