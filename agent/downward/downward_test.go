package downward

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestMetadata(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u", Labels: map[string]string{"b": "2", "a": "1"}, Annotations: map[string]string{"x.y/z": "line\n\"q\""}}}
	for path, want := range map[string]string{
		"metadata.name": "p", "metadata.namespace": "ns", "metadata.uid": "u", "metadata.labels": "a=\"1\"\nb=\"2\"",
		"metadata.annotations": `x.y/z="line\n\"q\""`, "metadata.labels['b']": "2", "metadata.annotations['x.y/z']": "line\n\"q\"", "metadata.labels['none']": "",
	} {
		if got, ok := Metadata(pod, path); !ok || got != want {
			t.Errorf("%s = %q, %v; want %q", path, got, ok, want)
		}
	}
	for _, path := range []string{"status.podIP", "metadata.name['x']", "']", "metadata.generateName"} {
		if _, ok := Metadata(pod, path); ok {
			t.Errorf("%s is taken for metadata", path)
		}
	}
}

func TestResource(t *testing.T) {
	c := &corev1.Container{Resources: corev1.ResourceRequirements{
		Limits:   corev1.ResourceList{"cpu": resource.MustParse("1250m"), "hugepages-2Mi": resource.MustParse("4Mi")},
		Requests: corev1.ResourceList{"memory": resource.MustParse("33Mi")},
	}}
	node := corev1.ResourceList{"memory": resource.MustParse("1Gi"), "cpu": resource.MustParse("8")}
	for _, tc := range []struct{ resource, divisor, want string }{
		{"limits.cpu", "", "2"},
		{"limits.cpu", "1m", "1250"},
		{"limits.memory", "1Mi", "1024"}, // the node's
		{"requests.memory", "32Mi", "2"},
		{"requests.cpu", "1", "0"},
		{"limits.hugepages-2Mi", "1Mi", "4"},
		{"limits.ephemeral-storage", "", "0"},
	} {
		ref := &corev1.ResourceFieldSelector{Resource: tc.resource}
		if tc.divisor != "" {
			ref.Divisor = resource.MustParse(tc.divisor)
		}
		if got, err := Resource(ref, &corev1.Pod{}, c, node); err != nil || got != tc.want {
			t.Errorf("%s / %s = %q, %v; want %s", tc.resource, tc.divisor, got, err, tc.want)
		}
	}
	for _, bad := range []string{"cpu", "limits.gpu", "status.cpu"} {
		if _, err := Resource(&corev1.ResourceFieldSelector{Resource: bad}, &corev1.Pod{}, c, node); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
}
