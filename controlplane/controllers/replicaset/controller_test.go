package replicaset

import (
	"context"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mote-edge/mote/controlplane/controllers/workloadtest"
)

func webSet(n int32) *appsv1.ReplicaSet {
	l := map[string]string{"app": "web"}
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "rs-uid", Generation: 1},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: &n, Selector: &metav1.LabelSelector{MatchLabels: l},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: l},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
			},
		},
	}
}

func start(t *testing.T, c *workloadtest.Cluster) {
	t.Helper()
	rs, err := New(c.Client, c.Informers, c.Recorder)
	if err != nil {
		t.Fatal(err)
	}
	c.Start(rs.Run)
}

func (e env) set() *appsv1.ReplicaSet {
	rs, err := e.Client.AppsV1().ReplicaSets("default").Get(context.Background(), "web", metav1.GetOptions{})
	if err != nil {
		e.T.Fatal(err)
	}
	return rs
}

type env struct{ *workloadtest.Cluster }

func TestScalesUpAndDownAndHeals(t *testing.T) {
	e := env{workloadtest.New(t, webSet(5))}
	start(t, e.Cluster)
	e.Eventually("five pods are reported", func() bool { return e.set().Status.Replicas == 5 })
	pods := e.Pods()
	if len(pods) != 5 {
		t.Fatalf("%d pods, want 5", len(pods))
	}
	p := pods[0]
	if !strings.HasPrefix(p.Name, "web-") || p.Labels["app"] != "web" || !metav1.IsControlledBy(&p, e.set()) {
		t.Errorf("odd pod: %+v", p.ObjectMeta)
	}
	if ev := e.Event(); !strings.HasPrefix(ev, "Normal SuccessfulCreate Created pod: web-") {
		t.Errorf("event %q", ev)
	}
	for _, p := range pods {
		e.SetReady(p.Name, true)
	}
	e.Eventually("all are ready and available", func() bool {
		s := e.set().Status
		return s.ReadyReplicas == 5 && s.AvailableReplicas == 5 && s.FullyLabeledReplicas == 5 && s.ObservedGeneration == 1
	})

	if err := e.Client.CoreV1().Pods("default").Delete(context.Background(), p.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	e.Eventually("a lost pod is replaced", func() bool { return len(e.Pods()) == 5 && e.set().Status.ReadyReplicas == 4 })

	rs, two := e.set(), int32(2)
	rs.Spec.Replicas = &two
	rs.Generation++
	rs.ResourceVersion = "" // take any
	if _, err := e.Client.AppsV1().ReplicaSets("default").Update(context.Background(), rs, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	e.Eventually("two pods are left, both ready", func() bool {
		s := e.set().Status
		return len(e.Pods()) == 2 && s.Replicas == 2 && s.ReadyReplicas == 2 && s.ObservedGeneration == 2
	})
}

func TestAdoptsAndReleases(t *testing.T) {
	orphan := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Name: "orphan", Namespace: "default", Labels: map[string]string{"app": "web"},
	}}
	other := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Name: "other", Namespace: "default", Labels: map[string]string{"app": "db"},
	}}
	e := env{workloadtest.New(t, webSet(1), orphan, other)}
	start(t, e.Cluster)
	get := func(name string) *corev1.Pod {
		p, err := e.Client.CoreV1().Pods("default").Get(context.Background(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	e.Eventually("the orphan is adopted", func() bool { return metav1.IsControlledBy(get("orphan"), webSet(1)) })
	e.Eventually("it is counted", func() bool { return e.set().Status.Replicas == 1 })
	if n := len(e.Pods()); n != 2 {
		t.Fatalf("%d pods, want 2: nothing had to be created", n)
	}
	p := get("orphan")
	p.Labels["app"] = "debug"
	if _, err := e.Client.CoreV1().Pods("default").Update(context.Background(), p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	e.Eventually("it is released and replaced", func() bool {
		return metav1.GetControllerOf(get("orphan")) == nil && len(e.Pods()) == 3
	})
	if ref := metav1.GetControllerOf(get("other")); ref != nil {
		t.Errorf("an unrelated pod was adopted by %s", ref.Name)
	}
}

func TestReplicationController(t *testing.T) {
	two := int32(2)
	l := map[string]string{"app": "old"}
	rc := &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Name: "old", Namespace: "default"},
		Spec: corev1.ReplicationControllerSpec{Replicas: &two, Selector: l, Template: &corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: l},
		}},
	}
	c := workloadtest.New(t, rc)
	ctl, err := NewReplication(c.Client, c.Informers, c.Recorder)
	if err != nil {
		t.Fatal(err)
	}
	c.Start(ctl.Run)
	c.Eventually("two pods are reported", func() bool {
		got, err := c.Client.CoreV1().ReplicationControllers("default").Get(context.Background(), "old", metav1.GetOptions{})
		return err == nil && got.Status.Replicas == 2
	})
	for _, p := range c.Pods() {
		if ref := metav1.GetControllerOf(&p); ref == nil || ref.Kind != "ReplicationController" || ref.APIVersion != "v1" {
			t.Errorf("owner of %s: %+v", p.Name, ref)
		}
	}
}
