package podgc

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

func TestPodsThatNoKubeletRemoves(t *testing.T) {
	deleted := &metav1.Time{Time: time.Now()}
	pod := func(name, node string, change ...func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Finalizers: nil}, Spec: corev1.PodSpec{NodeName: node}}
		for _, f := range change {
			f(p)
		}
		return p
	}
	terminating := func(p *corev1.Pod) { p.DeletionTimestamp = deleted }
	done := func(age int) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodSucceeded
			p.CreationTimestamp = metav1.NewTime(time.Now().Add(-time.Duration(age) * time.Hour))
		}
	}
	out := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "out"}, Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: corev1.TaintNodeOutOfService}}}}
	client := fake.NewClientset(
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, out,
		pod("runs", "a"), pod("waits", ""), pod("leaves", "a", terminating),
		pod("orphan", "gone"), pod("never-scheduled", "", terminating), pod("stuck", "out", terminating), pod("on-out", "out"),
		pod("old", "a", done(3)), pod("middle", "a", done(2)), pod("young", "a", done(1)),
	)
	f := informers.NewSharedInformerFactory(client, 0)
	c, err := New(Config{Client: client, Informers: f, Quarantine: 100 * time.Millisecond, MaxFinished: 2})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	f.Start(ctx.Done())
	go func() { _ = c.Run(ctx) }()
	want := "[leaves middle on-out runs waits young]"
	var got string
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		list, err := client.CoreV1().Pods("ns").List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, p := range list.Items {
			names = append(names, p.Name)
		}
		slices.Sort(names)
		if got = fmt.Sprint(names); got == want {
			return
		}
	}
	t.Errorf("left: %s, want %s", got, want)
}
