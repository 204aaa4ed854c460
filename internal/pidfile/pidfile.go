// Package pidfile keeps a program to one instance a directory, and tells others which process it is. The truth is a
// lock on the file, which the kernel drops when the process dies however it dies; the number in it is for people and
// for `mote uninstall`.
//
// Reads:  the file.
// Writes: the file.
package pidfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrHeld means that another process holds the file.
var ErrHeld = errors.New("already running")

// File is a held pid file.
type File struct{ f *os.File }

// Acquire locks path and writes this process's number into it. The error is ErrHeld if another process has it.
func Acquire(path string) (*File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("pid file: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("pid file: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			pid, _ := Holder(path)
			return nil, fmt.Errorf("%w: process %d holds %s; stop it first, or give other directories", ErrHeld, pid, path)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if err := f.Truncate(0); err != nil {
		f.Close()
		return nil, fmt.Errorf("pid file: %w", err)
	}
	if _, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		f.Close()
		return nil, fmt.Errorf("pid file: %w", err)
	}
	return &File{f: f}, nil
}

// Release unlocks the file and leaves it: removing it would race with the next holder.
func (p *File) Release() { p.f.Close() }

// Holder returns the process that holds path, or 0 if none does.
func Holder(path string) (int, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("pid file: %w", err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); err == nil {
		return 0, nil // nobody holds it; closing drops our lock
	} else if !errors.Is(err, unix.EWOULDBLOCK) {
		return 0, fmt.Errorf("pid file: %w", err)
	}
	data := make([]byte, 32)
	n, err := f.ReadAt(data, 0)
	if n == 0 {
		return 0, fmt.Errorf("pid file %s is held but empty: %w", path, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data[:n])))
	if err != nil {
		return 0, fmt.Errorf("pid file %s: %w", path, err)
	}
	return pid, nil
}
