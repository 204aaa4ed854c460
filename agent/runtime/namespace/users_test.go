package namespace

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain is also the process that TestKilledWhileMakingUsers kills.
func TestMain(m *testing.M) {
	if os.Getenv("MAKE_USERS") == "" {
		os.Exit(m.Run())
	}
	syscall.CloseOnExec(3)
	for range 16 {
		go func() {
			for {
				file, err := NewUsers(Users{UID: 100000, GID: 100000, Length: 65536})
				if err != nil {
					os.Exit(1)
				}
				_ = file.Close()
			}
		}()
	}
	select {}
}

// A child that becomes a user namespace waits for its parent to write its maps, and has every descriptor until it has
// run execve. Two of them at once kept each other's pipe, and the runtime's sockets, when the runtime was killed just then.
func TestKilledWhileMakingUsers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if file, err := NewUsers(Users{UID: 100000, GID: 100000, Length: 65536}); errors.Is(err, ErrNoUsers) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	} else {
		_ = file.Close()
	}
	for round := range 100 {
		end, theirs, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		maker := exec.Command("/proc/self/exe", "-test.run", "^$")
		maker.Env = append(os.Environ(), "MAKE_USERS=1")
		maker.ExtraFiles = []*os.File{theirs}
		maker.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := maker.Start(); err != nil {
			t.Fatal(err)
		}
		_ = theirs.Close()
		time.Sleep(time.Duration(15+round%20) * time.Millisecond) // any moment is as good
		_ = unix.Kill(maker.Process.Pid, unix.SIGKILL)
		_ = maker.Wait()
		_ = end.SetReadDeadline(time.Now().Add(5 * time.Second))
		_, err = io.ReadAll(end)
		_ = end.Close()
		_ = unix.Kill(-maker.Process.Pid, unix.SIGKILL)
		if err != nil {
			t.Fatalf("round %d: a child of the killed process lives on: %v", round, err)
		}
	}
}
