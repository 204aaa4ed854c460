package runtime

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestStrayOf(t *testing.T) {
	const rest = " 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 777 0 0\n"
	for stat, want := range map[string]strayID{
		"12 (runc:[2:INIT]) Z 9" + rest:  {12, "777"},
		"13 (runc:[1:CHILD]) Z 9" + rest: {13, "777"},
		"14 (runc:[2:INIT]) S 9" + rest:  {}, // alive
		"15 (runc:[2:INIT]) Z 8" + rest:  {}, // another's child
		"16 (sh) Z 9" + rest:             {}, // a container's or an exec's process
		"17 (x) y) Z 9" + rest:           {},
		"torn":                           {}, "": {}, ")(": {},
	} {
		if got, ok := strayOf(stat, 9); got != want || ok != (want.pid != 0) {
			t.Errorf("%q: %v, want %v", stat, got, want)
		}
	}
}

// zombie starts a program of this name, which ends at once, and doesn't wait for it.
func zombie(t *testing.T, name string) int {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.Symlink("/bin/true", path); err != nil {
		t.Fatal(err)
	}
	p, err := os.StartProcess(path, []string{name}, &os.ProcAttr{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = p.Wait() })
	return p.Pid
}

func dead(pid int) error {
	return unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
}

// A dead step of a failed start held up the end of its container for ever, since nobody reaped it.
func TestStraysAreReaped(t *testing.T) {
	stray, other := zombie(t, "runc:[2:INIT]"), zombie(t, "true")
	for _, pid := range []int{stray, other} {
		if err := dead(pid); err != nil {
			t.Fatal(err)
		}
	}
	var s strays
	s.look()
	for end := time.Now().Add(5 * time.Second); !errors.Is(dead(stray), unix.ECHILD); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the stray is still there")
		}
	}
	if err := dead(other); err != nil {
		t.Errorf("a child that isn't a step of a start: %v", err)
	}
}
