// Package testns gives component tests network namespaces of their own, so that they can change links and rules and run
// beside a live cluster.
//
// Reads:  nothing.
// Writes: network namespaces that vanish with the test.
package testns

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// NS is a network namespace. It lives until the test ends.
type NS struct {
	t    testing.TB
	file *os.File
}

// New makes an empty network namespace with its loopback up. It skips the test when it may not.
func New(t testing.TB) *NS {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making network namespaces needs root")
	}
	n := &NS{t: t}
	done := make(chan error)
	go func() {
		// Never unlocked: the thread ends with the goroutine, and its namespace does not leak into other goroutines.
		runtime.LockOSThread()
		done <- func() (err error) {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("unshare: %w", err)
			}
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			if err := netlink.LinkSetUp(lo); err != nil {
				return err
			}
			n.file, err = os.Open("/proc/thread-self/ns/net")
			return err
		}()
	}()
	if err := <-done; err != nil {
		t.Fatalf("network namespace: %v", err)
	}
	t.Cleanup(func() { _ = n.file.Close() })
	return n
}

// Fd is the namespace's descriptor.
func (n *NS) Fd() int { return int(n.file.Fd()) }

// Path names the namespace to other processes, for as long as the test runs.
func (n *NS) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd()) }

// Do runs f with its thread inside the namespace. Sockets that f opens, and processes that it starts, belong there.
// f may not call t.Fatal.
func (n *NS) Do(f func()) {
	n.t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(n.Fd(), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		f()
		done <- nil
	}()
	if err := <-done; err != nil {
		n.t.Fatalf("enter network namespace: %v", err)
	}
}
