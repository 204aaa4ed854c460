package image

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// fsetxattrAt sets an attribute on an open directory.
func fsetxattrAt(dir int, attr string, value []byte) error {
	if err := unix.Fsetxattr(dir, attr, value, 0); err != nil {
		return fmt.Errorf("set %s: %w", attr, err)
	}
	return nil
}

// setxattrAt sets an attribute on an entry of an open directory without following a link. There is no setxattrat
// before Linux 6.13, so it goes through the entry's own descriptor.
func setxattrAt(parent int, base, attr string, value []byte) error {
	fd, err := unix.Openat(parent, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Setxattr(fmt.Sprintf("/proc/self/fd/%d", fd), attr, value, 0)
}

// removeAllAt removes a tree without following links.
func removeAllAt(parent int, base string) error {
	fd, err := unix.Openat(parent, base, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	d := os.NewFile(uintptr(fd), base)
	names, err := d.Readdirnames(-1)
	for _, n := range names {
		if err != nil {
			break
		}
		if e := unix.Unlinkat(fd, n, 0); errors.Is(e, unix.EISDIR) || errors.Is(e, unix.EPERM) {
			err = removeAllAt(fd, n)
		} else {
			err = e
		}
	}
	d.Close()
	if err != nil {
		return err
	}
	return unix.Unlinkat(parent, base, unix.AT_REMOVEDIR)
}
