package core

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mote-edge/mote/controlplane/registry/defaults"
)

// KEP-1287, KEP-5419: CPU and memory of a running container or pod change, and are not taken away; nothing else does.
func TestResizable(t *testing.T) {
	list := func(pairs ...string) corev1.ResourceList {
		out := corev1.ResourceList{}
		for i := 0; i < len(pairs); i += 2 {
			out[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
		}
		return out
	}
	for name, c := range map[string]struct {
		now, was corev1.ResourceList
		err      string
	}{
		"cpu changes":           {list("cpu", "2"), list("cpu", "1"), ""},
		"memory comes":          {list("cpu", "1", "memory", "1Gi"), list("cpu", "1"), ""},
		"cpu goes":              {list(), list("cpu", "1"), "resource requests cannot be removed"},
		"storage changes":       {list("ephemeral-storage", "2Gi"), list("ephemeral-storage", "1Gi"), "only cpu and memory"},
		"storage comes":         {list("ephemeral-storage", "2Gi"), nil, "only cpu and memory"},
		"storage stays":         {list("ephemeral-storage", "1Gi"), list("ephemeral-storage", "1024Mi"), ""},
		"something new is left": {list("example.com/x", "1"), list("example.com/x", "1"), ""},
	} {
		errs := resizable(corev1.ResourceRequirements{Requests: c.now}, corev1.ResourceRequirements{Requests: c.was}, field.NewPath("spec", "resources"))
		if got := errs.ToAggregate(); (got == nil) != (c.err == "") || got != nil && !strings.Contains(got.Error(), c.err) {
			t.Errorf("%s: %v, want %q", name, got, c.err)
		}
	}
}

// The pod's own resources are part of what the resize subresource changes.
func TestResizeOfThePodItself(t *testing.T) {
	bounds := func(cpu string) *corev1.ResourceRequirements {
		return &corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}}
	}
	old := &corev1.Pod{Spec: corev1.PodSpec{Resources: bounds("1"), NodeName: "n", Containers: []corev1.Container{{Name: "a"}}}}
	now := old.DeepCopy()
	now.Spec.Resources, now.Spec.NodeName = bounds("2"), "other"
	prepareResize(t.Context(), now, old)
	if now.Spec.Resources.Requests.Cpu().Value() != 2 || now.Spec.NodeName != "n" {
		t.Errorf("after a resize: %+v on %s", now.Spec.Resources, now.Spec.NodeName)
	}
}

// Init containers are resized as others are, unless that would restart them.
func TestResizeOfInitContainers(t *testing.T) {
	list := func(cpu string) corev1.ResourceRequirements {
		return corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}}
	}
	old := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default"}, Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{{Name: "i", Image: "x:1", Resources: list("1")}}, Containers: []corev1.Container{{Name: "c", Image: "x:1", Resources: list("1")}},
	}}
	defaults.Pod(old)
	old.Status.QOSClass = corev1.PodQOSBurstable
	now := old.DeepCopy()
	now.Spec.InitContainers[0].Resources = list("2")
	if errs := validateResize(now, old); len(errs) > 0 {
		t.Error(errs)
	}
	policy := []corev1.ContainerResizePolicy{{ResourceName: corev1.ResourceCPU, RestartPolicy: corev1.RestartContainer}}
	old.Spec.InitContainers[0].ResizePolicy, now.Spec.InitContainers[0].ResizePolicy = policy, policy
	if errs := validateResize(now, old); !strings.Contains(errs.ToAggregate().Error(), "non-sidecar init containers with a resize policy of RestartContainer cannot be resized") {
		t.Error(errs)
	}
}
