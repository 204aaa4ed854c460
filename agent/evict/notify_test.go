package evict

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The kernel tells when a group has used what was left, and not before. A group of our own stands for the root.
func TestMemoryThreshold(t *testing.T) {
	root := "/sys/fs/cgroup/memory"
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes a cgroup")
	}
	if _, err := os.Stat(filepath.Join(root, "cgroup.event_control")); err != nil {
		t.Skip("no cgroup v1 memory hierarchy here:", err)
	}
	dir, err := os.MkdirTemp(root, "mote-evict-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(filepath.Join(root, "cgroup.procs"), nil, 0); err != nil {
			t.Log(err)
		}
		if err := unix.Rmdir(dir); err != nil {
			t.Error(err)
		}
	})
	n, err := listen("/proc/pressure/memory", dir)
	if n == nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Log(err) // a kernel without PSI
	}
	t.Cleanup(n.close)
	go n.run(t.Context())
	if !n.fired() {
		t.Error("nothing is armed, and that isn't said")
	}
	if err := n.arm(0); err != nil {
		t.Fatal(err)
	}
	if n.fired() {
		t.Error("fired before anything was used")
	}
	// A child fills a shared memory file in the group, twice the least step.
	use(t, dir, 2*minStep)
	deadline := time.After(10 * time.Second)
	for !n.fired() {
		select {
		case <-n.wake:
		case <-deadline:
			t.Fatal("no notification")
		}
	}
}
