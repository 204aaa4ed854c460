package fit

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func named(n string) podOption { return func(p *corev1.Pod) { p.Name = n } }

func started(minutes int) podOption {
	return func(p *corev1.Pod) {
		p.Status.StartTime = &metav1.Time{Time: time.Unix(int64(minutes)*60, 0)}
	}
}

func budget(allowed int32, kv ...string) *policyv1.PodDisruptionBudget {
	return &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns"},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: selector(kv...)},
		Status:     policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: allowed},
	}
}

func TestPreempt(t *testing.T) {
	cpu := func(name string, prio int32, amount string, more ...podOption) *corev1.Pod {
		return pod(append([]podOption{named(name), priority(prio), requests("cpu", amount)}, more...)...)
	}
	for _, c := range []struct {
		name    string
		pod     *corev1.Pod
		s       *Snapshot
		budgets []*policyv1.PodDisruptionBudget
		want    string // node: victims
	}{
		{"one victim is enough", cpu("new", 10, "2"), snapshot(node("a").with(cpu("x", 0, "2"), cpu("y", 1, "2"))), nil, "a: x"},
		{"equals are left alone", cpu("new", 10, "2"), snapshot(node("a").with(cpu("x", 10, "4"))), nil, ""},
		{"no deletion helps", cpu("new", 10, "5"), snapshot(node("a").with(cpu("x", 0, "4"))), nil, ""},
		{"the less important victim", cpu("new", 10, "4"), snapshot(node("a").with(cpu("x", 5, "4")), node("b").with(cpu("y", 1, "4"))), nil, "b: y"},
		{"fewer victims", cpu("new", 10, "4"), snapshot(node("a").with(cpu("x", 1, "2"), cpu("y", 1, "2")), node("b").with(cpu("z", 1, "4"))), nil, "b: z"},
		{"the younger victim", cpu("new", 10, "4"), snapshot(node("a").with(cpu("x", 1, "4", started(1))), node("b").with(cpu("y", 1, "4", started(2)))), nil, "b: y"},
		{"a budget outweighs priority", cpu("new", 10, "4"), snapshot(node("a").with(cpu("x", 1, "4", labeled("app", "db"))), node("b").with(cpu("y", 5, "4"))), []*policyv1.PodDisruptionBudget{budget(0, "app", "db")}, "b: y"},
		{"a budget with room", cpu("new", 10, "4"), snapshot(node("a").with(cpu("x", 1, "4", labeled("app", "db"))), node("b").with(cpu("y", 5, "4"))), []*policyv1.PodDisruptionBudget{budget(1, "app", "db")}, "a: x"},
		{"budgeted pods are put back first", cpu("new", 10, "2"), snapshot(node("a").with(cpu("x", 1, "2", labeled("app", "db")), cpu("y", 5, "2"))), []*policyv1.PodDisruptionBudget{budget(0, "app", "db")}, "a: y"},
		{"a port is freed", pod(named("new"), priority(10), hostPorts2(corev1.ContainerPort{HostPort: 80})), snapshot(node("a").with(pod(named("x"), priority(0), hostPorts2(corev1.ContainerPort{HostPort: 80})), pod(named("y"), priority(0)))), nil, "a: x"},
		{"an anti-affinity is lifted", pod(named("new"), priority(10), podAffinity(true, byHost(selector("app", "db")))), snapshot(node("a").with(pod(named("x"), labeled("app", "db")), pod(named("y")))), nil, "a: x"},
		{"a taint stays", cpu("new", 10, "2"), snapshot(node("a", taint("k", corev1.TaintEffectNoSchedule)).with(cpu("x", 0, "4"))), nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := NewPod(c.pod)
			cycle, r := NewCycle(p, c.s)
			if r.Refused() {
				t.Fatal(r)
			}
			before := len(c.s.Nodes[0].Pods)
			refusals := make([]Refusal, len(c.s.Nodes))
			for i, n := range c.s.Nodes {
				refusals[i] = cycle.Filter(n)
			}
			v, why := Preempt(p, c.s, refusals, c.budgets)
			got := ""
			if v != nil {
				var names []string
				for _, x := range v.Pods {
					names = append(names, x.Name)
				}
				got = v.Node + ": " + strings.Join(names, " ")
			}
			if got != c.want {
				t.Errorf("victims = %q (%v), want %q", got, why, c.want)
			}
			if len(c.s.Nodes[0].Pods) != before {
				t.Error("the snapshot was changed")
			}
		})
	}
}

func TestMayPreempt(t *testing.T) {
	never := corev1.PreemptNever
	p := NewPod(pod(priority(10), spec(func(s *corev1.PodSpec) { s.PreemptionPolicy = &never })))
	if ok, why := MayPreempt(p, nil); ok || why == "" {
		t.Error("preemptionPolicy Never may not preempt")
	}
	leaving := node("a").with(pod(func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} }))
	if ok, _ := MayPreempt(NewPod(pod(priority(10))), leaving); ok {
		t.Error("the victims are leaving already")
	}
	if ok, _ := MayPreempt(NewPod(pod(priority(10))), node("b")); !ok {
		t.Error("nothing speaks against it")
	}
}
