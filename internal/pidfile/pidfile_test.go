package pidfile

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestOneHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.pid")
	if pid, err := Holder(path); pid != 0 || err != nil {
		t.Fatal(pid, err)
	}
	f, err := Acquire(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Acquire(path); !errors.Is(err, ErrHeld) {
		t.Fatal(err)
	}
	if pid, err := Holder(path); pid != os.Getpid() || err != nil {
		t.Fatal(pid, err)
	}
	f.Release()
	if pid, err := Holder(path); pid != 0 || err != nil {
		t.Fatal(pid, err)
	}
	if f, err = Acquire(path); err != nil {
		t.Fatal(err)
	}
	f.Release()
}
