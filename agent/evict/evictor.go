// Package evict protects the node from running out of what all pods share: memory, disk, inodes and process numbers. It
// tells the node's conditions of pressure, and ends the pods that weigh most, one at a time, in the order in which
// kubelets do. It also ends pods that write more than they may.
//
// It looks when the kernel says that memory is short (see notes), when somebody pokes it (an image was pulled), and
// after a time that depends on how much is left and how fast it goes (see nextLook): a node with room to spare is
// looked at once a minute, on cgroup v2 twice.
//
// Reads:  /proc/meminfo, /proc/loadavg, statfs, pressure and memory thresholds; the pods' cgroups and files.
// Writes: nothing; pods are ended by the pod workers.
package evict

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"golang.org/x/sys/unix"
)

// Pods is the node's pods, as far as they can be evicted.
type Pods interface {
	// Active lists the pods that have something running. The objects are shared.
	Active() []*corev1.Pod
	// Usage is what a pod uses; its files are looked at only if disk is asked for, which may take a while.
	Usage(ctx context.Context, pod *corev1.Pod, disk bool) Usage
	// End ends a pod; disruption: for the node's sake. False if there is no such pod.
	End(pod *corev1.Pod, message string, disruption bool, grace time.Duration) bool
}

// Config is what is watched and who acts.
type Config struct {
	NodeDir, ImageDir string // directories on the file systems of pods' files, and of images
	Thresholds        []Threshold
	MaxGrace          time.Duration // of pods that end for a soft threshold
	Hold              time.Duration // how long a condition stays; 0 means five minutes
	Limits            bool          // whether pods are held to the bounds of their own files
	PodsMemory        func() (limit, used int64)
	Pods              Pods
	Reclaim           func(ctx context.Context) error // frees disk without ending pods: images, dead containers; may be nil
	Changed           func()                          // the conditions have; may be nil
	Event             func(kind, reason, message string)
	Memory            string // mount of the cgroup v1 memory hierarchy, or ""
	Log               *slog.Logger
}

const (
	pressing  = 10 * time.Second // between two looks while something is short and nothing can be done about it
	endWithin = 30 * time.Second // how long one pod is given to be gone before the next is chosen
	// Bounded pods' files are looked at this often if anything was written to their file system at all…
	filesEvery = 10 * time.Second
	// …and at least this often if anything was, however little.
	filesLatest = time.Minute
)

// Evictor watches one node. It is safe for concurrent use.
type Evictor struct {
	cfg   Config
	now   func() time.Time
	read  func() (Reading, error)
	own   bool // images have a file system of their own
	blind bool // the kernel has no thresholds of memory use
	wake  chan struct{}
	state state

	last       Reading
	lastAt     time.Time
	lookAt     time.Time
	complained string
	helpless   Signal // short, and nothing could be done: said once
	filesAt    time.Time
	files      map[types.UID]filesSeen
	ending     *corev1.Pod
	endedAt    time.Time

	mu         sync.Mutex
	conditions []corev1.NodeConditionType
	evictions  map[string]int64
}

// filesSeen is what was known when a bounded pod's files were last looked at.
type filesSeen struct {
	at   time.Time
	room int64 // what it could still write
	used int64 // of the file system
}

// New returns an evictor that has seen nothing.
func New(cfg Config) *Evictor {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Hold == 0 {
		cfg.Hold = 5 * time.Minute
	}
	if cfg.PodsMemory == nil {
		cfg.PodsMemory = func() (int64, int64) { return 0, 0 }
	}
	if cfg.Event == nil {
		cfg.Event = func(string, string, string) {}
	}
	n := node{cfg.NodeDir, cfg.ImageDir, cfg.PodsMemory}
	return &Evictor{
		cfg: cfg, now: time.Now, read: n.read, own: device(cfg.NodeDir) != device(cfg.ImageDir), wake: make(chan struct{}, 1),
		files: map[types.UID]filesSeen{}, evictions: map[string]int64{},
	}
}

func device(dir string) uint64 {
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil {
		return 0
	}
	return uint64(st.Dev) //nolint:unconvert // 32 bits wide on some systems
}

// Conditions are the pressures that the node is under, sorted.
func (e *Evictor) Conditions() []corev1.NodeConditionType {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.conditions
}

