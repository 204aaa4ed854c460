package evict

import (
	"context"
	"errors"
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
	return Candidate{p, Usage{
		Memory: usedMi << 20, PIDs: usedMi,
		Containers: map[string]ContainerUsage{"c": {Memory: usedMi << 20, Rootfs: Disk{1000 - usedMi, usedMi}}},
	}}
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
	for s, want := range map[Signal]string{
		MemoryAvailable: "besteffort hungry important modest", NodeFsAvailable: "modest besteffort hungry important",
		NodeFsInodesFree: "hungry besteffort modest important", PIDAvailable: "hungry besteffort modest important",
	} {
		if got := names(rank(list, s, false)); got != want {
			t.Errorf("%s: %s, want %s", s, got, want)
		}
	}
}

func TestDiskOfAPod(t *testing.T) {
	u := Usage{
		Containers: map[string]ContainerUsage{"a": {Logs: Disk{1, 1}, Rootfs: Disk{10, 1}}, "b": {Logs: Disk{2, 1}, Rootfs: Disk{20, 1}}},
		Volumes:    map[string]Disk{"v": {100, 1}}, Other: Disk{1000, 1},
	}
	for _, tc := range []struct {
		s    Signal
		own  bool
		want int64
	}{{NodeFsAvailable, false, 1133}, {ImageFsAvailable, false, 1133}, {NodeFsAvailable, true, 1103}, {ImageFsAvailable, true, 30}} {
		if got := u.on(tc.s, tc.own).Bytes; got != tc.want {
			t.Errorf("%s, own image file system %t: %d, want %d", tc.s, tc.own, got, tc.want)
		}
	}
}

func TestThresholds(t *testing.T) {
	list, err := Thresholds(Spec{
		Hard: map[string]string{"memory.available": "200Mi", "nodefs.available": "0%"}, Soft: map[string]string{"nodefs.available": "20%"},
		Grace: map[string]string{"nodefs.available": "2m"}, Reclaim: map[string]string{"memory.available": "50Mi"},
	})
	want := "[{memory.available {209715200 0} 0s {52428800 0}} {nodefs.available {0 0.2} 2m0s {0 0}}]"
	if got := fmt.Sprint(list); err != nil || got != want {
		t.Errorf("%s, %v, want %s", got, err, want)
	}
	if list, err := Thresholds(Spec{}); err != nil || len(list) != len(Defaults()) {
		t.Errorf("%v, %v", list, err)
	}
	if list, err := Thresholds(Spec{Hard: map[string]string{"pid.available": "100"}, MergeDefaults: true}); err != nil || len(list) != len(Defaults()) || list[0].Left.Absolute != 100 {
		t.Errorf("%v, %v", list, err)
	}
	_, err = Thresholds(Spec{
		Hard: map[string]string{"memory": "1", "memory.available": "0", "pid.available": "lots", "nodefs.available": "120%"},
		Soft: map[string]string{"imagefs.available": "1Gi"}, Reclaim: map[string]string{"x": "1"},
	})
	if n := len(strings.Split(fmt.Sprint(err), "\n")); n != 6 {
		t.Errorf("%d lines: %v", n, err)
	}
	for _, tc := range []struct {
		a        Amount
		capacity int64
		want     int64
	}{{Amount{100, 0}, 50, 100}, {Amount{0, 0.1}, 50, 5}, {Amount{100, 0.1}, 500, 50}, {Amount{100, 0.1}, 5000, 100}} {
		if got := tc.a.Of(tc.capacity); got != tc.want {
			t.Errorf("%+v of %d: %d, want %d", tc.a, tc.capacity, got, tc.want)
		}
	}
}

