package nodelifecycle

import (
	"context"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
)

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

// A node dies beside one that lives: it is marked, tainted, its pod is out of Services at once and evicted when its
// toleration ends; a pod on the living node stays.
func TestASilentNode(t *testing.T) {
	short := int64(1)
	node := func(name string) *corev1.Node {
		n := makeNode(with(corev1.NodeReady, corev1.ConditionTrue))
		n.Name = name
		return n
	}
	pod := func(name, node string) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
			Spec: corev1.PodSpec{NodeName: node, Tolerations: []corev1.Toleration{{
				Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &short,
			}}},
			Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
		}
	}
	lease := func(name string, at time.Time) *coordinationv1.Lease {
		return &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: name},
			Spec:       coordinationv1.LeaseSpec{RenewTime: &metav1.MicroTime{Time: at}},
		}
	}
	now := time.Now()
	client := fake.NewClientset(node("alive"), node("dead"), pod("on-alive", "alive"), pod("on-dead", "dead"), lease("alive", now), lease("dead", now))
	f := informers.NewSharedInformerFactory(client, 0)
	c, err := New(Config{Client: client, Informers: f, Recorder: record.NewFakeRecorder(100), Grace: 400 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	f.Start(ctx.Done())
	go func() { _ = c.Run(ctx) }()
	go func() {
		for ; ctx.Err() == nil; time.Sleep(50 * time.Millisecond) {
			_, _ = client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Update(ctx, lease("alive", time.Now()), metav1.UpdateOptions{})
		}
	}()
	get := func(name string) *corev1.Node {
		n, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	eventually(t, "dead is unreachable", func() bool {
		n := get("dead")
		var keys []string
		for _, taint := range n.Spec.Taints {
			keys = append(keys, taint.Key+":"+string(taint.Effect))
		}
		return condition(n, corev1.NodeReady).Status == corev1.ConditionUnknown &&
			strings.Join(keys, " ") == k+"unreachable:NoSchedule "+k+"unreachable:NoExecute"
	})
	eventually(t, "its pod is not ready, then gone", func() bool {
		p, err := client.CoreV1().Pods("ns").Get(ctx, "on-dead", metav1.GetOptions{})
		return err != nil || p.Status.Conditions[0].Status == corev1.ConditionFalse
	})
	eventually(t, "its pod is evicted", func() bool {
		_, err := client.CoreV1().Pods("ns").Get(ctx, "on-dead", metav1.GetOptions{})
		return err != nil
	})
	if took := time.Since(now); took < time.Duration(short)*time.Second {
		t.Errorf("evicted after %v, its toleration was a second", took)
	}
	if n := get("alive"); !ready(n) || len(n.Spec.Taints) > 0 {
		t.Errorf("the living node: %+v", n)
	}
	if _, err := client.CoreV1().Pods("ns").Get(ctx, "on-alive", metav1.GetOptions{}); err != nil {
		t.Errorf("the pod on the living node: %v", err)
	}
}
