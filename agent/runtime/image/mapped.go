package image

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mote-edge/mote/agent/runtime/mounts"
)

// Mapping says whose a root filesystem is: the root of a user namespace, which the host knows under other numbers.
type Mapping struct {
	Namespace string // path of the user namespace
	UID, GID  int    // the host's numbers of its root
}

// MountMapped mounts the snapshot at target, for containers with users of their own: what root has in the image belongs
// to their root. The layers stay as they are and shared; they're seen through an id-mapped mount. Mounting twice is
// success.
func (s *Store) MountMapped(key, target, label string, to Mapping) error {
	dir, err := s.snapDir(key)
	if err != nil {
		return err
	}
	snap, err := readSnapshot(dir)
	if err != nil {
		return err
	}
	if mounted, err := isMounted(target); err != nil || mounted {
		return err
	}
	lower, err := s.lower(snap.DiffIDs)
	if err != nil {
		return err
	}
	upper := filepath.Join(dir, "upper")
	if err := os.Lchown(upper, to.UID, to.GID); err != nil {
		return fmt.Errorf("mount snapshot %s: %w", key, err)
	}
	opts := labelled(label, map[string]string{"upperdir": upper, "workdir": filepath.Join(dir, "work")})
	if err := s.overlayMapped(lower, opts, target, 0, to); err != nil {
		return fmt.Errorf("mount snapshot %s: %w", key, err)
	}
	return nil
}

// MountImageMapped is MountImage as containers with users of their own see it.
func (s *Store) MountImageMapped(imageID, target, label string, to Mapping) error {
	return s.mountImage(imageID, target, func(lower []string) error {
		return s.overlayMapped(lower, labelled(label, nil), target, unix.MS_RDONLY, to)
	})
}

// overlayMapped mounts an overlay over the layers as an id-mapped mount shows them. One such mount of the directory of
// all layers does for all of them, and only until the overlay has taken its own copies.
func (s *Store) overlayMapped(lower []string, opts map[string]string, target string, flags uintptr, to Mapping) error {
	view, err := os.MkdirTemp(s.path("tmp"), "mapped-")
	if err != nil {
		return err
	}
	defer os.Remove(view)
	layers := s.path("layers")
	if err := bindMapped(layers, view, to.Namespace); err != nil {
		return err
	}
	defer mounts.Detach(view) //nolint:errcheck // an error shows as one of Remove, and is swept with tmp
	seen := make([]string, len(lower))
	for i, l := range lower {
		seen[i] = l
		if below, found := strings.CutPrefix(l, layers+"/"); found {
			seen[i] = filepath.Join(view, below)
		}
	}
	return mountOverlay(seen, opts, target, flags)
}

// bindMapped mounts source, read-only, at target as the user namespace's own.
func bindMapped(source, target, namespace string) error {
	users, err := os.Open(namespace)
	if err != nil {
		return fmt.Errorf("user namespace: %w", err)
	}
	defer users.Close()
	mount, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("clone the mount of %s: %w", source, err)
	}
	defer unix.Close(mount)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP | unix.MOUNT_ATTR_RDONLY, Propagation: unix.MS_PRIVATE, Userns_fd: uint64(users.Fd())}
	if err := unix.MountSetattr(mount, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return fmt.Errorf("id-map the mount of %s (kernel and filesystem must be able to): %w", source, err)
	}
	return unix.MoveMount(mount, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// TryMapped tells whether MountMapped can work here: not every kernel id-maps, not every filesystem, and overlayfs
// takes such layers since Linux 5.19 only.
func (s *Store) TryMapped(to Mapping) error {
	dir, err := os.MkdirTemp(s.path("tmp"), "try-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, name := range []string{"upper", "work", "rootfs"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			return err
		}
	}
	target := filepath.Join(dir, "rootfs")
	opts := map[string]string{"upperdir": filepath.Join(dir, "upper"), "workdir": filepath.Join(dir, "work")}
	// The directory of layers is as good as a layer here.
	if err := s.overlayMapped([]string{s.path("layers") + "/"}, opts, target, 0, to); err != nil {
		return err
	}
	var st unix.Stat_t
	err = unix.Stat(target, &st)
	if unmountErr := mounts.Detach(target); err == nil {
		err = unmountErr
	}
	return err
}
