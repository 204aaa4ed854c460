package cgroup

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func container(requests, limits string) corev1.Container {
	parse := func(s string) corev1.ResourceList {
		out := corev1.ResourceList{}
		for _, kv := range strings.Fields(s) {
			k, v, _ := strings.Cut(kv, "=")
			out[corev1.ResourceName(k)] = resource.MustParse(v)
		}
		return out
	}
	return corev1.Container{Resources: corev1.ResourceRequirements{Requests: parse(requests), Limits: parse(limits)}}
}

func pod(uid string, cs ...corev1.Container) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid), Name: uid}, Spec: corev1.PodSpec{Containers: cs}}
}

func TestPodLimits(t *testing.T) {
	cfg := Config{CPUQuota: true, CPUPeriod: 100000, PodPIDs: 100}
	for _, tc := range []struct {
		name string
		pod  *corev1.Pod
		qos  corev1.PodQOSClass
		want Limits
	}{
		{"nothing asked", pod("a", container("", "")), corev1.PodQOSBestEffort, Limits{CPUShares: 2, PIDs: 100}},
		{
			"guaranteed", pod("a", container("cpu=500m memory=64Mi", "cpu=500m memory=64Mi")), corev1.PodQOSGuaranteed,
			Limits{CPUShares: 512, CPUQuota: 50000, CPUPeriod: 100000, Memory: 64 << 20, PIDs: 100},
		},
		{
			"limits alone count as guaranteed", pod("a", container("cpu=1", "cpu=1 memory=1Mi")), corev1.PodQOSGuaranteed,
			Limits{CPUShares: 1024, CPUQuota: 100000, CPUPeriod: 100000, Memory: 1 << 20, PIDs: 100},
		},
		{
			"one container without limits: the pod has none", pod("a", container("cpu=100m", "cpu=200m memory=1Mi"), container("", "")), corev1.PodQOSBurstable,
			Limits{CPUShares: 102, CPUQuota: -1, CPUPeriod: 100000, Memory: -1, PIDs: 100},
		},
		{
			"burstable with limits everywhere", pod("a", container("cpu=100m memory=1Mi", "cpu=1m memory=2Mi")), corev1.PodQOSBurstable,
			Limits{CPUShares: 102, CPUQuota: 1000, CPUPeriod: 100000, Memory: 2 << 20, PIDs: 100},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := QOSClass(tc.pod); got != tc.qos {
				t.Errorf("QOSClass = %s, want %s", got, tc.qos)
			}
			if got := PodLimits(tc.pod, cfg); fmt.Sprint(got) != fmt.Sprint(tc.want) {
				t.Errorf("PodLimits =\n%+v, want\n%+v", got, tc.want)
			}
		})
	}
}

func TestHugePageNames(t *testing.T) {
	got := hugePages(corev1.ResourceList{"hugepages-2Mi": resource.MustParse("4Mi"), "hugepages-1Gi": resource.MustParse("1Gi"), "cpu": resource.MustParse("1")})
	if len(got) != 2 || got["2MB"] != 4<<20 || got["1GB"] != 1<<30 {
		t.Errorf("hugePages = %v", got)
	}
}

func TestWeightKeepsTheFixedPoints(t *testing.T) {
	for shares, want := range map[uint64]uint64{2: 1, 1024: 100, 262144: 10000, 1: 1, 1 << 20: 10000} {
		if got := Weight(shares); got != want {
			t.Errorf("Weight(%d) = %d, want %d", shares, got, want)
		}
	}
}

func TestParseHierarchies(t *testing.T) {
	hybrid := "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n" +
		"32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n" +
		"35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n" +
		"39 31 0:36 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n" +
		"40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n" +
		"41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
	h, err := parseHierarchies(hybrid)
	if err != nil || h.v2 || h.v1["cpuacct"] != "/sys/fs/cgroup/cpu,cpuacct" || len(h.all()) != 5 {
		t.Errorf("hybrid: %+v, %v", h, err)
	}
	h, err = parseHierarchies("41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n")
	if err != nil || !h.v2 || h.mount("cpu") != "/sys/fs/cgroup" {
		t.Errorf("v2: %+v, %v", h, err)
	}
	if _, err = parseHierarchies("35 31 0:32 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"); err == nil || !strings.Contains(err.Error(), "cgroup_enable=memory") {
		t.Errorf("without a memory controller: %v", err)
	}
}

