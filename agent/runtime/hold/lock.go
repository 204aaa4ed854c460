package hold

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The lock tells whether there is a holder, or a runtime that is about to become one: both share one open file, and the
// kernel unlocks it when the last of them is gone. Nothing else can tell a holder that was just killed from one that
// nobody will follow.
const lockVariable = "MOTE_HOLD_LOCK" // the descriptor's number, for the runtime

// errHeld: the lock is another's.
var errHeld = errors.New("another mote-hold, or a runtime that takes its place, runs here")

func lockPath(socket string) string { return strings.TrimSuffix(socket, ".sock") + ".lock" }

// lock takes the lock for the holder of this socket.
func lock(socket string) (int, error) {
	path := lockPath(socket)
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", path, err)
	}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = unix.Close(fd)
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errHeld
		}
		return -1, fmt.Errorf("lock %s: %w", path, err)
	}
	return fd, nil
}

// Alive tells whether the socket has a holder, or a runtime that is about to become one.
func Alive(socket string) bool {
	fd, err := lock(socket)
	if err != nil {
		return errors.Is(err, errHeld)
	}
	_ = unix.Close(fd)
	return false
}

// InheritedLock is the runtime's share of its holder's lock, -1 if it was started without one. Call it before anything is
// started: programs that this one starts must neither have the descriptor nor hear of it.
func InheritedLock() int {
	text := os.Getenv(lockVariable)
	_ = os.Unsetenv(lockVariable)
	fd, err := strconv.Atoi(text)
	if err != nil {
		return -1
	}
	unix.CloseOnExec(fd)
	return fd
}
