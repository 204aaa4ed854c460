package nodelifecycle

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func with(t corev1.NodeConditionType, s corev1.ConditionStatus) func(*corev1.Node) {
	return func(n *corev1.Node) {
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: t, Status: s})
	}
}

func tainted(taints ...string) func(*corev1.Node) {
	return func(n *corev1.Node) {
		for _, t := range taints {
			key, effect, _ := strings.Cut(t, ":")
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffect(effect)})
		}
	}
}

func cordoned(n *corev1.Node) { n.Spec.Unschedulable = true }

func makeNode(opts ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	for _, o := range opts {
		o(n)
	}
	return n
}

const k = "node.kubernetes.io/"

func TestDesiredTaints(t *testing.T) {
	const yes, no, unknown = corev1.ConditionTrue, corev1.ConditionFalse, corev1.ConditionUnknown
	for _, c := range []struct {
		name  string
		node  *corev1.Node
		evict bool
		want  []string
	}{
		{"healthy", makeNode(with(corev1.NodeReady, yes)), true, nil},
		{"not ready", makeNode(with(corev1.NodeReady, no)), true, []string{k + "not-ready:NoSchedule", k + "not-ready:NoExecute"}},
		{"unreachable", makeNode(with(corev1.NodeReady, unknown)), true, []string{k + "unreachable:NoSchedule", k + "unreachable:NoExecute"}},
		{"all are away", makeNode(with(corev1.NodeReady, unknown)), false, []string{k + "unreachable:NoSchedule"}},
		{"eviction is called off", makeNode(with(corev1.NodeReady, unknown), tainted(k+"unreachable:NoSchedule", k+"unreachable:NoExecute")), false, []string{k + "unreachable:NoSchedule"}},
		{"from not ready to unreachable", makeNode(with(corev1.NodeReady, unknown), tainted(k+"not-ready:NoSchedule", k+"not-ready:NoExecute")), true, []string{k + "unreachable:NoSchedule", k + "unreachable:NoExecute"}},
		{"ready again", makeNode(with(corev1.NodeReady, yes), tainted(k+"unreachable:NoSchedule", "mine:NoExecute", k+"unreachable:NoExecute")), true, []string{"mine:NoExecute"}},
		{"pressure", makeNode(with(corev1.NodeReady, yes), with(corev1.NodeMemoryPressure, yes), with(corev1.NodeDiskPressure, yes), with(corev1.NodePIDPressure, yes), with(corev1.NodeNetworkUnavailable, yes)), true, []string{k + "memory-pressure:NoSchedule", k + "disk-pressure:NoSchedule", k + "pid-pressure:NoSchedule", k + "network-unavailable:NoSchedule"}},
		{"pressure gone", makeNode(with(corev1.NodeReady, yes), with(corev1.NodeMemoryPressure, no), tainted(k+"memory-pressure:NoSchedule")), true, nil},
		{"someone's own effect of a key of ours", makeNode(with(corev1.NodeReady, yes), tainted(k+"memory-pressure:NoExecute")), true, []string{k + "memory-pressure:NoExecute"}},
		{"cordoned", makeNode(with(corev1.NodeReady, yes), cordoned), true, []string{k + "unschedulable:NoSchedule"}},
		{"uncordoned", makeNode(with(corev1.NodeReady, yes), tainted(k+"unschedulable:NoSchedule")), true, nil},
		{"new, with admission's taint", makeNode(tainted(k + "not-ready:NoSchedule")), true, []string{k + "not-ready:NoSchedule"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := len(c.node.Spec.Taints)
			got, changed := desiredTaints(c.node, c.evict, metav1.Now())
			if !changed && len(got) != before {
				t.Error("a change that isn't reported")
			}
			var ids []string
			for _, g := range got {
				ids = append(ids, g.Key+":"+string(g.Effect))
			}
			if !slices.Equal(ids, c.want) {
				t.Errorf("taints = %v, want %v", ids, c.want)
			}
			c.node.Spec.Taints = got
			if again, more := desiredTaints(c.node, c.evict, metav1.Now()); more || len(again) != len(got) {
				t.Error("the result isn't stable")
			}
		})
	}
}

func TestSilence(t *testing.T) {
	n := makeNode(with(corev1.NodeReady, corev1.ConditionTrue), with(corev1.NodeNetworkUnavailable, corev1.ConditionFalse))
	got, changed := silence(n, metav1.Now())
	if !changed || len(got) != 5 {
		t.Fatalf("got %v", got)
	}
	reasons := map[corev1.NodeConditionType]string{}
	for _, c := range got {
		reasons[c.Type] = fmt.Sprint(c.Status, " ", c.Reason)
	}
	if reasons[corev1.NodeReady] != "Unknown NodeStatusUnknown" || reasons[corev1.NodeMemoryPressure] != "Unknown NodeStatusNeverUpdated" || reasons[corev1.NodeNetworkUnavailable] != "False " {
		t.Errorf("conditions: %v", reasons)
	}
	n.Status.Conditions = got
	if _, changed := silence(n, metav1.Now()); changed {
		t.Error("silent already")
	}
}

