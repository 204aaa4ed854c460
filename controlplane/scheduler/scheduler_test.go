package scheduler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
)

// cluster is a scheduler at work on client-go's fake API, which here also understands bindings.
type cluster struct {
	*testing.T
	client *fake.Clientset
	events *record.FakeRecorder

	failBinding atomic.Bool // the next one
}

func newCluster(t *testing.T, objects ...runtime.Object) *cluster {
	t.Helper()
	client := fake.NewClientset(objects...)
	c := &cluster{T: t, client: client, events: record.NewFakeRecorder(1000)}
	client.PrependReactor("create", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if a.GetSubresource() != "binding" {
			return false, nil, nil
		}
		if c.failBinding.Swap(false) {
			return true, nil, errors.New("the API server hiccups")
		}
		b := a.(clienttesting.CreateAction).GetObject().(*corev1.Binding)
		gvr := corev1.SchemeGroupVersion.WithResource("pods")
		o, err := client.Tracker().Get(gvr, b.Namespace, b.Name)
		if err != nil {
			return true, nil, err
		}
		p := o.(*corev1.Pod).DeepCopy()
		p.Spec.NodeName = b.Target.Name
		return true, b, client.Tracker().Update(gvr, p, b.Namespace)
	})
	s, err := New(Config{Client: client, Informers: informers.NewSharedInformerFactory(client, 0), Recorder: c.events})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return c
}

func (c *cluster) create(name, cpu string, change ...func(*corev1.Pod)) {
	c.Helper()
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name)},
		Spec: corev1.PodSpec{SchedulerName: corev1.DefaultSchedulerName, Containers: []corev1.Container{{
			Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}},
		}}},
	}
	for _, f := range change {
		f(p)
	}
	if _, err := c.client.CoreV1().Pods("ns").Create(c.Context(), p, metav1.CreateOptions{}); err != nil {
		c.Fatal(err)
	}
}

// eventually polls the fake API for a pod's state.
func (c *cluster) eventually(name, what string, ok func(*corev1.Pod) bool) {
	c.Helper()
	var p *corev1.Pod
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		var err error
		if p, err = c.client.CoreV1().Pods("ns").Get(c.Context(), name, metav1.GetOptions{}); err == nil && ok(p) {
			return
		}
	}
	c.Fatalf("pod %s is never %s: %+v", name, what, p)
}

func (c *cluster) bound(name, node string) {
	c.Helper()
	c.eventually(name, "on "+node, func(p *corev1.Pod) bool { return p.Spec.NodeName == node })
}

func (c *cluster) unschedulable(name, message string) {
	c.Helper()
	c.eventually(name, "unschedulable: "+message, func(p *corev1.Pod) bool {
		return slices.ContainsFunc(p.Status.Conditions, func(pc corev1.PodCondition) bool {
			return pc.Type == corev1.PodScheduled && pc.Status == corev1.ConditionFalse && pc.Reason == corev1.PodReasonUnschedulable && strings.Contains(pc.Message, message)
		})
	})
}

func (c *cluster) event(prefix string) {
	c.Helper()
	for {
		select {
		case e := <-c.events.Events:
			if strings.HasPrefix(e, prefix) {
				return
			}
		case <-time.After(5 * time.Second):
			c.Fatalf("no event %q", prefix)
		}
	}
}

func machine(name, cpu string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}},
		Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("110"),
		}},
	}
}

func prio(v int32) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.Priority = &v } }

func TestAPodIsBoundAndSaysSo(t *testing.T) {
	c := newCluster(t, machine("a", "1"), machine("b", "4"))
	c.create("p", "2")
	c.bound("p", "b")
	c.event("Normal Scheduled Successfully assigned ns/p to b")
}

func TestEqualsTakeTurns(t *testing.T) {
	c := newCluster(t, machine("a", "4"), machine("b", "4"))
	nodes := map[string]int{}
	for i := range 8 {
		name := fmt.Sprint("p", i)
		c.create(name, "100m")
		c.eventually(name, "bound", func(p *corev1.Pod) bool { nodes[p.Spec.NodeName]++; return p.Spec.NodeName != "" })
	}
	if nodes["a"] != 4 || nodes["b"] != 4 {
		t.Errorf("pods by node: %v", nodes)
	}
}