// A soft threshold waits for its grace period; one that was due needs the minimum reclaim to be over; a condition is held.
func TestJudge(t *testing.T) {
	begin := time.Unix(1000, 0)
	soft := Threshold{Signal: NodeFsAvailable, Left: Amount{Absolute: 100}, Grace: time.Minute, Reclaim: Amount{Absolute: 50}}
	hard := Threshold{Signal: MemoryAvailable, Left: Amount{Absolute: 100}}
	list := []Threshold{soft, hard}
	s := &state{}
	for _, step := range []struct {
		after        time.Duration
		disk, memory int64
		due          string
		conditions   string
		next         time.Duration // after begin; 0: never
	}{
		{0, 500, 500, "", "map[]", 0},
		{10 * time.Second, 99, 500, "", "map[DiskPressure:true]", 70 * time.Second},
		{69 * time.Second, 99, 500, "", "map[DiskPressure:true]", 70 * time.Second},
		{70 * time.Second, 99, 500, "nodefs.available", "map[DiskPressure:true]", 70*time.Second + 5*time.Minute},
		{75 * time.Second, 120, 99, "memory.available nodefs.available", "map[DiskPressure:true MemoryPressure:true]", 75*time.Second + 5*time.Minute},
		{80 * time.Second, 150, 100, "", "map[DiskPressure:true MemoryPressure:true]", 75*time.Second + 5*time.Minute},
		{374 * time.Second, 150, 100, "", "map[DiskPressure:true MemoryPressure:true]", 375 * time.Second},
		{375 * time.Second, 150, 100, "", "map[]", 0},
		{376 * time.Second, 99, 100, "", "map[DiskPressure:true]", 436 * time.Second}, // it begins anew
	} {
		r := Reading{NodeFsAvailable: {1000, step.disk}, MemoryAvailable: {1000, step.memory}}
		j := s.judge(list, r, begin.Add(step.after), 5*time.Minute)
		var due []string
		for _, d := range j.due {
			due = append(due, string(d.Signal))
		}
		var next time.Duration
		if !j.next.IsZero() {
			next = j.next.Sub(begin)
		}
		if got := strings.Join(due, " "); got != step.due || fmt.Sprint(j.conditions) != step.conditions || next != step.next {
			t.Errorf("after %v: due %q, %v, next %v; want %q, %s, %v", step.after, got, j.conditions, next, step.due, step.conditions, step.next)
		}
	}
	if j := (&state{}).judge(Defaults(), Reading{}, begin, time.Minute); len(j.due) > 0 || j.crossed {
		t.Errorf("what isn't known is short: %+v", j)
	}
}

func TestNextLook(t *testing.T) {
	list := []Threshold{{Signal: NodeFsAvailable, Left: Amount{Absolute: 1000}}}
	for _, tc := range []struct {
		before, now int64
		want        time.Duration
	}{ // 120,000 in 20 minutes is a pace of 100 a second
		{100000, 100000, latest},
		{3000, 3000, 10 * time.Second},  // 2,000 left, at twice that
		{1100, 1100, soonest},           // it would be half a second
		{21000, 11000, 5 * time.Second}, // 10,000 left, at twice the 1,000 a second that was seen
		{11000, 21000, latest},          // it gets more
	} {
		got := nextLook(list, Reading{NodeFsAvailable: {120000, tc.before}}, Reading{NodeFsAvailable: {120000, tc.now}}, 10*time.Second, false)
		if got != tc.want {
			t.Errorf("%+v: %v, want %v", tc, got, tc.want)
		}
	}
}

// TestNextLookBlind: without thresholds in the kernel, memory that a pod could take within the minute is looked at sooner.
func TestNextLookBlind(t *testing.T) {
	list := []Threshold{{Signal: MemoryAvailable, Left: Amount{Absolute: 100}}}
	for _, tc := range []struct {
		available int64
		blind     bool
		want      time.Duration
	}{
		{600, false, latest},
		{500, true, 12 * time.Second},
		{1000, true, 27 * time.Second},
		{120, true, soonest},
	} {
		now := Reading{MemoryAvailable: {1000, tc.available}}
		if got := nextLook(list, now, now, time.Minute, tc.blind).Round(time.Second); got != tc.want {
			t.Errorf("%+v: %v, want %v", tc, got, tc.want)
		}
	}
}

func TestRefuse(t *testing.T) {
	guaranteed := candidate("g", 0, 100, 0).Pod
	plain, tolerant := candidate("b", 0, 0, 0).Pod, candidate("t", 0, 0, 0).Pod
	tolerant.Spec.Tolerations = []corev1.Toleration{{Key: "node.kubernetes.io/memory-pressure", Operator: corev1.TolerationOpExists}}
	critical := candidate("c", systemCritical, 0, 0).Pod
	memory, both := []corev1.NodeConditionType{"MemoryPressure"}, []corev1.NodeConditionType{"DiskPressure", "MemoryPressure"}
	for _, tc := range []struct {
		pod        *corev1.Pod
		conditions []corev1.NodeConditionType
		want       string
	}{
		{plain, nil, " "},
		{plain, memory, "Evicted The node had condition: [MemoryPressure]. "},
		{guaranteed, memory, " "},
		{tolerant, memory, " "},
		{guaranteed, both, "Evicted The node had condition: [DiskPressure MemoryPressure]. "},
		{critical, both, " "},
	} {
		reason, message := refuse(tc.pod, tc.conditions)
		if got := reason + " " + message; got != tc.want {
			t.Errorf("%s under %v: %q, want %q", tc.pod.Name, tc.conditions, got, tc.want)
		}
	}
}

