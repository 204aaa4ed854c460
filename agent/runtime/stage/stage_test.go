package stage

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runc/libcontainer/exeseal"
	"golang.org/x/sys/unix"

	"github.com/mote-edge/mote/internal/version"
)

// runVariable has the test's program stand in for the runtime, with this directory to run in.
const runVariable = "MOTE_TEST_STAGE"

func TestMain(m *testing.M) {
	run, ok := os.LookupEnv(runVariable)
	if !ok {
		os.Exit(m.Run())
	}
	program, staged := Entered()
	if !staged {
		self, err := os.Executable()
		if err == nil {
			err = Enter(run, self)
		}
		fmt.Println("not entered:", err)
		return
	}
	fmt.Println("entered", program, os.Args[1:])
	if _, again := Entered(); again {
		fmt.Println("what it starts hears of it")
	}
	state, err := os.MkdirTemp("", "stage-test-")
	if err != nil {
		fmt.Println(err)
	}
	defer os.RemoveAll(state)
	file, err := exeseal.CloneSelfExe(state) // as libcontainer does for each container
	if err == nil {
		var raw []byte
		if file, err = os.Open(fmt.Sprintf("/proc/self/fd/%d", file.Fd())); err == nil {
			if raw, err = io.ReadAll(file); err == nil {
				fmt.Printf("begins with %.20q\n", raw)
			}
		}
	}
	if err != nil {
		fmt.Println(err)
	}
}

// act runs the stand-in in a mount namespace of its own and returns what it says, and where it was installed. first is mote-init;
// empty: there is none.
func act(t *testing.T, run, first string) (said, program string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounts need root")
	}
	bin := t.TempDir()
	program = filepath.Join(bin, "mote-runtime")
	if raw, err := os.ReadFile("/proc/self/exe"); err != nil {
		t.Fatal(err)
	} else if err := os.WriteFile(program, raw, 0o755); err != nil {
		t.Fatal(err)
	}
	if first != "" {
		if err := os.WriteFile(filepath.Join(bin, "mote-init"), []byte(first), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	cmd := exec.Command(program, "--some", "argument")
	cmd.Env = append(os.Environ(), runVariable+"="+run)
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	return out.String(), program
}

func says(text string) string { return "#!/bin/sh\necho '" + text + "'\n" }

func TestContainersBeginWithMoteInit(t *testing.T) {
	run := t.TempDir()
	for range 2 { // again over what the first one left
		got, program := act(t, run, says(version.String()))
		if want := fmt.Sprintf("entered %s [--some argument]\nbegins with %.20q\n", program, says(version.String())); got != want {
			t.Errorf("it said %q, not %q", got, want)
		}
	}
}

func TestARunDirectoryFromWhichNothingMayRun(t *testing.T) {
	run := t.TempDir()
	if err := unix.Mount("tmpfs", run, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		t.Skip(err)
	}
	defer unix.Unmount(run, unix.MNT_DETACH)
	if got, _ := act(t, run, says(version.String())); !strings.Contains(got, "begins with \"#!/bin/sh") {
		t.Errorf("it said %q", got)
	}
}

func TestWithoutMoteInitNothingChanges(t *testing.T) {
	for name, c := range map[string]struct{ first, want string }{
		"it is missing":      {"", "mote-init is missing beside"},
		"of another release": {says("mote 0.0.1"), "install all of Mote's programs from one release"},
		"it fails":           {"#!/bin/sh\nexit 3\n", "exit status 3"},
	} {
		t.Run(name, func(t *testing.T) {
			run := t.TempDir()
			got, _ := act(t, run, c.first)
			if !strings.HasPrefix(got, "not entered: ") || !strings.Contains(got, c.want) {
				t.Errorf("it said %q, not %q", got, c.want)
			}
			if left, _ := os.ReadDir(run); len(left) > 0 {
				t.Errorf("it left %v", left)
			}
		})
	}
}
