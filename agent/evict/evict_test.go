package evict

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func candidate(name string, priority int32, requestMi, usedMi int64) Candidate {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}}
	p.Spec.Priority = &priority
	p.Spec.Containers = []corev1.Container{{Name: "c"}}
	if requestMi > 0 {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"memory": *resource.NewQuantity(requestMi<<20, resource.BinarySI)}
	}
	return Candidate{Pod: p, Memory: usedMi << 20, PIDs: usedMi, Disk: 1000 - usedMi, Containers: map[string]int64{"c": usedMi << 20}}
}

func names(list []Candidate) string {
	var out []string
	for _, c := range list {
		out = append(out, c.Pod.Name)
	}
	return strings.Join(out, " ")
}

func TestRank(t *testing.T) {
	static, mirror, done := candidate("static", 0, 0, 900), candidate("mirror", 0, 0, 900), candidate("done", 0, 0, 900)
	static.Pod.Annotations = map[string]string{"kubernetes.io/config.source": "file"}
	mirror.Pod.Annotations = map[string]string{"kubernetes.io/config.mirror": "x"}
	done.Pod.Status.Phase = corev1.PodFailed
	list := []Candidate{
		candidate("modest", 0, 100, 50), candidate("important", 1000, 0, 500), candidate("hungry", 0, 100, 300), candidate("besteffort", 0, 0, 250),
		candidate("critical", systemCritical, 0, 900), static, mirror, done,
	}
	if got := names(rank(list, Memory)); got != "besteffort hungry important modest" {
		t.Errorf("memory: %s", got)
	}
	if got := names(rank(list, Disk)); got != "modest besteffort hungry important" {
		t.Errorf("disk: %s", got)
	}
	if got := names(rank(list, PIDs)); got != "hungry besteffort modest important" {
		t.Errorf("pids: %s", got)
	}
}

func TestFloorScales(t *testing.T) {
	f := DefaultFloor()
	for _, tc := range []struct {
		r    Reading
		want string
	}{
		{Reading{Memory: 8 << 30, MemoryFree: 99 << 20}, "map[memory:104857600]"},
		{Reading{Memory: 8 << 30, MemoryFree: 101 << 20}, "map[]"},
		{Reading{Memory: 128 << 20, MemoryFree: 14 << 20}, "map[]"}, // a tenth, not 100 MiB
		{Reading{Disk: 1 << 40, DiskFree: 6 << 30}, "map[]"},        // 5 GiB, not a tenth
		{Reading{Disk: 10 << 30, DiskFree: 1023 << 20}, "map[ephemeral-storage:1073741824]"},
		{Reading{Inodes: 1000, InodesFree: 49, PIDs: 1000, PIDsFree: 49}, "map[inodes:50 pids:50]"},
		{Reading{}, "map[]"}, // file systems without inodes report none
	} {
		if got := fmt.Sprint(f.short(tc.r)); got != tc.want {
			t.Errorf("%+v: %s, want %s", tc.r, got, tc.want)
		}
	}
}

func TestEvictsOneAtATimeAndHoldsTheCondition(t *testing.T) {
	now := time.Unix(1000, 0)
	free := int64(50 << 20)
	pods := []Candidate{candidate("a", 0, 0, 300), candidate("b", 0, 0, 200)}
	var ended []string
	e := New(Config{Floor: DefaultFloor(), Pods: func(Signal) []Candidate { return pods }, End: func(uid types.UID, reason, message string, grace time.Duration) bool {
		ended = append(ended, string(uid)+": "+reason+": "+message)
		return true
	}})
	e.now = func() time.Time { return now }
	e.read = func(string) (Reading, error) { return Reading{Memory: 1 << 30, MemoryFree: free}, nil }
	for range 3 { // the first is still on its way
		if memory, disk, pids := e.Check(); !memory || disk || pids {
			t.Errorf("conditions %t %t %t", memory, disk, pids)
		}
	}
	want := "a: Evicted: The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container c was using 300Mi, request is 0, has larger consumption of memory. "
	if len(ended) != 1 || ended[0] != want {
		t.Errorf("ended %q, want %q", ended, want)
	}
	now = now.Add(endWithin) // it won't go
	e.Check()
	if len(ended) != 2 || !strings.HasPrefix(ended[1], "b: ") {
		t.Errorf("ended %q", ended)
	}
	free = 900 << 20
	now = now.Add(hold - time.Second)
	if memory, _, _ := e.Check(); !memory {
		t.Error("the condition goes at once")
	}
	now = now.Add(2 * time.Second)
	if memory, _, _ := e.Check(); memory {
		t.Error("the condition stays for ever")
	}
	if len(ended) != 2 {
		t.Errorf("pods are ended without need: %q", ended)
	}
}

func TestReadNode(t *testing.T) {
	r, err := readNode(t.TempDir())
	if err != nil || r.Memory <= 0 || r.MemoryFree <= 0 || r.MemoryFree > r.Memory || r.Disk <= 0 || r.PIDs <= 0 || r.PIDsFree <= 0 || r.PIDsFree >= r.PIDs {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestDiskUsage(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(dir+"/a/b", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/a/b/f", make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	bytes, inodes, err := DiskUsage(dir)
	if err != nil || bytes < 1<<20 || bytes > 2<<20 || inodes != 4 {
		t.Errorf("%d bytes, %d inodes, %v", bytes, inodes, err)
	}
	if bytes, inodes, err := DiskUsage(dir + "/none"); bytes != 0 || inodes != 0 || err != nil {
		t.Errorf("a tree that isn't there: %d, %d, %v", bytes, inodes, err)
	}
}