func TestExceeded(t *testing.T) {
	pod := &corev1.Pod{}
	limit := func(n string) corev1.ResourceRequirements {
		return corev1.ResourceRequirements{Limits: corev1.ResourceList{"ephemeral-storage": resource.MustParse(n)}}
	}
	size := resource.MustParse("1Mi")
	pod.Spec.Containers = []corev1.Container{{Name: "a", Resources: limit("2Mi")}, {Name: "b", Resources: limit("8Mi")}}
	pod.Spec.Volumes = []corev1.Volume{
		{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: &size}}},
		{Name: "m", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: &size, Medium: corev1.StorageMediumMemory}}},
	}
	use := func(v, a, other int64) Candidate {
		return Candidate{pod, Usage{Volumes: map[string]Disk{"v": {v, 1}}, Containers: map[string]ContainerUsage{"a": {Rootfs: Disk{a, 1}}}, Other: Disk{other, 1}}}
	}
	for _, tc := range []struct {
		c    Candidate
		kind string
		room int64
	}{
		{use(1<<20, 0, 0), "", 0},
		{use(1<<20+1, 0, 0), "emptydirfs.limit", 0},
		{use(0, 2<<20+1, 0), "ephemeralcontainerfs.limit", 0},
		{use(0, 0, 10<<20+1), "ephemeralpodfs.limit", 0},
		{use(0, 0, 0), "", 1 << 20},
		{use(0, 3<<19, 0), "", 1 << 19},
	} {
		text, kind, room := exceeded(tc.c, false)
		if kind != tc.kind || room != tc.room || (text == "") != (kind == "") {
			t.Errorf("%+v: %q %q %d, want %q %d", tc.c.Usage, text, kind, room, tc.kind, tc.room)
		}
	}
	if text, _, _ := exceeded(use(2<<20, 0, 0), false); text != `Usage of EmptyDir volume "v" exceeds the limit "1Mi". ` {
		t.Errorf("%q", text)
	}
	if !limited(pod) || limited(candidate("x", 0, 100, 0).Pod) {
		t.Error("limited")
	}
}

func TestFilesAreLookedAtWhenTheyMayHaveGrown(t *testing.T) {
	now := time.Unix(10000, 0)
	seen := filesSeen{at: now.Add(-30 * time.Second), room: 100, used: 1000}
	for _, tc := range []struct {
		f    filesSeen
		used int64
		want bool
	}{
		{filesSeen{}, 0, true},
		{seen, 1099, false},
		{seen, 1100, true},
		{seen, 1000, false},
		{filesSeen{now.Add(-filesLatest), 100, 1000}, 1001, true},
		{filesSeen{now.Add(-filesLatest), 100, 1000}, 1000, false},
		{filesSeen{now.Add(-10 * filesLatest), 100, 1000}, 1000, true},
	} {
		if got := due(tc.f, tc.used, now); got != tc.want {
			t.Errorf("%+v, %d used: %t", tc.f, tc.used, got)
		}
	}
}

// fakePods are running pods; what they use is said beforehand.
type fakePods struct {
	list  []Candidate
	ended []string
	asked func() // for a pod's usage; may be nil
}

func (f *fakePods) Active() []*corev1.Pod {
	var out []*corev1.Pod
	for _, c := range f.list {
		out = append(out, c.Pod)
	}
	return out
}

func (f *fakePods) Usage(_ context.Context, pod *corev1.Pod, _ bool) Usage {
	if f.asked != nil {
		f.asked()
	}
	for _, c := range f.list {
		if c.Pod.UID == pod.UID {
			return c.Usage
		}
	}
	return Usage{}
}

func (f *fakePods) End(pod *corev1.Pod, message string, disruption bool, grace time.Duration) bool {
	f.ended = append(f.ended, fmt.Sprintf("%s %t %v %s", pod.UID, disruption, grace, message))
	return true
}