// Pressure is Conditions in the terms of the node's status.
func (e *Evictor) Pressure() (memory, disk, pids bool) {
	list := e.Conditions()
	return slices.Contains(list, corev1.NodeMemoryPressure), slices.Contains(list, corev1.NodeDiskPressure), slices.Contains(list, corev1.NodePIDPressure)
}

// Evictions counts the pods that were ended, by signal.
func (e *Evictor) Evictions() map[string]int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return maps.Clone(e.evictions)
}

// Poke asks for a look now: something large was written.
func (e *Evictor) Poke() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// Run watches until ctx ends.
func (e *Evictor) Run(ctx context.Context) error {
	n, err := listen("/proc/pressure/memory", e.cfg.Memory)
	if err != nil {
		e.cfg.Log.Info("memory is watched by the clock", "reason", err)
	}
	var told <-chan struct{}
	if n != nil {
		defer n.close()
		told = n.wake
		go n.run(ctx)
	}
	e.blind = n == nil || n.memory == ""
	for {
		wait := e.turn(ctx)
		if n != nil && n.fired() {
			if err := n.arm(e.memoryRoom()); err != nil {
				e.cfg.Log.Info("no notification of memory use", "reason", err)
				n.memory, e.blind = "", true
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-told:
		case <-e.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// memoryRoom is how much memory may be used, by whomever, before a threshold is crossed.
func (e *Evictor) memoryRoom() int64 {
	room := e.last[MemoryAvailable].Available
	for _, t := range e.cfg.Thresholds {
		if l, ok := e.last[t.Signal]; ok && t.Signal.Resource() == corev1.ResourceMemory {
			room = min(room, l.Available-t.Left.Of(l.Capacity))
		}
	}
	return room
}

// turn looks at the node, ends a pod if need be, and says when to look again.
func (e *Evictor) turn(ctx context.Context) time.Duration {
	now := e.now()
	wait := e.limits(ctx, now)
	j := e.look(now)
	if !j.next.IsZero() {
		wait = min(wait, j.next.Sub(now))
	}
	switch {
	case e.waiting(now):
		return min(wait, time.Second)
	case len(j.due) > 0:
		if e.act(ctx, j.due[0]) {
			return min(wait, time.Second)
		}
		return min(wait, pressing)
	case j.crossed:
		return min(wait, pressing)
	}
	e.helpless = ""
	return min(wait, e.lookAt.Sub(now))
}

// look reads the levels and makes the conditions known.
func (e *Evictor) look(now time.Time) judgement {
	r, err := e.read()
	if err != nil && err.Error() != e.complained {
		e.complained = err.Error()
		e.cfg.Log.Warn("pressure on the node can't be told in full", "error", err)
	}
	elapsed := now.Sub(e.lastAt)
	e.lookAt = now.Add(nextLook(e.cfg.Thresholds, e.last, r, elapsed, e.blind))
	e.last, e.lastAt = r, now
	j := e.state.judge(e.cfg.Thresholds, r, now, e.cfg.Hold)
	list := slices.Sorted(maps.Keys(j.conditions))
	e.mu.Lock()
	changed := !slices.Equal(list, e.conditions)
	e.conditions = list
	e.mu.Unlock()
	if changed && e.cfg.Changed != nil {
		e.cfg.Changed()
	}
	return j
}

// waiting tells whether the last pod is still on its way.
func (e *Evictor) waiting(now time.Time) bool {
	if e.ending == nil || now.Sub(e.endedAt) >= endWithin {
		return false
	}
	if slices.ContainsFunc(e.cfg.Pods.Active(), func(p *corev1.Pod) bool { return p.UID == e.ending.UID }) {
		return true
	}
	e.ending = nil
	return false
}

// act frees what it can without ending pods, and if that isn't enough, ends one. False if there was nothing to be done.
func (e *Evictor) act(ctx context.Context, t Threshold) bool {
	what := t.Signal.Resource()
	e.cfg.Event(corev1.EventTypeWarning, "EvictionThresholdMet", "Attempting to reclaim "+string(what))
	if disk := t.Signal.Condition() == corev1.NodeDiskPressure; disk && e.cfg.Reclaim != nil {
		if err := e.cfg.Reclaim(ctx); err != nil {
			e.cfg.Log.Warn("disk space isn't reclaimed in full", "error", err)
		}
		if _, still := e.still(t); !still {
			return true
		}
	}
	var candidates []Candidate
	for _, pod := range e.cfg.Pods.Active() {
		if e.ending == nil || pod.UID != e.ending.UID { // that one won't go
			candidates = append(candidates, Candidate{pod, e.cfg.Pods.Usage(ctx, pod, t.Signal.Condition() == corev1.NodeDiskPressure)})
		}
	}
	// Looking around takes its time where memory is short, a minute if the kernel has to read this very program again: what was
	// short may be there again, since a pod ended or was killed for it.
	l, still := e.still(t)
	if !still {
		return true
	}
	for _, c := range rank(candidates, t.Signal, e.own) {
		grace := time.Second
		if !t.hard() {
			grace = e.cfg.MaxGrace
			if s := c.Pod.Spec.TerminationGracePeriodSeconds; s != nil {
				grace = min(grace, time.Duration(*s)*time.Second)
			}
		}
		e.cfg.Log.Warn("pod is evicted", "pod", c.Pod.Namespace+"/"+c.Pod.Name, "signal", t.Signal, "available", l.Available, "threshold", t.Left.Of(l.Capacity))
		if e.end(c.Pod, message(c, t, l), string(t.Signal), true, grace) {
			return true
		}
	}
	if e.helpless != t.Signal {
		e.helpless = t.Signal
		e.cfg.Log.Warn("the node is short, and no pod may be evicted", "signal", t.Signal, "available", l.Available, "threshold", t.Left.Of(l.Capacity))
	}
	return false
}

// still reads again and tells whether a threshold that was crossed is.
func (e *Evictor) still(t Threshold) (Level, bool) {
	r, err := e.read()
	if err != nil {
		return e.last[t.Signal], true
	}
	return r[t.Signal], short(t, r, true)
}

func (e *Evictor) end(pod *corev1.Pod, message, kind string, disruption bool, grace time.Duration) bool {
	if !e.cfg.Pods.End(pod, message, disruption, grace) {
		return false
	}
	e.ending, e.endedAt = pod, e.now()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.evictions[kind]++
	return true
}

// limits holds pods to the bounds of their own files, and says when to look again. There is no notification for the size
// of a tree, and walking one costs; so a pod's files are looked at only if its file system has got fuller by what the pod
// may still write, or once a minute if anything was written at all. Upstream walks every pod's files each minute.
func (e *Evictor) limits(ctx context.Context, now time.Time) time.Duration {
	if !e.cfg.Limits {
		return latest
	}
	var bounded []*corev1.Pod
	for _, pod := range e.cfg.Pods.Active() {
		if limited(pod) && !Critical(pod) {
			bounded = append(bounded, pod)
		}
	}
	if len(bounded) == 0 {
		clear(e.files)
		return latest
	}
	if wait := e.filesAt.Add(filesEvery).Sub(now); wait > 0 && wait <= filesEvery {
		if !slices.ContainsFunc(bounded, func(p *corev1.Pod) bool { return e.files[p.UID].at.IsZero() }) {
			return wait
		}
	}
	e.filesAt = now
	used := occupied(e.cfg.NodeDir)
	if e.own {
		used += occupied(e.cfg.ImageDir)
	}
	seen := map[types.UID]filesSeen{}
	for _, pod := range bounded {
		f := e.files[pod.UID]
		if due(f, used, now) {
			c := Candidate{pod, e.cfg.Pods.Usage(ctx, pod, true)}
			text, kind, room := exceeded(c, e.own)
			if text != "" && (e.ending == nil || e.ending.UID != pod.UID) {
				e.cfg.Log.Warn("pod has written more than it may", "pod", pod.Namespace+"/"+pod.Name, "reason", text)
				e.end(pod, text, kind, false, time.Second)
			}
			f = filesSeen{at: now, room: room, used: used}
		}
		seen[pod.UID] = f
	}
	e.files = seen
	return filesEvery
}

// due tells whether a bounded pod's files are to be looked at.
func due(f filesSeen, used int64, now time.Time) bool {
	age := now.Sub(f.at)
	return f.at.IsZero() || used-f.used >= f.room || used != f.used && age >= filesLatest || age >= 10*filesLatest
}

// occupied is how many bytes of a file system are taken.
func occupied(dir string) int64 {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return 0
	}
	return int64(st.Blocks-st.Bfree) * int64(st.Bsize) //nolint:unconvert // 32 bits wide on some systems
}
