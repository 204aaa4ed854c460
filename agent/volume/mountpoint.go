package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ensureMemoryDir mounts a tmpfs on a directory, unless one is there. It isn't left to a tmpfs further up: /run is often
// mounted noexec, and pods may run scripts from their projected volumes.
func ensureMemoryDir(dir string) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("directory of secret volumes: %w", err)
	}
	is, err := isMount(dir)
	if err != nil || is {
		return err
	}
	if err := mountMemory("tmpfs", dir, unix.MS_NODEV|unix.MS_NOSUID, "mode=0750"); err != nil {
		return fmt.Errorf("mount tmpfs on %s for secret volumes: %w", dir, err)
	}
	return nil
}

// mountMemory mounts a file system that lives in memory, and stays there where the kernel can promise it (Linux 6.4): what is
// written to it must not reach a disk by way of swap.
func mountMemory(fstype, dir string, flags uintptr, options string) error {
	if fstype == "tmpfs" {
		err := unix.Mount(fstype, dir, fstype, flags, options+",noswap")
		if !errors.Is(err, unix.EINVAL) {
			return err
		}
	}
	return unix.Mount(fstype, dir, fstype, flags, options)
}

// isMount tells whether a file system is mounted right here, without following a last link.
func isMount(path string) (bool, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, unix.STATX_TYPE, &st); err != nil {
		return false, &fs.PathError{Op: "statx", Path: path, Err: err}
	}
	if st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return false, errors.New("this kernel can't tell mount points (needs Linux 5.8 or newer)")
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

// removeTree removes a directory with everything in it, unmounting what is mounted there. It never goes into a mounted
// file system: what a volume shows of the host stays untouched. Not found is success.
func removeTree(path string) error {
	for {
		is, err := isMount(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if !is {
			break
		}
		if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return &fs.PathError{Op: "unmount", Path: path, Err: err}
		}
	}
	err := os.Remove(path)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	entries, readErr := os.ReadDir(path)
	if readErr != nil {
		return err // not a directory, or one that can't be read: the first failure tells more
	}
	for _, e := range entries {
		if err := removeTree(filepath.Join(path, e.Name())); err != nil {
			return err
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
