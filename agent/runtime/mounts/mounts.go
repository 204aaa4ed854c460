// Package mounts takes mounts away, for the runtime's packages.
//
// Reads:  nothing.
// Writes: the mount table.
package mounts

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Detach detaches whatever is mounted at path. Nothing there is success.
func Detach(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil:
			continue // mounts can be stacked
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil
		default:
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
}
