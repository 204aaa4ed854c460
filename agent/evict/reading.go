package evict

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Level is how much there is of something, and how much is left.
type Level struct{ Capacity, Available int64 }

// Reading is the levels of one moment. A signal that isn't in it can't be told, and isn't short.
type Reading map[Signal]Level

// node reads levels. It costs five small reads and two statfs calls, some 50 µs.
type node struct {
	nodeDir, imageDir string // directories on the file systems of pods' files, and of images
	// pods is what all pods together may use of memory, and do; 0, 0 if they aren't bounded.
	pods func() (limit, used int64)
}

func (n node) read() (Reading, error) {
	r := Reading{}
	info, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return r, err
	}
	// The kernel's own estimate: what could be had without swapping. Upstream subtracts the root cgroup's working set from
	// the capacity, which misses what isn't charged to any cgroup.
	r[MemoryAvailable] = Level{meminfo(string(info), "MemTotal:"), meminfo(string(info), "MemAvailable:")}
	if limit, used := n.pods(); limit > 0 {
		r[AllocatableMemory] = Level{limit, limit - used}
	}
	if err := fileSystem(r, n.nodeDir, NodeFsAvailable, NodeFsInodesFree); err != nil {
		return r, err
	}
	if err := fileSystem(r, n.imageDir, ImageFsAvailable, ImageFsInodesFree); err != nil {
		return r, err
	}
	pids, err := processes()
	if err != nil {
		return r, err
	}
	r[PIDAvailable] = pids
	return r, nil
}

func fileSystem(r Reading, dir string, bytes, inodes Signal) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("statfs %s: %w", dir, err)
	}
	r[bytes] = Level{int64(st.Blocks) * int64(st.Bsize), int64(st.Bavail) * int64(st.Bsize)}
	if st.Files > 0 { // btrfs and the like have no fixed number
		r[inodes] = Level{int64(st.Files), int64(st.Ffree)}
	}
	return nil
}

// processes are bounded by pid_max and by threads-max, whichever is less.
func processes() (Level, error) {
	limit := int64(0)
	for _, name := range []string{"pid_max", "threads-max"} {
		b, err := os.ReadFile("/proc/sys/kernel/" + name)
		if err != nil {
			return Level{}, err
		}
		if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil && (limit == 0 || n < limit) {
			limit = n
		}
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return Level{}, err
	}
	return Level{limit, limit - tasks(string(load))}, nil
}

func meminfo(text, key string) int64 {
	_, rest, _ := strings.Cut(text, key)
	value, _, _ := strings.Cut(rest, "kB")
	kb, _ := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
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
