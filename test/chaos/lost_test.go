package chaos

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mote-edge/mote/test/chaos/check"
)

// TestLostRecord: a checkpoint that a bad disk lost takes its pod or container with it, and nothing else: what it spoke of is
// swept (processes, mounts, namespaces; addresses and rules by the plugin's GC), and is made anew.
func TestLostRecord(t *testing.T) {
	client, err := cluster.Client()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	scramble := func(path string) error { return os.WriteFile(path, []byte(`{"id":7,"config":[`), 0o600) }
	for name, damage := range map[string]func(string) error{
		"removed":             os.Remove,
		"empty":               func(path string) error { return os.Truncate(path, 0) },
		"scrambled":           scramble,
		"container-removed":   os.Remove,
		"container-scrambled": scramble,
	} {
		t.Run(name, func(t *testing.T) {
			pod := "lost-" + name
			if _, err := client.Pods(namespace).Create(ctx, newPod(kinds[3], pod, newRand()), metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			p, err := await(ctx, client, pod, patience, isReady)
			if err != nil {
				t.Fatal(err)
			}
			before := containerIDs(p)
			state, err := check.Look(ctx, place())
			if err != nil {
				t.Fatal(err)
			}
			var records []string
			for _, sb := range state.Sandboxes {
				if sb.UID == string(p.UID) && !strings.HasPrefix(name, "container") {
					records = append(records, "s-"+sb.ID)
				}
			}
			for _, c := range state.Containers {
				if c.UID == string(p.UID) && c.Name == "two" && strings.HasPrefix(name, "container") {
					records = append(records, "c-"+c.ID)
				}
			}
			for _, record := range records {
				if err := damage(filepath.Join(place().Dirs.Runtime(), "state", record)); err != nil {
					t.Fatal(err)
				}
			}
			if len(records) != 1 {
				t.Fatalf("records of the pod: %v", records)
			}
			pid, ok := program("mote-runtime")
			if !ok || syscall.Kill(pid, syscall.SIGKILL) != nil {
				t.Fatal("the runtime isn't there to be killed")
			}
			_, err = await(ctx, client, pod, patience, func(p *corev1.Pod) bool { return isReady(p) && containerIDs(p) != before })
			if err != nil {
				t.Error(err)
			}
			settleDown(t, ctx, client)
			remove(t, ctx, client, pod)
			settleDown(t, ctx, client)
		})
	}
}
