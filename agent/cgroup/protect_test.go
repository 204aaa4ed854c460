package cgroup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
)

func TestMemoryHigh(t *testing.T) {
	for _, c := range []struct {
		request, limit int64
		factor         float64
		want           int64
	}{
		{0, 100 << 20, 0.9, 90 << 20},
		{50 << 20, 100 << 20, 0.5, 75 << 20},
		{100 << 20, 100 << 20, 0.9, 0},
		{50 << 20, 0, 0.9, 0},
		{50 << 20, 100 << 20, 0, 0},
		{0, 5000, 1, 4096},
	} {
		if got := MemoryHigh(c.request, c.limit, c.factor); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

// What pods are kept adds up above them, and goes with them.
func TestProtectionOfThePods(t *testing.T) {
	root := t.TempDir()
	tree := newTree(Config{Root: "/", CPUPeriod: 100000, Protect: true, Throttle: 0.5}, hierarchies{v2: true, unified: root})
	pod := func(uid, request, limit string) *corev1.Pod {
		p := &corev1.Pod{}
		p.UID = types.UID(uid)
		r := corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(request)}}
		if limit != "" {
			r.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(limit), corev1.ResourceCPU: resource.MustParse("1")}
			r.Requests[corev1.ResourceCPU] = resource.MustParse("1")
		}
		p.Spec.Containers = []corev1.Container{{Name: "c", Resources: r}}
		return p
	}
	read := func(path string) string {
		b, _ := os.ReadFile(filepath.Join(root, path))
		return strings.TrimSpace(string(b))
	}
	if got := protection(pod("g", "8Mi", "8Mi"), tree.cfg); *got != (Protection{Min: 8 << 20}) {
		t.Errorf("guaranteed: %+v", got)
	}
	whole := pod("w", "4Mi", "")
	whole.Spec.Resources = &corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("12Mi")}, Requests: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("4Mi")}}
	if got := protection(whole, tree.cfg); *got != (Protection{Low: 4 << 20, High: 8 << 20}) {
		t.Errorf("as a whole: %+v", got)
	}
	if got := protection(whole, Config{}); got != nil {
		t.Errorf("not configured: %+v", got)
	}
	// Files of a made-up hierarchy must be there to be written.
	for _, dir := range []string{"", "kubepods", "kubepods/burstable", "kubepods/besteffort", "kubepods/podg", "kubepods/burstable/podb"} {
		for _, name := range []string{"cpu.weight", "cpu.max", "memory.max", "memory.min", "memory.low", "memory.high", "pids.max", "cgroup.subtree_control", "cgroup.controllers", "cgroup.procs"} {
			if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(root, dir, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, p := range []*corev1.Pod{pod("g", "8Mi", "8Mi"), pod("b", "4Mi", "")} {
		if _, err := tree.Ensure(p); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{
		"kubepods/memory.min": "12582912", "kubepods/memory.low": "4194304", "kubepods/burstable/memory.low": "4194304", "kubepods/burstable/memory.min": "0",
		"kubepods/podg/memory.min": "8388608", "kubepods/burstable/podb/memory.low": "4194304", "kubepods/burstable/podb/memory.high": "max",
	} {
		if got := read(path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	if hard, soft := tree.Protected(); hard != 8<<20 || soft != 4<<20 {
		t.Errorf("%d, %d", hard, soft)
	}
}
