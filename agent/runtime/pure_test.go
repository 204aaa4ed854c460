package runtime

import (
	"errors"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/runtime/hold"
)

func TestStopSignal(t *testing.T) {
	for _, test := range []struct {
		asked cri.Signal
		image string
		want  int
	}{
		{cri.Signal_SIGNAL_RUNTIME_DEFAULT, "", 15},
		{cri.Signal_SIGNAL_RUNTIME_DEFAULT, "SIGQUIT", 3},
		{cri.Signal_SIGNAL_RUNTIME_DEFAULT, "usr1", 10},
		{cri.Signal_SIGNAL_RUNTIME_DEFAULT, "9", 9},
		{cri.Signal_SIGNAL_RUNTIME_DEFAULT, "SIGRTMIN+3", 37},
		{cri.Signal_SIGNAL_RUNTIME_DEFAULT, "SIGRTMAX-1", 63},
		{cri.Signal_SIGNAL_SIGINT, "SIGQUIT", 2},
		{cri.Signal_SIGNAL_SIGCLD, "", 17},
		{cri.Signal_SIGNAL_SIGRTMINPLUS5, "", 39},
		{cri.Signal_SIGNAL_SIGRTMAXMINUS2, "", 62},
	} {
		if got, err := stopSignal(test.asked, test.image); err != nil || got != test.want {
			t.Errorf("%v, %q: %d, %v", test.asked, test.image, got, err)
		}
	}
	for _, name := range []string{"SIGNOTHING", "0", "65", "SIGRTMIN+99", "-1"} {
		if got, err := stopSignal(cri.Signal_SIGNAL_RUNTIME_DEFAULT, name); !errors.Is(err, errInvalid) {
			t.Errorf("%q: %d, %v", name, got, err)
		}
	}
	for number, want := range map[int]cri.Signal{
		15: cri.Signal_SIGNAL_SIGTERM, 34: cri.Signal_SIGNAL_SIGRTMIN, 39: cri.Signal_SIGNAL_SIGRTMINPLUS5,
		50: cri.Signal_SIGNAL_SIGRTMAXMINUS14, 64: cri.Signal_SIGNAL_SIGRTMAX,
	} {
		if got := criSignal(number); got != want {
			t.Errorf("%d: %v, want %v", number, got, want)
		}
	}
}

func TestMergeResources(t *testing.T) {
	old := &cri.LinuxContainerResources{CpuShares: 2, CpuQuota: 3, MemoryLimitInBytes: 4, CpusetCpus: "0"}
	got := mergeResources(old, &cri.LinuxContainerResources{CpuQuota: -1, MemoryLimitInBytes: 9, Unified: map[string]string{"memory.high": "5"}})
	if got.CpuShares != 2 || got.CpuQuota != -1 || got.MemoryLimitInBytes != 9 || got.CpusetCpus != "0" || got.Unified["memory.high"] != "5" {
		t.Errorf("%v", got)
	}
	if old.CpuQuota != 3 {
		t.Error("what was in force was changed")
	}
}

func TestResolvConf(t *testing.T) {
	got, err := resolvConf(&cri.DNSConfig{Servers: []string{"10.0.0.1", "10.0.0.2"}, Searches: []string{"a", "b"}, Options: []string{"ndots:5", "edns0"}})
	if want := "search a b\nnameserver 10.0.0.1\nnameserver 10.0.0.2\noptions ndots:5 edns0\n"; err != nil || got != want {
		t.Errorf("%q, %v", got, err)
	}
}

func TestExitCode(t *testing.T) {
	for status, want := range map[unix.WaitStatus]int32{0: 0, 7 << 8: 7, 9: 137, 15 | 0x80: 143} {
		if got := exitCode(status); got != want {
			t.Errorf("%#x: %d, want %d", status, got, want)
		}
	}
}

// An orphan whose new parent doesn't reap it is known by its zombie, and no other process that gets its number is.
func TestZombieExit(t *testing.T) {
	for script, want := range map[string]unix.WaitStatus{"exit 45": 45 << 8, "exit 0": 0, "kill -9 $$": 9, "kill -TERM $$": 15} {
		cmd := exec.Command("sh", "-c", script)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		pid := cmd.Process.Pid
		start, err := hold.StartTime(pid)
		if err != nil {
			t.Fatal(err)
		}
		var info unix.Siginfo
		if err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
			t.Fatal(err)
		}
		if got, known := zombieExit(pid, start, true); !known || got != want {
			t.Errorf("%s: %#x, %v, want %#x", script, got, known, want)
		}
		if got, known := zombieExit(pid, start, false); known != (want != 0) {
			t.Errorf("%s, for one who may not trace: %#x, %v", script, got, known)
		}
		if _, known := zombieExit(pid, start+1, true); known {
			t.Errorf("%s: another process' status", script)
		}
		_ = cmd.Wait()
		if _, known := zombieExit(pid, start, true); known {
			t.Errorf("%s: known when it is gone", script)
		}
	}
}
