package podworker

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Resizes that wait go by priority, class, and how long they have waited (KEP-1287).
func TestTurnsOfResizes(t *testing.T) {
	at := func(seconds int64) metav1.Time { return metav1.Unix(seconds, 0) }
	pod := func(name string, priority int32, class corev1.PodQOSClass, since int64) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Priority: &priority}, Status: corev1.PodStatus{
			QOSClass: class, Conditions: []corev1.PodCondition{{Type: corev1.PodResizePending, LastTransitionTime: at(since)}},
		}}
	}
	list := []*corev1.Pod{
		pod("late", 0, corev1.PodQOSBurstable, 9), pod("early", 0, corev1.PodQOSBurstable, 1), pod("guaranteed", 0, corev1.PodQOSGuaranteed, 5),
		pod("important", 10, corev1.PodQOSBestEffort, 9), pod("humble", -1, corev1.PodQOSGuaranteed, 1),
	}
	slices.SortFunc(list, moreUrgent)
	var got []string
	for _, p := range list {
		got = append(got, p.Name)
	}
	if want := "important guaranteed early late humble"; strings.Join(got, " ") != want {
		t.Errorf("order: %v, want %s", got, want)
	}
}

// What a pod merely asks for isn't taken from others.
func TestCounted(t *testing.T) {
	cpu := func(n string) corev1.ResourceRequirements {
		return corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse(n)}}
	}
	given := cpu("1")
	w := &worker{
		pod:        &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "a", Resources: cpu("4")}, {Name: "b", Resources: cpu("2")}}}},
		containers: map[string]*containerState{"a": {given: &given}},
	}
	if w.counted() != w.pod {
		t.Error("a pod that waits for nothing isn't itself")
	}
	w.resizeCondition = &corev1.PodCondition{Type: corev1.PodResizePending, Reason: corev1.PodReasonDeferred}
	got := w.counted().Spec.Containers
	if got[0].Resources.Requests.Cpu().Value() != 1 || got[1].Resources.Requests.Cpu().Value() != 2 || w.pod.Spec.Containers[0].Resources.Requests.Cpu().Value() != 4 {
		t.Errorf("counted: %+v", got)
	}
}
