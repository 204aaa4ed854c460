package criconfig

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestHugePages(t *testing.T) {
	if got := HugePageSizes([]string{"hugepages-2048kB", "hugepages-1048576kB", "hugepages-64kB", "else"}); !slices.Equal(got, []string{"2MB", "1GB", "64KB"}) {
		t.Errorf("%v", got)
	}
	two := corev1.ResourceName("hugepages-2Mi")
	for what, test := range map[string]struct {
		own, pod corev1.ResourceList
		want     string
	}{
		"none":                       {nil, nil, "1GB=0 2MB=0"},
		"the container's":            {corev1.ResourceList{two: resource.MustParse("4Mi")}, nil, "1GB=0 2MB=4194304"},
		"the pod's":                  {nil, corev1.ResourceList{two: resource.MustParse("8Mi")}, "1GB=0 2MB=8388608"},
		"the container's before it":  {corev1.ResourceList{two: resource.MustParse("4Mi")}, corev1.ResourceList{two: resource.MustParse("8Mi")}, "1GB=0 2MB=4194304"},
		"a size without a kernel's":  {corev1.ResourceList{"hugepages-64Ki": resource.MustParse("64Ki")}, nil, "1GB=0 2MB=0 64KB=65536"},
		"memory is something else":   {corev1.ResourceList{"memory": resource.MustParse("64Ki")}, nil, "1GB=0 2MB=0"},
		"a size that can't be told ": {corev1.ResourceList{"hugepages-x": resource.MustParse("1")}, nil, "1GB=0 2MB=0"},
	} {
		c := corev1.Container{Name: "c", Resources: corev1.ResourceRequirements{Limits: test.own}}
		pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{c}}}
		if test.pod != nil {
			pod.Spec.Resources = &corev1.ResourceRequirements{Limits: test.pod}
		}
		r := Tuning{HugePages: []string{"2MB", "1GB"}}.Apply(Resources(pod, &c, 0, false), pod, &c)
		var got []string
		for _, h := range r.HugepageLimits {
			got = append(got, fmt.Sprintf("%s=%d", h.PageSize, h.Limit))
		}
		slices.Sort(got)
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s: %v, want %s", what, got, test.want)
		}
	}
}

func TestNoSwap(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}
	c := &pod.Spec.Containers[0]
	for _, test := range []struct {
		tuning Tuning
		want   string
	}{{Tuning{CgroupV2: true, SwapControl: true}, "0"}, {Tuning{CgroupV2: true}, ""}, {Tuning{SwapControl: true}, ""}} {
		r := test.tuning.Apply(Resources(pod, c, 0, test.tuning.CgroupV2), pod, c)
		if got := r.Unified["memory.swap.max"]; got != test.want {
			t.Errorf("%+v: memory.swap.max %q, want %q", test.tuning, got, test.want)
		}
	}
}