func TestEvictsOneAtATimeAndHoldsTheCondition(t *testing.T) {
	now := time.Unix(1000, 0)
	free := int64(50 << 20)
	pods := &fakePods{list: []Candidate{candidate("a", 0, 0, 300), candidate("b", 0, 0, 200)}}
	var events []string
	changed := 0
	e := New(Config{
		NodeDir: t.TempDir(), ImageDir: t.TempDir(), Thresholds: Defaults(), Pods: pods, Changed: func() { changed++ },
		Event: func(_, reason, message string) { events = append(events, reason+": "+message) },
	})
	e.now = func() time.Time { return now }
	e.read = func() (Reading, error) { return Reading{MemoryAvailable: {1 << 30, free}}, nil }
	for range 3 { // the first is still on its way
		e.turn(t.Context())
		if memory, disk, pids := e.Pressure(); !memory || disk || pids {
			t.Errorf("conditions %t %t %t", memory, disk, pids)
		}
	}
	want := "a true 1s The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container c was using 300Mi, request is 0, has larger consumption of memory. "
	if len(pods.ended) != 1 || pods.ended[0] != want {
		t.Errorf("ended %q, want %q", pods.ended, want)
	}
	if len(events) != 1 || events[0] != "EvictionThresholdMet: Attempting to reclaim memory" || changed != 1 {
		t.Errorf("%q, changed %d times", events, changed)
	}
	now = now.Add(endWithin) // it won't go
	e.turn(t.Context())
	if len(pods.ended) != 2 || !strings.HasPrefix(pods.ended[1], "b ") {
		t.Errorf("ended %q", pods.ended)
	}
	pods.list, free = nil, 900<<20
	now = now.Add(5*time.Minute - time.Second)
	if wait := e.turn(t.Context()); wait > time.Second { // the condition ends in a second
		t.Errorf("next look in %v", wait)
	}
	if memory, _, _ := e.Pressure(); !memory {
		t.Error("the condition goes at once")
	}
	now = now.Add(2 * time.Second)
	e.turn(t.Context())
	if memory, _, _ := e.Pressure(); memory {
		t.Error("the condition stays for ever")
	}
	if len(pods.ended) != 2 || e.Evictions()["memory.available"] != 2 {
		t.Errorf("pods are ended without need: %q", pods.ended)
	}
}

// On a node that thrashes minutes may lie between a reading and what follows from it.
func TestPodsStayIfMemoryIsBackMeanwhile(t *testing.T) {
	free := int64(50 << 20)
	pods := &fakePods{list: []Candidate{candidate("a", 0, 0, 1)}}
	pods.asked = func() { free = 900 << 20 } // the kernel has killed the one that took it all
	e := New(Config{NodeDir: t.TempDir(), ImageDir: t.TempDir(), Thresholds: Defaults(), Pods: pods})
	e.read = func() (Reading, error) { return Reading{MemoryAvailable: {1 << 30, free}}, nil }
	if wait := e.turn(t.Context()); len(pods.ended) > 0 || wait > time.Second {
		t.Errorf("ended %q, next look in %v", pods.ended, wait)
	}
	free, pods.asked = 50<<20, nil
	e.turn(t.Context())
	if len(pods.ended) != 1 {
		t.Errorf("ended %q", pods.ended)
	}
}

// Images and dead containers go before pods do.
func TestDiskIsReclaimedFirst(t *testing.T) {
	pods := &fakePods{list: []Candidate{candidate("a", 0, 0, 300)}}
	free, fail := int64(50), errors.New("no image to remove")
	e := New(Config{NodeDir: t.TempDir(), ImageDir: t.TempDir(), Pods: pods, Thresholds: []Threshold{{Signal: NodeFsAvailable, Left: Amount{Absolute: 100}}}})
	e.cfg.Reclaim = func(context.Context) error { free = 100; return nil }
	e.read = func() (Reading, error) { return Reading{NodeFsAvailable: {1000, free}}, nil }
	e.turn(t.Context())
	if _, disk, _ := e.Pressure(); !disk || len(pods.ended) > 0 {
		t.Errorf("pressure %t, ended %q", disk, pods.ended)
	}
	free, e.cfg.Reclaim = 50, func(context.Context) error { return fail }
	e.turn(t.Context())
	if len(pods.ended) != 1 || !strings.Contains(pods.ended[0], "low on resource: ephemeral-storage") {
		t.Errorf("ended %q", pods.ended)
	}
	// With nothing left to end, the node is looked at as often as upstream does, not all the time.
	pods.list = nil
	if wait := e.turn(t.Context()); wait != pressing {
		t.Errorf("next look in %v", wait)
	}
}

func TestReadNode(t *testing.T) {
	dir := t.TempDir()
	r, err := node{dir, dir, func() (int64, int64) { return 100, 30 }}.read()
	if err != nil || r[AllocatableMemory] != (Level{100, 70}) {
		t.Errorf("%+v, %v", r, err)
	}
	for _, s := range []Signal{MemoryAvailable, NodeFsAvailable, NodeFsInodesFree, ImageFsAvailable, PIDAvailable} {
		if l := r[s]; l.Capacity <= 0 || l.Available <= 0 || l.Available > l.Capacity {
			t.Errorf("%s: %+v", s, l)
		}
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
