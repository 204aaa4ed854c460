package scheduler

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/mote-edge/mote/controlplane/scheduler/fit"
)

func qpod(name string, prio int32) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", UID: types.UID(name)}, Spec: corev1.PodSpec{Priority: &prio}}
}

// next pops with a deadline; "" means nothing came.
func next(t *testing.T, q *queue, within time.Duration) *item {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	it, _ := q.pop(ctx)
	q.mu.Lock()
	q.stopped = false
	q.mu.Unlock()
	return it
}

func name(it *item) string {
	if it == nil {
		return ""
	}
	return it.pod.Name
}

func TestQueueOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		for _, p := range []*corev1.Pod{qpod("old", 0), qpod("young", 0), qpod("important", 10)} {
			q.set(p)
			time.Sleep(time.Millisecond)
		}
		for _, want := range []string{"important", "old", "young", ""} {
			if got := name(next(t, q, time.Second)); got != want {
				t.Errorf("next = %q, want %q", got, want)
			}
		}
	})
}

func TestQueueParksUntilAnEventThatMayHelp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		q.set(qpod("a", 0))
		q.refused(next(t, q, time.Second), fit.NodeResources)
		q.happened(fit.TaintToleration)
		if it := next(t, q, time.Minute); it != nil {
			t.Error("an event that can't help woke the pod")
		}
		q.happened(fit.NodeResources)
		if it := next(t, q, time.Millisecond); name(it) != "a" {
			t.Error("the pod didn't come back at once")
		}
	})
}

func TestQueueRemembersEventsDuringTheDecision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		q.set(qpod("a", 0))
		it := next(t, q, time.Second)
		q.happened(fit.NodeResources)
		q.refused(it, fit.NodeResources)
		if it := next(t, q, time.Second); name(it) != "a" {
			t.Error("the event was lost")
		}
	})
}

func TestQueueLooksAtLeftoversAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		q.set(qpod("a", 0))
		q.refused(next(t, q, time.Second), fit.NodeResources)
		if it := next(t, q, leftover-time.Second); it != nil {
			t.Error("too early")
		}
		if it := next(t, q, 2*time.Second); name(it) != "a" {
			t.Error("forgotten")
		}
	})
}

func TestQueueHoldsBackAfterAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		q.set(qpod("a", 0))
		for _, wait := range []time.Duration{1, 2, 4, 8, 10, 10} {
			q.failed(next(t, q, time.Millisecond))
			q.happened(anyFilter)
			if it := next(t, q, wait*time.Second-time.Millisecond); it != nil {
				t.Fatalf("back before %ds", wait)
			}
			time.Sleep(2 * time.Millisecond)
		}
	})
}

func TestQueueGatesAndUpdates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		p := qpod("a", 0)
		p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}}
		q.set(p)
		q.happened(anyFilter)
		if it := next(t, q, time.Hour); it != nil {
			t.Fatal("a gated pod was scheduled")
		}
		open := p.DeepCopy()
		open.Spec.SchedulingGates = nil
		q.set(open)
		it := next(t, q, time.Millisecond)
		if name(it) != "a" {
			t.Fatal("the gate is open")
		}
		changed := open.DeepCopy()
		changed.Labels = map[string]string{"x": "y"}
		q.set(changed) // in flight
		q.refused(it, fit.NodeAffinity)
		if it = next(t, q, time.Second); name(it) != "a" || it.pod.Labels["x"] != "y" {
			t.Fatal("the change was lost")
		}
		q.refused(it, fit.NodeAffinity)
		status := changed.DeepCopy()
		status.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled}}
		q.set(status)
		if it := next(t, q, time.Minute); it != nil {
			t.Error("our own status update woke the pod")
		}
		q.remove("a")
		q.happened(anyFilter)
		if it := next(t, q, time.Hour); it != nil {
			t.Error("a removed pod came back")
		}
	})
}
