package namespace

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Users maps the users and groups 0 to Length-1 of a user namespace to the host's, from UID and GID on.
type Users struct{ UID, GID, Length uint32 }

// ErrNoUsers: this kernel makes no user namespaces (now).
var ErrNoUsers = errors.New("user namespaces can't be made on this host (see /proc/sys/user/max_user_namespaces and the kernel's CONFIG_USER_NS)")

// births lets one child at a time become a user namespace. It has every descriptor of ours until it runs execve, and waits
// on a pipe for us to write its maps: two would keep each other's pipe open, and wait for ever when we are killed (with our
// sockets, which the next runtime then takes for those of a living one).
var births sync.Mutex

// newChild makes a process in new namespaces of the pins' kinds, all owned by the new user namespace. It has never run
// an instruction: it stops, traced, at the end of execve (and would end by itself). endChild takes it away; the thread must stay locked until then.
func newChild(p Pins, users Users) (int, error) {
	flags := uintptr(unix.CLONE_NEWUSER)
	for _, each := range p.each() {
		flags |= uintptr(each.flag)
	}
	births.Lock()
	defer births.Unlock()
	pid, err := syscall.ForkExec("/proc/self/exe", []string{"mote-runtime", "--help"}, &syscall.ProcAttr{
		Env: []string{},
		Sys: &syscall.SysProcAttr{
			Cloneflags: flags, Ptrace: true, Pdeathsig: unix.SIGKILL, GidMappingsEnableSetgroups: true,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(users.UID), Size: int(users.Length)}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(users.GID), Size: int(users.Length)}},
		},
	})
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EUSERS), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EPERM):
		return 0, fmt.Errorf("create a user namespace: %w: %w", err, ErrNoUsers)
	case err != nil:
		return 0, fmt.Errorf("create a user namespace: %w", err)
	}
	return pid, nil
}

func endChild(pid int) {
	_ = unix.Kill(pid, unix.SIGKILL)
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &status, unix.WALL, nil)
		if err == nil && (status.Exited() || status.Signaled()) || err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// enter takes this thread into the namespaces below dir, except the user namespace: it stays the host's root, which
// may do everything in them.
func enter(p Pins, dir string) error {
	for _, each := range p.each() {
		if each.flag == unix.CLONE_NEWUSER {
			continue
		}
		fd, err := unix.Open(dir+each.kind, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open namespace: %w", err)
		}
		err = unix.Setns(fd, each.flag)
		_ = unix.Close(fd)
		if err != nil {
			return fmt.Errorf("enter %s namespace: %w", each.kind, err)
		}
	}
	return nil
}

// becomeRootOf makes this thread, which must never be unlocked, the user that owns the namespaces' sysctls. Those of
// IPC have no other writer: the host's root is a stranger there, and capabilities don't count.
func becomeRootOf(users Users) error {
	keep := ^uintptr(0)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, keep, uintptr(users.GID), keep); errno != 0 {
		return fmt.Errorf("become group %d: %w", users.GID, errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, uintptr(users.UID), keep); errno != 0 {
		return fmt.Errorf("become user %d: %w", users.UID, errno)
	}
	return nil
}

// NewUsers makes a user namespace that lives as long as the file.
func NewUsers(users Users) (*os.File, error) {
	type result struct {
		file *os.File
		err  error
	}
	out := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // a tracer is a thread
		defer runtime.UnlockOSThread()
		pid, err := newChild(Pins{}, users)
		if err != nil {
			out <- result{err: err}
			return
		}
		defer endChild(pid)
		file, err := os.Open("/proc/" + strconv.Itoa(pid) + "/ns/user")
		out <- result{file, err}
	}()
	r := <-out
	return r.file, r.err
}
