package image

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	opaqueAttr = "trusted.overlay.opaque"
	// maxDepth bounds the length of a real path in bytes, which links could take beyond what a path name can say; nobody
	// could remove such a tree.
	maxDepth = 3000
)

// parentOf opens the directory of an entry, and makes it if a sloppy archive leaves it out. The descriptor is the
// unpacker's: it stays open until the next call.
func (u *unpacker) parentOf(dir string) (parentDir, error) {
	if u.parent.fd >= 0 && u.parent.name == dir {
		return u.parent, nil
	}
	u.forget()
	fd, err := u.openDir(dir)
	switch {
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENAMETOOLONG):
		return parentDir{}, fmt.Errorf("%w: its directory can't be reached: %w", ErrUnsafeLayer, err)
	case errors.Is(err, unix.ENOTDIR):
		return parentDir{}, fmt.Errorf("%w: its directory is another kind of file", ErrUnsafeLayer)
	case errors.Is(err, unix.ENOENT):
		return parentDir{}, fmt.Errorf("%w: its directory is a link that leads nowhere", ErrUnsafeLayer)
	case err != nil:
		return parentDir{}, err
	}
	real, err := realPath(fd)
	if err == nil && (real != u.rootPath && !strings.HasPrefix(real, u.rootPath+"/")) {
		err = fmt.Errorf("%w: its directory is outside of the layer", ErrUnsafeLayer) // openat2 doesn't let it come to this
	}
	if err == nil && len(real)-len(u.rootPath) > maxDepth {
		err = fmt.Errorf("%w: directories nested too deeply", ErrUnsafeLayer)
	}
	if err != nil {
		unix.Close(fd)
		return parentDir{}, err
	}
	u.parent = parentDir{name: dir, real: strings.TrimPrefix(strings.TrimPrefix(real, u.rootPath), "/"), fd: fd}
	return u.parent, nil
}

// forget closes the remembered parent.
func (u *unpacker) forget() {
	if u.parent.fd >= 0 {
		unix.Close(u.parent.fd)
	}
	u.parent = parentDir{fd: -1}
}

// forgetNext makes the next entry look its parent up, while the current one still uses the descriptor.
func (u *unpacker) forgetNext() { u.parent.name = "" }

func realPath(fd int) (string, error) {
	p, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if errors.Is(err, unix.ENAMETOOLONG) {
		return "", fmt.Errorf("%w: directories nested too deeply", ErrUnsafeLayer)
	}
	return p, err
}

// resolve opens a directory below root, symbolic links taken as relative to it.
func (u *unpacker) resolve(root int, p string) (int, error) {
	return openInside(root, strings.TrimPrefix(p, "/")+"/.", unix.O_DIRECTORY|unix.O_RDONLY)
}

func openInside(root int, p string, flags uint64) (int, error) {
	return unix.Openat2(root, strings.TrimPrefix(p, "/"), &unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
}

// openDir is resolve that makes what is missing. A whiteout in the way becomes a directory that hides what is below.
func (u *unpacker) openDir(p string) (int, error) {
	fd, err := u.resolve(u.root, "."+p)
	if err == nil || p == "/" || !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
		return fd, err
	}
	parent, err := u.openDir(path.Dir(p))
	if err != nil {
		return -1, err
	}
	defer unix.Close(parent)
	base := path.Base(p)
	var st unix.Stat_t
	hid := false
	if unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && isWhiteout(&st) {
		hid = true
		if err := unix.Unlinkat(parent, base, 0); err != nil {
			return -1, err
		}
	}
	if err := unix.Mkdirat(parent, base, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, err
	} else if err == nil {
		if u.info.Entries++; u.info.Entries > u.limits.LayerEntries {
			return -1, fmt.Errorf("%w: a layer with more than %d entries", ErrTooBig, u.limits.LayerEntries)
		}
		if hid {
			err = u.opaque(parent, base)
		} else {
			err = u.likeBelow(parent, base, p)
		}
		if err != nil {
			return -1, err
		}
	}
	return u.resolve(u.root, "."+p)
}

// likeBelow gives a directory that the archive goes through without describing it the looks that it has in the layers
// below; otherwise the one that was just made would hide, say, the mode of /tmp.
func (u *unpacker) likeBelow(parent int, base, p string) error {
	from, st, err := u.below(p, unix.O_DIRECTORY|unix.O_RDONLY)
	if err != nil || from < 0 {
		return err
	}
	defer unix.Close(from)
	return copyLooks(from, st, parent, base)
}

// below opens what the layers below have under a path. The descriptor is -1 if they have nothing there.
func (u *unpacker) below(p string, flags uint64) (int, *unix.Stat_t, error) {
	for _, dir := range u.lower {
		root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, nil, err
		}
		fd, err := openInside(root, p, flags)
		unix.Close(root)
		if err != nil {
			continue // not in this one, or hidden by it
		}
		st := &unix.Stat_t{}
		if err := unix.Fstat(fd, st); err != nil {
			unix.Close(fd)
			return -1, nil, err
		}
		return fd, st, nil
	}
	return -1, nil, nil
}

// copyUp makes parent/base a copy of a lower layer's file.
func (u *unpacker) copyUp(parent parentDir, base, rel string) error {
	from, st, err := u.below(rel, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	if from < 0 {
		return fmt.Errorf("%w: hard link to %.200q, which no layer holds", ErrUnsafeLayer, rel)
	}
	defer unix.Close(from)
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("%w: hard link to %.200q, which is not a file", ErrUnsafeLayer, rel)
	}
	src, err := os.Open("/proc/self/fd/" + strconv.Itoa(from))
	if err != nil {
		return err
	}
	defer src.Close()
	sum, err := u.file(parent.fd, base, st.Size, struct{ io.Reader }{src})
	if err != nil {
		return err
	}
	if err := writeSum(u.sums, filepath.Join(parent.real, base), sum); err != nil {
		return err
	}
	return copyLooks(int(src.Fd()), st, parent.fd, base)
}

// copyLooks copies owner, mode, extended attributes and times.
func copyLooks(from int, st *unix.Stat_t, parent int, base string) error {
	if err := unix.Fchownat(parent, base, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if err := unix.Fchmodat(parent, base, st.Mode&0o7777, 0); err != nil {
		return err
	}
	names := make([]byte, 64<<10)
	n, err := unix.Flistxattr(from, names)
	if err != nil && !errors.Is(err, unix.ENOTSUP) {
		return err
	}
	for name := range strings.SplitSeq(string(names[:max(n, 0)]), "\x00") {
		if name == "" || strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Fgetxattr(from, name, value)
		if err != nil {
			return err
		}
		if err := setxattrAt(parent, base, name, value[:n]); err != nil {
			return err
		}
	}
	return unix.UtimesNanoAt(parent, base, []unix.Timespec{st.Mtim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

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
