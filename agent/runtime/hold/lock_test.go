package hold

import (
	"errors"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// The lock is held as long as one of those that share the open file has it, whoever took it.
func TestLockIsSharedWithTheRuntime(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "hold.sock")
	if Alive(socket) {
		t.Error("alive without anybody")
	}
	holder, err := lock(socket)
	if err != nil {
		t.Fatal(err)
	}
	share, err := unix.Dup(holder)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(socket); !errors.Is(err, errHeld) {
		t.Errorf("a second holder: %v", err)
	}
	_ = unix.Close(holder)
	if !Alive(socket) {
		t.Error("the runtime's share doesn't count")
	}
	_ = unix.Close(share)
	if Alive(socket) {
		t.Error("alive after the last one")
	}
}

func TestInheritedLock(t *testing.T) {
	t.Setenv(lockVariable, "nonsense")
	if fd := InheritedLock(); fd != -1 {
		t.Errorf("%d", fd)
	}
	if fd := InheritedLock(); fd != -1 {
		t.Errorf("without a holder: %d", fd)
	}
}
