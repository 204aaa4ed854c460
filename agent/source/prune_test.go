package source

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// An agent that is killed between a pod's end and the removal of its checkpoint leaves a file that no later pod's end
// removes: the API server's first list does.
func TestCheckpointsOfPodsThatWentAreRemoved(t *testing.T) {
	dir := t.TempDir()
	c, err := NewCheckpoint(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, uid := range []types.UID{"stays", "ended", "went"} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: string(uid), UID: uid}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}
		if uid == "ended" {
			pod.Status.Phase = corev1.PodSucceeded
		}
		if err := c.write(uid, pod); err != nil {
			t.Fatal(err)
		}
	}
	c.prune(map[types.UID]bool{"stays": true})
	c.flush()
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 1 || filepath.Base(left[0]) != "stays.pod" {
		t.Errorf("%v, %v", left, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "stays.pod")); err != nil {
		t.Error(err)
	}
}
