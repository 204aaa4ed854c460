package reexec

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// A container on cgroup v1 sees its own cgroup of each hierarchy below /sys/fs/cgroup. libcontainer would look for the
// hierarchies in the list of all mounts of the host, which grows with the pods, and then make each mount with all the care that
// a path in an untrusted root needs; a fifth of a container's first step went there. Here they are put together in a directory of
// the host instead, in the mount namespace that is the container's alone, and libcontainer binds that as a whole.

// View is what a container on cgroup v1 will see of its cgroups.
type View struct {
	Writable bool
	Sources  map[string]string // name of the hierarchy → the container's cgroup in it
}

const (
	// ViewDir is where the view is put together, beside the container's root; ViewList, there too, says of what.
	ViewDir, ViewList = "cgroups", "cgroups.list"
	viewFlags         = unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV
)

// Write leaves the list, and the directory for the view, in dir.
func (v View) Write(dir string) error {
	text := fmt.Sprintln(v.Writable)
	for name, source := range v.Sources {
		if strings.ContainsAny(name+source, "\n\t") {
			return fmt.Errorf("cgroup %q of hierarchy %q: neither a tab nor a newline may be in it", source, name)
		}
		text += name + "\t" + source + "\n"
	}
	if err := os.MkdirAll(filepath.Join(dir, ViewDir), 0o755); err != nil {
		return fmt.Errorf("view of the cgroups: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, ViewList), []byte(text), 0o600); err != nil {
		return fmt.Errorf("view of the cgroups: %w", err)
	}
	return nil
}

func readView(dir string) (View, error) {
	raw, err := os.ReadFile(filepath.Join(dir, ViewList))
	if err != nil {
		return View{}, err
	}
	first, rest, _ := strings.Cut(string(raw), "\n")
	v := View{Writable: first == "true", Sources: map[string]string{}}
	for line := range strings.Lines(rest) {
		if name, source, found := strings.Cut(strings.TrimSuffix(line, "\n"), "\t"); found {
			v.Sources[name] = source
		}
	}
	return v, nil
}

// assemble mounts the view that is asked for in dir. None is success.
func assemble(dir string) error {
	v, err := readView(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	// As libcontainer will do, too: what is mounted from here on is none of the host's business.
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("propagation of the host's mounts: %w", err)
	}
	at := filepath.Join(dir, ViewDir)
	if err := unix.Mount("tmpfs", at, "tmpfs", viewFlags, "mode=755"); err != nil {
		return fmt.Errorf("mount %s: %w", at, err)
	}
	flags := uintptr(unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RELATIME | viewFlags)
	if !v.Writable {
		flags |= unix.MS_RDONLY
	}
	for name, source := range v.Sources {
		target := filepath.Join(at, name)
		if err := unix.Mkdir(target, 0o755); err != nil {
			return fmt.Errorf("make %s: %w", target, err)
		}
		if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s: %w", source, err)
		}
		if err := unix.Mount("", target, "", flags, ""); err != nil {
			return fmt.Errorf("bind %s: %w", source, err)
		}
		if !strings.Contains(name, ",") {
			continue
		}
		for each := range strings.SplitSeq(name, ",") { // hierarchies of several controllers are known by each
			if err := os.Symlink(name, filepath.Join(at, each)); err != nil {
				return fmt.Errorf("link to %s: %w", target, err)
			}
		}
	}
	return nil
}
