// Package dynmods sets cgroup2's mount option favordynmods, and takes it back: without it, each move of a process into a
// cgroup (of either version) waits for an RCU grace period, some 7 ms of every container start; with it, forks and exits
// are a little slower. The other options stay. See Documentation/admin-guide/cgroup-v2.rst, "favordynmods".
//
// Reads:  /proc/self/mountinfo.
// Writes: the options of the cgroup2 file system; a file in the run directory, when it was this package that set the option.
package dynmods

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const option = "favordynmods"

func record(runDir string) string { return filepath.Join(runDir, option) }

// Set sets the option where it isn't, and leaves a file in the run directory to say so: like the option, it is gone after
// a reboot.
func Set(runDir string) error {
	path, options, err := mounted()
	if err != nil || path == "" || slices.Contains(options, option) {
		return err
	}
	if err := reconfigure(path, append(options, option)); err != nil {
		return err
	}
	return os.WriteFile(record(runDir), []byte(path+"\n"), 0o600)
}

// Undo takes the option back if it is ours.
func Undo(runDir string) error {
	if _, err := os.Stat(record(runDir)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	path, options, err := mounted()
	if err != nil {
		return err
	}
	if i := slices.Index(options, option); path != "" && i >= 0 {
		if err := reconfigure(path, slices.Delete(options, i, i+1)); err != nil {
			return err
		}
	}
	return os.Remove(record(runDir))
}

func mounted() (path string, options []string, err error) {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", nil, err
	}
	path, options = find(string(raw))
	return path, options, nil
}

// find returns where the root of cgroup2 is mounted, and the file system's options; nothing if it isn't. See proc(5).
func find(mountinfo string) (string, []string) {
	for line := range strings.Lines(mountinfo) {
		mount, super, _ := strings.Cut(line, " - ")
		fields, kind := strings.Fields(mount), strings.Fields(super)
		if len(fields) >= 5 && len(kind) >= 3 && kind[0] == "cgroup2" && fields[3] == "/" {
			return fields[4], strings.Split(kind[2], ",")
		}
	}
	return "", nil
}

// reconfigure sets a file system's options, all of them: what isn't named is turned off.
func reconfigure(path string, options []string) error {
	fs, err := unix.Fspick(unix.AT_FDCWD, path, unix.FSPICK_CLOEXEC)
	if err != nil {
		return fmt.Errorf("fspick %s: %w", path, err)
	}
	defer unix.Close(fs)
	for _, o := range options {
		if o == "rw" || o == "ro" {
			continue
		}
		if err := unix.FsconfigSetFlag(fs, o); err != nil {
			return fmt.Errorf("%s: option %s: %w", path, o, err)
		}
	}
	if err := unix.FsconfigReconfigure(fs); err != nil {
		return fmt.Errorf("%s: reconfigure: %w", path, err)
	}
	return nil
}