func TestAssumedPodsCountBeforeTheirBindingIsSeen(t *testing.T) {
	c := newCluster(t, machine("a", "1"))
	for i := range 3 {
		c.create(fmt.Sprint("p", i), "500m")
	}
	c.eventually("p2", "refused", func(p *corev1.Pod) bool { return len(p.Status.Conditions) > 0 })
	c.bound("p0", "a")
	c.bound("p1", "a")
}

func TestAnUnschedulablePodSaysWhyAndGoesWhenThereIsRoom(t *testing.T) {
	c := newCluster(t, machine("a", "1"))
	c.create("first", "1")
	c.bound("first", "a")
	c.create("second", "1")
	const msg = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
	c.unschedulable("second", msg)
	c.event("Warning FailedScheduling " + msg)
	if err := c.client.CoreV1().Pods("ns").Delete(t.Context(), "first", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.bound("second", "a")
}

func TestNoNodesThenOne(t *testing.T) {
	c := newCluster(t)
	c.create("p", "1")
	c.unschedulable("p", "no nodes available to schedule pods")
	if _, err := c.client.CoreV1().Nodes().Create(t.Context(), machine("a", "1"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.bound("p", "a")
}

func TestATaintThatGoesAway(t *testing.T) {
	n := machine("a", "1")
	n.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}}
	c := newCluster(t, n)
	c.create("p", "1")
	c.unschedulable("p", "0/1 nodes are available: 1 node(s) had untolerated taint(s). preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.")
	if _, err := c.client.CoreV1().Nodes().Update(t.Context(), machine("a", "1"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.bound("p", "a")
}

func TestPreemption(t *testing.T) {
	c := newCluster(t, machine("a", "2"))
	c.create("low", "1", prio(0))
	c.create("mid", "1", prio(5))
	c.bound("low", "a")
	c.bound("mid", "a")
	c.create("never", "1", prio(10), func(p *corev1.Pod) { n := corev1.PreemptNever; p.Spec.PreemptionPolicy = &n })
	c.unschedulable("never", "preemption: not eligible due to preemptionPolicy=Never.")
	c.create("high", "1", prio(10))
	c.event("Normal Preempted Preempted by pod high on node a")
	c.eventually("mid", "left alone", func(p *corev1.Pod) bool { return p.Spec.NodeName == "a" })
	if _, err := c.client.CoreV1().Pods("ns").Get(t.Context(), "low", metav1.GetOptions{}); err == nil {
		t.Error("the victim is still there")
	}
}

func TestOtherSchedulersPodsAndGatedOnesAreLeftAlone(t *testing.T) {
	c := newCluster(t, machine("a", "2"))
	c.create("other", "1", func(p *corev1.Pod) { p.Spec.SchedulerName = "other" })
	c.create("gated", "1", func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}} })
	c.create("mine", "1")
	c.bound("mine", "a")
	for _, name := range []string{"other", "gated"} {
		c.eventually(name, "unassigned", func(p *corev1.Pod) bool { return p.Spec.NodeName == "" && len(p.Status.Conditions) == 0 })
	}
	p, err := c.client.CoreV1().Pods("ns").Get(t.Context(), "gated", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p.Spec.SchedulingGates = nil
	if _, err := c.client.CoreV1().Pods("ns").Update(t.Context(), p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.bound("gated", "a")
}

func TestAFailedBindingIsTriedAgain(t *testing.T) {
	c := newCluster(t, machine("a", "1"))
	c.failBinding.Store(true)
	c.create("p", "1")
	c.event("Warning FailedScheduling binding rejected: the API server hiccups")
	c.bound("p", "a")
}

// TestSixtyPodsAtOnce also prints how long a decision and its binding take here, without an API server's time.
func TestSixtyPodsAtOnce(t *testing.T) {
	c := newCluster(t, machine("a", "64"))
	start := time.Now()
	for i := range 60 {
		c.create(fmt.Sprint("p", i), "100m")
	}
	for i := range 60 {
		c.bound(fmt.Sprint("p", i), "a")
	}
	t.Logf("60 pods in %v", time.Since(start))
}
