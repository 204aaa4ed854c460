package chaos

import (
	"context"
	"math/rand"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestBothKilled: when holder and runtime die at the same moment, the agent starts both again, and containers run on.
func TestBothKilled(t *testing.T) {
	client, err := cluster.Client()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	quiet := kind{name: "quiet", until: ready, spec: func(p *corev1.Pod, _ *rand.Rand) {
		p.Spec.Containers = []corev1.Container{shell("c", "exec sleep 100000")} // what prints meanwhile gets SIGPIPE
	}}
	if _, err := client.Pods(namespace).Create(ctx, newPod(quiet, "both", newRand()), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	p, err := await(ctx, client, "both", patience, isReady)
	if err != nil {
		t.Fatal(err)
	}
	ids := containerIDs(p)
	holder, ok := program("mote-hold")
	runtime, ok2 := program("mote-runtime")
	if !ok || !ok2 {
		t.Fatalf("the node's programs: %v", node.Programs())
	}
	_ = syscall.Kill(runtime, syscall.SIGSTOP) // so that it can't become the holder
	_ = syscall.Kill(holder, syscall.SIGKILL)
	_ = syscall.Kill(runtime, syscall.SIGKILL)
	life(t, ctx, client, kinds[0], "after-both", newRand(), 0) // the node works again
	if p, err = await(ctx, client, "both", patience, isReady); err != nil {
		t.Fatal(err)
	}
	if now := containerIDs(p); now != ids {
		t.Errorf("the container was replaced: %s, was %s", now, ids)
	}
	settleDown(t, ctx, client)
	remove(t, ctx, client, "both")
	settleDown(t, ctx, client)
}
