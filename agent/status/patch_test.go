package status

import (
	"encoding/json"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

// A patch, applied as the API server applies it, gives the wanted status, and leaves other writers' conditions alone.
func TestPatchRoundTrip(t *testing.T) {
	started := &corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Unix(100, 0)}}
	cond := func(kind corev1.PodConditionType, ok corev1.ConditionStatus, reason string) corev1.PodCondition {
		return corev1.PodCondition{Type: kind, Status: ok, Reason: reason, LastTransitionTime: metav1.Unix(50, 0)}
	}
	waiting := corev1.PodStatus{
		Phase: corev1.PodPending, Conditions: []corev1.PodCondition{cond(corev1.PodReady, "False", "ContainersNotReady"), cond("example.com/gate", "True", "")},
		ContainerStatuses: []corev1.ContainerStatus{{Name: "a", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}}},
	}
	running := corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: "10.0.0.2", PodIPs: []corev1.PodIP{{IP: "10.0.0.2"}},
		Conditions:        []corev1.PodCondition{cond(corev1.PodReady, "True", ""), cond("example.com/gate", "True", "")},
		ContainerStatuses: []corev1.ContainerStatus{{Name: "a", Ready: true, State: *started}},
	}
	moved := *running.DeepCopy()
	moved.PodIP, moved.PodIPs = "10.0.0.7", []corev1.PodIP{{IP: "10.0.0.7"}}
	resizing := *running.DeepCopy()
	resizing.Conditions = append(resizing.Conditions, cond(corev1.PodResizeInProgress, "True", ""))
	for name, c := range map[string]struct{ from, to corev1.PodStatus }{
		"from nothing":           {corev1.PodStatus{}, waiting},
		"reason goes":            {waiting, running},
		"a condition goes":       {resizing, running},
		"address is replaced":    {running, moved},
		"and back, fields empty": {moved, waiting},
	} {
		t.Run(name, func(t *testing.T) {
			patch, err := Patch("uid", &c.from, &c.to)
			if err != nil {
				t.Fatal(err)
			}
			server := corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "uid"}, Status: *c.from.DeepCopy()}
			server.Status.Conditions = append(server.Status.Conditions, cond("other.example.com/new", "True", "theirs"))
			before, _ := json.Marshal(server)
			after, err := strategicpatch.StrategicMergePatch(before, patch, corev1.Pod{})
			if err != nil {
				t.Fatal(err)
			}
			var got corev1.Pod
			if err := json.Unmarshal(after, &got); err != nil {
				t.Fatal(err)
			}
			if condition(got.Status.Conditions, "other.example.com/new") == nil {
				t.Error("a condition of another writer is lost")
			}
			for _, want := range c.to.Conditions {
				if have := condition(got.Status.Conditions, want.Type); have == nil || !equality.Semantic.DeepEqual(*have, want) {
					t.Errorf("condition %s: %+v, want %+v", want.Type, have, want)
				}
			}
			if n := len(got.Status.Conditions); n != len(c.to.Conditions)+1 {
				t.Errorf("%d conditions: %+v", n, got.Status.Conditions)
			}
			got.Status.Conditions, c.to.Conditions = nil, nil
			if !equality.Semantic.DeepEqual(got.Status, c.to) {
				t.Errorf("status %+v\nwant %+v\npatch %s", got.Status, c.to, patch)
			}
		})
	}
	if patch, _ := Patch("uid", &running, running.DeepCopy()); patch != nil {
		t.Errorf("a patch for nothing: %s", patch)
	}
}
