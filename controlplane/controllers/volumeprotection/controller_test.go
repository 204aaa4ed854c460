package volumeprotection

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mote-edge/mote/controlplane/controllers/workloadtest"
)

func TestUses(t *testing.T) {
	claim := corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}
	own := corev1.Volume{Name: "own", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}}
	for _, c := range []struct {
		name, node string
		phase      corev1.PodPhase
		volume     corev1.Volume
		claim      string
		want       bool
	}{
		{"runs", "n", corev1.PodRunning, claim, "data", true},
		{"another claim", "n", corev1.PodRunning, claim, "logs", false},
		{"not on a node yet", "", corev1.PodPending, claim, "data", false},
		{"finished, not deleted", "n", corev1.PodSucceeded, claim, "data", true},
		{"made for the pod", "n", corev1.PodRunning, own, "p-own", true},
		{"made for the pod, finished", "n", corev1.PodSucceeded, own, "p-own", false},
	} {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{NodeName: c.node, Volumes: []corev1.Volume{c.volume}}}
		p.Status.Phase = c.phase
		if got := uses(p, c.claim); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func TestFinalizersGo(t *testing.T) {
	now := metav1.NewTime(time.Now())
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data", Namespace: "default", DeletionTimestamp: &now, Finalizers: []string{claimFinalizer, "keep"}}}
	volume := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "vol", DeletionTimestamp: &now, Finalizers: []string{volumeFinalizer, "keep"}}}
	bound := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "bound", DeletionTimestamp: &now, Finalizers: []string{volumeFinalizer}}}
	bound.Status.Phase = corev1.VolumeBound
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default"}, Spec: corev1.PodSpec{NodeName: "n", Volumes: []corev1.Volume{
		{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}},
	}}}
	c := workloadtest.New(t, claim, pod, volume, bound)
	ctl, err := New(c.Client, c.Informers)
	if err != nil {
		t.Fatal(err)
	}
	c.Start(ctl.Run)
	ctx := context.Background()
	finalizers := func() []string {
		got, err := c.Client.CoreV1().PersistentVolumeClaims("default").Get(ctx, "data", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			t.Fatal(err)
		}
		return got.Finalizers
	}
	c.Eventually("the free volume is let go", func() bool {
		v, err := c.Client.CoreV1().PersistentVolumes().Get(ctx, "vol", metav1.GetOptions{})
		return err == nil && len(v.Finalizers) == 1
	})
	if v, err := c.Client.CoreV1().PersistentVolumes().Get(ctx, "bound", metav1.GetOptions{}); err != nil || len(v.Finalizers) != 1 {
		t.Errorf("the bound volume: %v, %v", v, err)
	}
	if len(finalizers()) != 2 {
		t.Error("the claim is in use")
	}
	if err := c.Client.CoreV1().Pods("default").Delete(ctx, "p", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.Eventually("the claim is let go", func() bool { return len(finalizers()) == 1 })
}
