// Package evict protects the node from running out of what all pods share: memory, disk, inodes and process numbers. It
// tells the node's conditions of pressure, and ends the pods that weigh most, one at a time, in the order in which
// kubelets do.
//
// Reads:  /proc/meminfo, /proc/loadavg, statfs; the pods' cgroups.
// Writes: nothing; pods are ended by the pod workers.
package evict

import (
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
)

// Reading is how much the node has, and has left.
type Reading struct {
	Memory, MemoryFree int64 // bytes
	Disk, DiskFree     int64 // bytes of the file system that holds pods and images
	Inodes, InodesFree int64
	PIDs, PIDsFree     int64
}

// Signal is a resource that can run short.
type Signal string

// The signals, by the names of the resources in eviction messages.
const (
	Memory Signal = "memory"
	Disk   Signal = "ephemeral-storage"
	Inodes Signal = "inodes"
	PIDs   Signal = "pids"
)

// Floor is what must stay free. The shares bound the absolute values, so that neither a small board nor a large disk is
// kept half empty.
type Floor struct {
	Memory, Disk           int64 // bytes
	MemoryShare, DiskShare float64
	InodeShare, PIDShare   float64
}

// DefaultFloor is kubelets' 100 MiB of memory, 10 % of the disk and 5 % of the inodes, scaled down on small machines and
// large disks.
func DefaultFloor() Floor {
	return Floor{Memory: 100 << 20, MemoryShare: 0.1, Disk: 5 << 30, DiskShare: 0.1, InodeShare: 0.05, PIDShare: 0.05}
}

// short lists the signals below their floor, with the floor: the ones that pods are ended for.
func (f Floor) short(r Reading) map[Signal]int64 {
	out := map[Signal]int64{}
	check := func(s Signal, all, free, floor int64) {
		if all > 0 && free < floor {
			out[s] = floor
		}
	}
	share := func(all int64, part float64) int64 { return int64(float64(all) * part) }
	check(Memory, r.Memory, r.MemoryFree, min(f.Memory, share(r.Memory, f.MemoryShare)))
	check(Disk, r.Disk, r.DiskFree, min(f.Disk, share(r.Disk, f.DiskShare)))
	check(Inodes, r.Inodes, r.InodesFree, share(r.Inodes, f.InodeShare))
	check(PIDs, r.PIDs, r.PIDsFree, share(r.PIDs, f.PIDShare))
	return out
}

func (r Reading) free(s Signal) int64 {
	return map[Signal]int64{Memory: r.MemoryFree, Disk: r.DiskFree, Inodes: r.InodesFree, PIDs: r.PIDsFree}[s]
}

// Config is what is watched and who acts.
type Config struct {
	Dir   string // whose file system counts as the node's disk
	Floor Floor
	// Pods lists the pods that run, with what each uses of what is short.
	Pods func(Signal) []Candidate
	// End ends a pod; it is told once for each.
	End func(uid types.UID, reason, message string, grace time.Duration) bool
	Log *slog.Logger
}

// hold is how long a condition stays after its signal was last seen: a node that flaps would attract the pods it has
// just got rid of.
const hold = 5 * time.Minute

// endWithin is how long one pod is given to be gone before the next is chosen.
const endWithin = 30 * time.Second

// Evictor watches one node. It is safe for concurrent use.
type Evictor struct {
	cfg  Config
	now  func() time.Time
	read func(dir string) (Reading, error)

	mu      sync.Mutex
	seen    map[Signal]time.Time
	ending  types.UID
	endedAt time.Time
}

// New returns an evictor that has seen nothing.
func New(cfg Config) *Evictor {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Evictor{cfg: cfg, now: time.Now, read: readNode, seen: map[Signal]time.Time{}}
}

