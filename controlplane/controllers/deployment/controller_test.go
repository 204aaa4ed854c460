package deployment

import (
	"context"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mote-edge/mote/controlplane/controllers/replicaset"
	"github.com/mote-edge/mote/controlplane/controllers/workloadtest"
)

type env struct{ *workloadtest.Cluster }

// start runs the Deployment and ReplicaSet controllers and a kubelet that makes every pod ready.
func start(t *testing.T, d *appsv1.Deployment) env {
	t.Helper()
	e := env{workloadtest.New(t, d)}
	dc, err := New(e.Client, e.Informers, e.Recorder)
	if err != nil {
		t.Fatal(err)
	}
	rc, err := replicaset.New(e.Client, e.Informers, e.Recorder)
	if err != nil {
		t.Fatal(err)
	}
	e.Start(rc.Run)
	e.Start(dc.Run)
	e.Start(func(ctx context.Context) error {
		for ctx.Err() == nil {
			for _, p := range e.Pods() {
				if p.Status.Phase == "" && p.Spec.Containers[0].Image != "bad" {
					p.Status = workloadtest.ReadyStatus(true, time.Now())
					_, _ = e.Client.CoreV1().Pods("default").UpdateStatus(ctx, &p, metav1.UpdateOptions{})
				}
			}
			time.Sleep(5 * time.Millisecond)
		}
		return nil
	})
	return e
}

func (e env) get() *appsv1.Deployment {
	d, err := e.Client.AppsV1().Deployments("default").Get(context.Background(), "web", metav1.GetOptions{})
	if err != nil {
		e.T.Fatal(err)
	}
	return d
}

func (e env) update(change func(*appsv1.Deployment)) {
	for {
		d := e.get()
		change(d)
		d.Generation++
		_, err := e.Client.AppsV1().Deployments("default").Update(context.Background(), d, metav1.UpdateOptions{})
		if err == nil {
			return
		}
		if !apierrors.IsConflict(err) {
			e.T.Fatal(err)
		}
	}
}

func (e env) images() map[string]int {
	out := map[string]int{}
	for _, p := range e.Pods() {
		out[p.Spec.Containers[0].Image]++
	}
	return out
}

func (e env) complete() bool {
	d := e.get()
	c := condition(&d.Status, appsv1.DeploymentProgressing)
	return complete(d, &d.Status) && c != nil && c.Reason == reasonComplete
}

func setImage(image string) func(*appsv1.Deployment) {
	return func(d *appsv1.Deployment) { d.Spec.Template = template(image) }
}

func TestRolloutAndUndo(t *testing.T) {
	for _, strategy := range []appsv1.DeploymentStrategyType{appsv1.RollingUpdateDeploymentStrategyType, appsv1.RecreateDeploymentStrategyType} {
		t.Run(string(strategy), func(t *testing.T) {
			d := deploy(3, "1", "1")
			d.Spec.Strategy.Type = strategy
			e := start(t, d)
			e.Eventually("the first rollout is complete", e.complete)
			if r := e.get().Annotations[revisionAnnotation]; r != "1" {
				t.Errorf("revision %s, want 1", r)
			}
			e.update(setImage("two"))
			e.Eventually("the second rollout is complete", func() bool { return e.complete() && e.images()["two"] == 3 && len(e.images()) == 1 })
			if r := e.get().Annotations[revisionAnnotation]; r != "2" {
				t.Errorf("revision %s, want 2", r)
			}
			e.update(setImage("new"))
			e.Eventually("the undo is complete", func() bool { return e.complete() && e.images()["new"] == 3 && len(e.images()) == 1 })
			if r := e.get().Annotations[revisionAnnotation]; r != "3" {
				t.Errorf("revision %s, want 3", r)
			}
			l, err := e.Client.AppsV1().ReplicaSets("default").List(context.Background(), metav1.ListOptions{})
			if err != nil || len(l.Items) != 2 {
				t.Fatalf("%d ReplicaSets, %v: want the two of the two templates", len(l.Items), err)
			}
			c := condition(&e.get().Status, appsv1.DeploymentAvailable)
			if c == nil || c.Status != corev1.ConditionTrue || c.Reason != reasonAvailable {
				t.Errorf("available: %+v", c)
			}
		})
	}
}

func TestPauseScaleResume(t *testing.T) {
	e := start(t, deploy(4, "1", "1"))
	e.Eventually("the first rollout is complete", e.complete)
	e.update(func(d *appsv1.Deployment) { d.Spec.Paused = true })
	e.Eventually("the pause is noted", func() bool {
		c := condition(&e.get().Status, appsv1.DeploymentProgressing)
		return c != nil && c.Reason == reasonPaused
	})
	e.update(setImage("two"))
	e.update(func(d *appsv1.Deployment) { n := int32(6); d.Spec.Replicas = &n })
	e.Eventually("it is scaled while paused", func() bool { return e.images()["new"] == 6 })
	if n := e.images()["two"]; n != 0 {
		t.Errorf("%d pods of the new template while paused", n)
	}
	e.update(func(d *appsv1.Deployment) { d.Spec.Paused = false })
	e.Eventually("the rollout goes on", func() bool { return e.complete() && e.images()["two"] == 6 })
}

func TestHistoryLimit(t *testing.T) {
	d := deploy(1, "1", "0")
	zero := int32(0)
	d.Spec.RevisionHistoryLimit = &zero
	e := start(t, d)
	e.Eventually("the first rollout is complete", e.complete)
	e.update(setImage("two"))
	e.Eventually("the old ReplicaSet is gone", func() bool {
		l, err := e.Client.AppsV1().ReplicaSets("default").List(context.Background(), metav1.ListOptions{})
		return err == nil && len(l.Items) == 1 && l.Items[0].Spec.Template.Spec.Containers[0].Image == "two"
	})
}

func TestBadTemplateStopsHalfWay(t *testing.T) {
	e := start(t, deploy(4, "1", "1"))
	e.Eventually("the first rollout is complete", e.complete)
	e.update(setImage("bad"))
	e.Eventually("as many as allowed are replaced", func() bool { i := e.images(); return i["bad"] == 2 && i["new"] == 3 })
	time.Sleep(50 * time.Millisecond)
	if i := e.images(); i["new"] != 3 {
		t.Errorf("the rollout went on with unavailable pods: %v", i)
	}
}
