package runtime

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxIdentityFile bounds /etc/passwd and /etc/group of an image.
const maxIdentityFile = 4 << 20

// openInRoot opens a path as a process chrooted to root would see it: links can't lead out of it.
func openInRoot(root, path string, flags int) (*os.File, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", root, err)
	}
	defer unix.Close(dir)
	fd, err := unix.Openat2(dir, path, &unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// readInRoot reads a small file of an image; a missing one is empty.
func readInRoot(root, path string) ([]byte, error) {
	file, err := openInRoot(root, path, unix.O_RDONLY|unix.O_NONBLOCK)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("in the image: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("in the image: %s is not a regular file: %w", path, errInvalid)
	}
	return io.ReadAll(io.LimitReader(file, maxIdentityFile))
}

func resolveInRoot(root, path string) (string, error) {
	file, err := openInRoot(root, path, unix.O_PATH)
	if err != nil {
		return "", err
	}
	defer file.Close()
	return os.Readlink("/proc/self/fd/" + strconv.Itoa(int(file.Fd())))
}

// findDevices returns the device node at a host path, or all below it if it is a directory.
func findDevices(hostPath, containerPath string) ([]specs.LinuxDevice, error) {
	resolved, err := filepath.EvalSymlinks(hostPath)
	if err != nil {
		return nil, err
	}
	info, err := os.Lstat(resolved)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		device, ok, err := deviceAt(resolved, containerPath)
		if err == nil && !ok {
			err = fmt.Errorf("%s is not a device: %w", resolved, errInvalid)
		}
		return []specs.LinuxDevice{device}, err
	}
	entries, err := os.ReadDir(resolved)
	if err != nil {
		return nil, err
	}
	var out []specs.LinuxDevice
	for _, entry := range entries {
		host, inside := filepath.Join(resolved, entry.Name()), filepath.Join(containerPath, entry.Name())
		switch {
		case entry.IsDir():
			switch entry.Name() { // these are filesystems of their own
			case "pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev":
				continue
			}
			below, err := findDevices(host, inside)
			if err != nil {
				return nil, err
			}
			out = append(out, below...)
		case entry.Name() == "console" || entry.Type()&os.ModeSymlink != 0:
		default:
			device, ok, err := deviceAt(host, inside)
			if err != nil {
				if errors.Is(err, os.ErrNotExist) {
					continue
				}
				return nil, err
			}
			if ok {
				out = append(out, device)
			}
		}
	}
	return out, nil
}

func deviceAt(hostPath, containerPath string) (specs.LinuxDevice, bool, error) {
	var st unix.Stat_t
	if err := unix.Lstat(hostPath, &st); err != nil {
		return specs.LinuxDevice{}, false, &os.PathError{Op: "stat", Path: hostPath, Err: err}
	}
	kind := ""
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		kind = "b"
	case unix.S_IFCHR:
		kind = "c"
	default:
		return specs.LinuxDevice{}, false, nil
	}
	mode := os.FileMode(st.Mode & 0o777)
	return specs.LinuxDevice{
		Path: containerPath, Type: kind, Major: int64(unix.Major(uint64(st.Rdev))), Minor: int64(unix.Minor(uint64(st.Rdev))),
		FileMode: &mode, UID: &st.Uid, GID: &st.Gid,
	}, true, nil
}