func TestFilesV2(t *testing.T) {
	got := fmt.Sprint(hierarchies{v2: true}.files(Limits{CPUShares: 1024, CPUQuota: -1, CPUPeriod: 100000, Memory: 4096, PIDs: -1, HugePages: map[string]int64{"2MB": 0}}))
	want := "[{cpu cpu.weight 100 false} {cpu cpu.max max 100000 false} {memory memory.max 4096 false} {pids pids.max max false} {hugetlb hugetlb.2MB.max 0 true}]"
	if got != want {
		t.Errorf("files =\n%s, want\n%s", got, want)
	}
}

// The whole life on the real kernel: limits arrive in the files, a process left inside is killed by the removal.
func TestTreeOnTheKernel(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("cgroups need root")
	}
	tree, err := New(Config{Root: fmt.Sprintf("/mote-cgrouptest-%d", os.Getpid()), CPUQuota: true, PodPIDs: 50})
	if err != nil {
		t.Skipf("no cgroups here: %v", err)
	}
	t.Cleanup(func() {
		if err := tree.hier.remove(tree.cfg.Root); err != nil {
			t.Error(err)
		}
	})
	p := pod("1234", container("cpu=500m memory=64Mi", "cpu=500m memory=64Mi"))
	for range 2 { // idempotent
		if parent, err := tree.Ensure(p); err != nil || parent != tree.Root()+"/pod1234" {
			t.Fatal(parent, err)
		}
	}
	if _, err := tree.Ensure(pod("b", container("cpu=1", ""))); err != nil {
		t.Fatal(err)
	}
	shares, want := "cpu.shares", uint64(1024)
	if tree.V2() {
		shares, want = "cpu.weight", 100
	}
	if got, err := readUint(filepath.Join(tree.hier.mount("cpu"), tree.tierPath(corev1.PodQOSBurstable)), shares); err != nil || got != want {
		t.Errorf("burstable tier's %s = %d, %v", shares, got, err)
	}
	if err := tree.Remove("b"); err != nil {
		t.Fatal(err)
	}
	memory, limit := filepath.Join(tree.hier.mount("memory"), tree.PodPath(p)), "memory.limit_in_bytes"
	if tree.V2() {
		limit = "memory.max"
	}
	if got, err := readUint(memory, limit); err != nil || got != 64<<20 {
		t.Errorf("memory limit = %d, %v", got, err)
	}
	if got, err := readUint(filepath.Join(tree.hier.mount("pids"), tree.PodPath(p)), "pids.max"); err != nil || got != 50 {
		t.Errorf("pids.max = %d, %v", got, err)
	}
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	if err := writeFile(memory, "cgroup.procs", fmt.Sprint(cmd.Process.Pid)); err != nil {
		t.Fatal(err)
	}
	u, err := tree.Usage(tree.PodPath(p))
	if err != nil || u.Limit != 64<<20 {
		t.Errorf("Usage = %+v, %v", u, err)
	}
	if uids, err := tree.Pods(); err != nil || len(uids) != 1 || uids[0] != "1234" {
		t.Errorf("Pods = %v, %v", uids, err)
	}
	for range 2 {
		if err := tree.Remove("1234"); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; err == nil {
		t.Error("the process in the removed cgroup ended by itself")
	}
	if uids, _ := tree.Pods(); len(uids) != 0 {
		t.Errorf("Pods after removal = %v", uids)
	}
	for range 2 {
		if err := tree.Cleanup(); err != nil {
			t.Fatal(err)
		}
	}
}

// A kill between a cpuset's creation and its CPUs must not leave a tier below which no pod can start.
func TestCpusetOfHalfMadeParent(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("cgroups need root")
	}
	tree, err := New(Config{Root: fmt.Sprintf("/mote-cpusettest-%d", os.Getpid())})
	if err != nil || tree.hier.v1["cpuset"] == "" {
		t.Skipf("no v1 cpuset here: %v", err)
	}
	t.Cleanup(func() {
		if err := tree.hier.remove(tree.cfg.Root); err != nil {
			t.Error(err)
		}
	})
	tier := filepath.Join(tree.hier.v1["cpuset"], tree.tierPath(corev1.PodQOSBestEffort))
	if err := os.MkdirAll(tier, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := tree.Ensure(pod("c", container("", ""))); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{tier, filepath.Join(tier, "podc")} {
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			if got, err := readTrimmed(dir, file); err != nil || got == "" {
				t.Errorf("%s of %s: %q, %v", file, dir, got, err)
			}
		}
	}
}