// Nobody heard the nodes while this process stood still: they have their time to speak again, once.
func TestStandstillIsNoSilence(t *testing.T) {
	begin := time.Unix(1000, 0)
	at := func(seconds int) time.Time { return begin.Add(time.Duration(seconds) * time.Second) }
	c := &Controller{cfg: Config{Grace: 40 * time.Second, StartupGrace: 60 * time.Second}, health: map[string]*health{}}
	fresh := func() { c.health["n"] = &health{seen: begin, known: true} }
	look := func(seconds int) time.Duration { _, _, left := c.silentFor("n", at(seconds)); return left }
	fresh()
	if got := []time.Duration{look(0), look(30), look(40), look(80)}; got[0] != 40*time.Second || got[1] != 10*time.Second || got[2] > 0 || got[3] > 0 {
		t.Errorf("silent from the start: %v left", got)
	}
	fresh()
	if got := []time.Duration{look(0), look(100), look(140), look(300)}; got[1] != 40*time.Second || got[2] > 0 || got[3] > 0 {
		t.Errorf("after a standstill: %v left", got)
	}
	fresh()
	look(0)
	look(100)
	c.renewed(&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Spec: coordinationv1.LeaseSpec{RenewTime: &metav1.MicroTime{Time: time.Now()}}})
	if c.health["n"].excused {
		t.Error("excused once for all")
	}
}

func TestMayEvict(t *testing.T) {
	for _, c := range []struct {
		up, down int
		want     bool
	}{{1, 0, true}, {0, 1, false}, {1, 1, true}, {1, 2, true}, {1, 3, false}, {5, 3, true}, {0, 5, false}} {
		if got := mayEvict(c.up, c.down); got != c.want {
			t.Errorf("mayEvict(%d, %d) = %v", c.up, c.down, got)
		}
	}
}

func TestEvictAt(t *testing.T) {
	start := time.Unix(1000, 0)
	tolerate := func(key string, seconds int64) corev1.Toleration {
		tol := corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}
		if seconds >= 0 {
			tol.TolerationSeconds = &seconds
		}
		return tol
	}
	for _, c := range []struct {
		name        string
		tolerations []corev1.Toleration
		taints      []string
		after       time.Duration // negative: stays
	}{
		{"no taint", nil, nil, -1},
		{"NoSchedule doesn't evict", nil, []string{"a:NoSchedule"}, -1},
		{"no toleration", nil, []string{"a:NoExecute"}, 0},
		{"tolerated forever", []corev1.Toleration{tolerate("a", -1)}, []string{"a:NoExecute"}, -1},
		{"tolerated for a while", []corev1.Toleration{tolerate("a", 300)}, []string{"a:NoExecute"}, 300 * time.Second},
		{"the shorter of two tolerations", []corev1.Toleration{tolerate("a", 300), tolerate("a", 10)}, []string{"a:NoExecute"}, 10 * time.Second},
		{"a limit beats forever", []corev1.Toleration{tolerate("a", -1), tolerate("a", 10)}, []string{"a:NoExecute"}, 10 * time.Second},
		{"two taints, one tolerated", []corev1.Toleration{tolerate("a", 300)}, []string{"a:NoExecute", "b:NoExecute"}, 0},
		{"two taints, the earlier end", []corev1.Toleration{tolerate("a", 300), tolerate("b", 5)}, []string{"a:NoExecute", "b:NoExecute"}, 5 * time.Second},
		{"zero seconds", []corev1.Toleration{tolerate("a", 0)}, []string{"a:NoExecute"}, 0},
		{"everything tolerated", []corev1.Toleration{{Operator: corev1.TolerationOpExists}}, []string{"a:NoExecute", "b:NoExecute"}, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &corev1.Pod{Spec: corev1.PodSpec{Tolerations: c.tolerations}}
			at, leaves := evictAt(p, makeNode(tainted(c.taints...)).Spec.Taints, func(*corev1.Taint) time.Time { return start })
			if leaves != (c.after >= 0) || (leaves && at.Sub(start) != c.after) {
				t.Errorf("leaves %v after %v, want %v", leaves, at.Sub(start), c.after)
			}
		})
	}
}
