package criconfig

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestTuning(t *testing.T) {
	memory := func(request, limit string) corev1.ResourceRequirements {
		r := corev1.ResourceRequirements{Requests: corev1.ResourceList{}, Limits: corev1.ResourceList{"cpu": resource.MustParse("500m")}}
		if request != "" {
			r.Requests["memory"] = resource.MustParse(request)
		}
		if limit != "" {
			r.Limits["memory"] = resource.MustParse(limit)
		}
		return r
	}
	swap := Tuning{Swap: 1 << 30, Memory: 4 << 30, CgroupV2: true}
	for _, tc := range []struct {
		name     string
		tuning   Tuning
		r        corev1.ResourceRequirements
		critical bool
		want     string // quota, period, memory and swap, memory.swap.max
	}{
		{"usual", Tuning{}, memory("1Gi", "2Gi"), false, "50000 100000 2147483648 "},
		{"no quota", Tuning{NoQuota: true}, memory("1Gi", "2Gi"), false, "0 0 2147483648 "},
		{"period", Tuning{CPUPeriod: 10 * time.Millisecond}, memory("1Gi", "2Gi"), false, "5000 10000 2147483648 "},
		{"swap", swap, memory("1Gi", "2Gi"), false, "50000 100000 2415919104 268435456"},
		{"swap without a limit", swap, memory("1Gi", ""), false, "50000 100000 0 268435456"},
		{"all it may have", swap, memory("2Gi", "2Gi"), false, "50000 100000 2147483648 "},
		{"nothing asked for", swap, memory("", "2Gi"), false, "50000 100000 2147483648 "},
		{"critical", swap, memory("1Gi", "2Gi"), true, "50000 100000 2147483648 "},
		{"v1", Tuning{Swap: 1 << 30, Memory: 4 << 30}, memory("1Gi", "2Gi"), false, "50000 100000 2147483648 "},
	} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Resources: tc.r}}}}
		if tc.critical {
			pod.Spec.Priority = new(int32(2000001000))
		}
		c := &pod.Spec.Containers[0]
		r := tc.tuning.Apply(Resources(pod, c, 4<<30, false), pod, c)
		if got := fmt.Sprintf("%d %d %d %s", r.CpuQuota, r.CpuPeriod, r.MemorySwapLimitInBytes, r.Unified["memory.swap.max"]); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestSeccompDefault(t *testing.T) {
	unconfined := &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeUnconfined}
	for _, tc := range []struct {
		tuning Tuning
		own    *corev1.SeccompProfile
		want   runtimeapi.SecurityProfile_ProfileType
	}{
		{Tuning{}, nil, runtimeapi.SecurityProfile_Unconfined},
		{Tuning{SeccompDefault: true}, nil, runtimeapi.SecurityProfile_RuntimeDefault},
		{Tuning{SeccompDefault: true}, unconfined, runtimeapi.SecurityProfile_Unconfined},
	} {
		if got := seccomp("", tc.own, nil, tc.tuning.seccompDefault()).ProfileType; got != tc.want {
			t.Errorf("%+v: %v", tc, got)
		}
	}
}

func TestMemoryQoS(t *testing.T) {
	const mi = 1 << 20
	for _, tc := range []struct {
		name                  string
		tuning                Tuning
		request, limit, whole string
		want                  string // memory.min, low, high, oom.group
	}{
		{"by default", Tuning{CgroupV2: true}, "50Mi", "100Mi", "", "   1"},
		{"one process", Tuning{CgroupV2: true, SingleOOM: true}, "50Mi", "100Mi", "", "   0"},
		{"throttled", Tuning{CgroupV2: true, MemoryQoS: MemoryQoS{Throttle: 0.5}}, "50Mi", "100Mi", "", "0 0 78643200 1"},
		{"without a limit", Tuning{CgroupV2: true, MemoryQoS: MemoryQoS{Throttle: 0.5, Allocatable: 150 * mi}}, "50Mi", "", "", "0 0 104857600 1"},
		{"its pod has the limit", Tuning{CgroupV2: true, MemoryQoS: MemoryQoS{Throttle: 0.5, Allocatable: 150 * mi}}, "50Mi", "", "100Mi", "0 0 max 1"},
		{"all that it asked for", Tuning{CgroupV2: true, MemoryQoS: MemoryQoS{Throttle: 0.5}}, "100Mi", "100Mi", "", "0 0 max 1"},
		{"protected", Tuning{CgroupV2: true, MemoryQoS: MemoryQoS{Protect: true}}, "50Mi", "100Mi", "", "0 52428800 max 1"},
		{"v1", Tuning{MemoryQoS: MemoryQoS{Protect: true, Throttle: 0.5}}, "50Mi", "100Mi", "", "   1"},
	} {
		r := corev1.ResourceRequirements{Requests: corev1.ResourceList{"memory": resource.MustParse(tc.request)}, Limits: corev1.ResourceList{}}
		if tc.limit != "" {
			r.Limits["memory"] = resource.MustParse(tc.limit)
		}
		pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Resources: r}}}}
		if tc.whole != "" {
			pod.Spec.Resources = &corev1.ResourceRequirements{Limits: corev1.ResourceList{"memory": resource.MustParse(tc.whole)}}
		}
		u := tc.tuning.Apply(Resources(pod, &pod.Spec.Containers[0], 4<<30, true), pod, &pod.Spec.Containers[0]).Unified
		if got := u["memory.min"] + " " + u["memory.low"] + " " + u["memory.high"] + " " + u["memory.oom.group"]; got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}
