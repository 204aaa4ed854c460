package disruption

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func TestDesiredHealthy(t *testing.T) {
	n := func(v int) *intstr.IntOrString { x := intstr.FromInt32(int32(v)); return &x }
	pct := func(v string) *intstr.IntOrString { x := intstr.FromString(v); return &x }
	for _, c := range []struct {
		name           string
		min, max       *intstr.IntOrString
		pods, scale    int
		want, expected int
	}{
		{"a number needs no scale", n(2), nil, 3, 99, 2, 3},
		{"a number above what there is", n(5), nil, 3, 99, 5, 3},
		{"half", pct("50%"), nil, 3, 5, 3, 5},
		{"at most one away", nil, n(1), 3, 5, 4, 5},
		{"a third away, rounded up", nil, pct("33%"), 3, 10, 6, 10},
		{"all may be away", nil, n(10), 3, 5, 0, 5},
		{"neither", nil, nil, 3, 5, 0, 0},
	} {
		b := &policyv1.PodDisruptionBudget{Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: c.min, MaxUnavailable: c.max}}
		desired, expected, err := desiredHealthy(b, c.pods, func() (int, error) { return c.scale, nil })
		if err != nil || desired != c.want || expected != c.expected {
			t.Errorf("%s: %d of %d, %v; want %d of %d", c.name, desired, expected, err, c.want, c.expected)
		}
	}
}

func TestStatus(t *testing.T) {
	now := time.Unix(100000, 0)
	pod := func(name string, isReady, leaving bool) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if isReady {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}
		if leaving {
			p.DeletionTimestamp = &metav1.Time{Time: now}
		}
		return p
	}
	for _, c := range []struct {
		name              string
		pods              []*corev1.Pod
		desired, expected int
		disrupted         map[string]time.Duration // ago
		want              string                   // healthy, allowed, disrupted, stale
	}{
		{"all well", []*corev1.Pod{pod("a", true, false), pod("b", true, false)}, 1, 2, nil, "2 1 0 0"},
		{"one not ready", []*corev1.Pod{pod("a", true, false), pod("b", false, false)}, 1, 2, nil, "1 0 0 0"},
		{"one leaving", []*corev1.Pod{pod("a", true, false), pod("b", true, true)}, 1, 2, nil, "1 0 0 0"},
		{"one just evicted", []*corev1.Pod{pod("a", true, false), pod("b", true, false)}, 1, 2, map[string]time.Duration{"b": time.Second}, "1 0 1 0"},
		{"one evicted long ago, and still there", []*corev1.Pod{pod("a", true, false), pod("b", true, false)}, 1, 2, map[string]time.Duration{"b": time.Hour}, "2 1 0 1"},
		{"an entry of a pod that is gone", []*corev1.Pod{pod("a", true, false)}, 1, 2, map[string]time.Duration{"b": time.Second}, "1 0 0 0"},
		{"nothing expected", []*corev1.Pod{pod("a", true, false)}, 0, 0, nil, "1 0 0 0"},
	} {
		b := &policyv1.PodDisruptionBudget{Status: policyv1.PodDisruptionBudgetStatus{DisruptedPods: map[string]metav1.Time{}}}
		for name, ago := range c.disrupted {
			b.Status.DisruptedPods[name] = metav1.NewTime(now.Add(-ago))
		}
		s, next, stale := status(b, c.pods, c.desired, c.expected, now)
		if got := fmt.Sprint(s.CurrentHealthy, s.DisruptionsAllowed, len(s.DisruptedPods), len(stale)); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		if next.IsZero() != (len(s.DisruptedPods) == 0) {
			t.Errorf("%s: next look at %v", c.name, next)
		}
	}
}