// Check looks at the node, ends a pod if need be, and tells which conditions hold. It is cheap: a few small reads while
// nothing is short.
func (e *Evictor) Check() (memory, disk, pids bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.now()
	r, err := e.read(e.cfg.Dir)
	if err != nil {
		e.cfg.Log.Warn("pressure on the node can't be told", "error", err)
	}
	short := e.cfg.Floor.short(r)
	for s := range short {
		e.seen[s] = now
	}
	if len(short) > 0 {
		e.evict(r, short)
	}
	held := func(s Signal) bool {
		at, ok := e.seen[s]
		return ok && now.Sub(at) < hold
	}
	return held(Memory), held(Disk) || held(Inodes), held(PIDs)
}

// evict ends the first candidate for the first signal, unless the last one is still on its way.
func (e *Evictor) evict(r Reading, short map[Signal]int64) {
	for _, s := range []Signal{Memory, Disk, Inodes, PIDs} {
		floor, ok := short[s]
		if !ok {
			continue
		}
		candidates := e.cfg.Pods(s)
		for _, c := range candidates {
			if c.Pod.UID == e.ending && e.now().Sub(e.endedAt) < endWithin {
				return
			}
		}
		order := rank(candidates, s)
		for _, c := range order {
			if c.Pod.UID == e.ending {
				continue // it won't go: the next
			}
			message := fmt.Sprintf("The node was low on resource: %s. Threshold quantity: %s, available: %s. ", s, quantity(s, floor), quantity(s, r.free(s)))
			if s == Memory {
				message += c.message()
			}
			e.cfg.Log.Warn("pod is evicted", "pod", c.Pod.Namespace+"/"+c.Pod.Name, "resource", s, "available", r.free(s), "threshold", floor)
			if e.cfg.End(c.Pod.UID, "Evicted", message, 0) {
				e.ending, e.endedAt = c.Pod.UID, e.now()
				return
			}
		}
		if len(order) == 0 {
			e.cfg.Log.Warn("the node is short, and no pod may be evicted", "resource", s, "available", r.free(s), "threshold", floor)
		}
	}
}

func quantity(s Signal, n int64) string {
	if s == Memory {
		return resource.NewQuantity(n>>10<<10, resource.BinarySI).String()
	}
	return resource.NewQuantity(n, resource.BinarySI).String()
}

// readNode reads what the machine has and has left.
func readNode(dir string) (Reading, error) {
	var r Reading
	info, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return r, err
	}
	r.Memory, r.MemoryFree = meminfo(string(info), "MemTotal:"), meminfo(string(info), "MemAvailable:")
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return r, fmt.Errorf("statfs %s: %w", dir, err)
	}
	r.Disk, r.DiskFree = int64(st.Blocks)*st.Bsize, int64(st.Bavail)*st.Bsize
	r.Inodes, r.InodesFree = int64(st.Files), int64(st.Ffree)
	limit, err := os.ReadFile("/proc/sys/kernel/pid_max")
	if err != nil {
		return r, err
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return r, err
	}
	r.PIDs, _ = strconv.ParseInt(strings.TrimSpace(string(limit)), 10, 64)
	r.PIDsFree = r.PIDs - tasks(string(load))
	return r, nil
}

func meminfo(text, key string) int64 {
	_, rest, _ := strings.Cut(text, key)
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0
	}
	kb, _ := strconv.ParseInt(fields[0], 10, 64)
	return kb << 10
}

// tasks is the number after the slash in "0.00 0.01 0.05 1/123 4567".
func tasks(loadavg string) int64 {
	fields := strings.Fields(loadavg)
	if len(fields) < 4 {
		return 0
	}
	_, all, _ := strings.Cut(fields[3], "/")
	n, _ := strconv.ParseInt(all, 10, 64)
	return n
}

// Candidate is a running pod, and what it uses.
type Candidate struct {
	Pod        *corev1.Pod
	Memory     int64 // working set in bytes
	Disk       int64 // bytes of volumes, logs and writable layers
	Inodes     int64
	PIDs       int64
	Containers map[string]int64 // working sets by container
}
