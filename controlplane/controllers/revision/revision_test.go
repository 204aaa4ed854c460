package revision

import (
	"encoding/json"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

func template(image string) *corev1.PodTemplateSpec {
	return &corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "x"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}},
	}
}

func holding(t *testing.T, image string) *appsv1.ControllerRevision {
	t.Helper()
	d, err := Data(template(image))
	if err != nil {
		t.Fatal(err)
	}
	return &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: image}, Data: runtime.RawExtension{Raw: d}}
}

// TestDataIsAPatch: "kubectl rollout undo" applies it as a strategic merge patch.
func TestDataIsAPatch(t *testing.T) {
	ds := appsv1.DaemonSet{Spec: appsv1.DaemonSetSpec{Template: *template("new")}}
	ds.Spec.Template.Spec.Containers = append(ds.Spec.Template.Spec.Containers, corev1.Container{Name: "added"})
	ds.Spec.Template.Labels["added"] = "y"
	b, err := json.Marshal(ds)
	if err != nil {
		t.Fatal(err)
	}
	b, err = strategicpatch.StrategicMergePatch(b, holding(t, "old").Data.Raw, appsv1.DaemonSet{})
	if err != nil {
		t.Fatal(err)
	}
	var got appsv1.DaemonSet
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if c := got.Spec.Template.Spec.Containers; len(c) != 1 || c[0].Image != "old" || len(got.Spec.Template.Labels) != 1 {
		t.Errorf("template %+v", got.Spec.Template)
	}
}

func TestHolds(t *testing.T) {
	r := holding(t, "a")
	for image, want := range map[string]bool{"a": true, "b": false} {
		d, err := Data(template(image))
		if err != nil {
			t.Fatal(err)
		}
		if Holds(r, template(image), d) != want {
			t.Errorf("%s: %v", image, !want)
		}
	}
	// Written by another version: other bytes, the same meaning.
	r.Data.Raw = []byte(`{"spec":{"template":{"$patch":"replace","metadata":{"creationTimestamp":null,"labels":{"app":"x"}},"spec":{"containers":[{"image":"a","name":"c","resources":{}}]}}}}`)
	if !Holds(r, template("a"), nil) {
		t.Error("bytes don't matter")
	}
	r.Data.Raw = []byte(`nonsense`)
	if Holds(r, template("a"), nil) {
		t.Error("nonsense holds nothing")
	}
}

func TestExpired(t *testing.T) {
	var list []*appsv1.ControllerRevision
	for i, name := range []string{"c", "a", "d", "b"} {
		list = append(list, &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: name}, Revision: int64([]int{3, 1, 4, 2}[i])})
	}
	Sort(list)
	live := func(r *appsv1.ControllerRevision) bool { return r.Name == "a" }
	for limit, want := range map[int]string{0: "b c d", 1: "b c", 2: "b", 3: "", 9: "", -1: ""} {
		var names []string
		for _, r := range Expired(list, limit, live) {
			names = append(names, r.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("limit %d: %q, want %q", limit, got, want)
		}
	}
}

func TestHashes(t *testing.T) {
	one := int32(1)
	if TemplateHash(template("a"), nil) == TemplateHash(template("b"), nil) || TemplateHash(template("a"), nil) == TemplateHash(template("a"), &one) ||
		TemplateHash(template("a"), nil) != TemplateHash(template("a"), nil) {
		t.Error("a hash names a template and a collision count")
	}
	if DataHash([]byte("x"), 0) == DataHash([]byte("x"), 1) {
		t.Error("collisions change the name")
	}
	if n := Name(strings.Repeat("x", 253), "hash"); len(n) != maxPrefix+5 {
		t.Errorf("name of %d characters", len(n))
	}
}
