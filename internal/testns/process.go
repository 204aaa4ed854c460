package testns

import (
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
)

const insideEnv = "MOTE_TEST_INSIDE_NS"

// Process runs the calling test again in a process of its own, all of whose threads are in a fresh network namespace
// with its loopback up. It returns true there; in the original process it waits, reports, and returns false. For tests of
// what starts goroutines, which Do cannot confine.
func Process(t *testing.T) bool {
	t.Helper()
	if os.Getenv(insideEnv) == t.Name() {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			t.Fatalf("loopback: %v", err)
		}
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("making network namespaces needs root")
	}
	// Pdeathsig follows the thread, not the process: one that another test took and let end would take the child with it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), insideEnv+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("in its own network namespace: %v\n%s", err, out)
	}
	return false
}
