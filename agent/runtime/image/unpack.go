package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Whiteouts, as the OCI image specification (layer.md, "Whiteouts") writes them in a layer.
const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
)

// ErrUnsafeLayer marks a layer that tries to reach outside its own tree, or holds what a layer may not hold.
var ErrUnsafeLayer = errors.New("unsafe layer")

// unpacker writes one layer. Every path is resolved by openat2 with the layer's directory as root, so neither ".." nor
// a symbolic link that an earlier entry made leads outside.
type unpacker struct {
	root   int // directory descriptor
	limits Limits
	info   layerInfo
	dirs   []dirTime // applied last: writing into a directory changes its time
	buf    []byte
}

type dirTime struct {
	path string
	when time.Time
}

// unpack extracts a plain tar stream into dir and returns how much it held.
func unpack(r io.Reader, dir string, limits Limits) (layerInfo, error) {
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_PATH, 0)
	if err != nil {
		return layerInfo{}, fmt.Errorf("open %s: %w", dir, err)
	}
	defer unix.Close(fd)
	u := &unpacker{root: fd, limits: limits, buf: make([]byte, 64<<10)}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return u.info, fmt.Errorf("truncated or damaged archive: %w", err)
		}
		if err := u.entry(h, tr); err != nil {
			return u.info, fmt.Errorf("entry %q: %w", h.Name, err)
		}
	}
	for i := len(u.dirs) - 1; i >= 0; i-- {
		if err := u.setTime(u.dirs[i].path, u.dirs[i].when); err != nil {
			return u.info, fmt.Errorf("entry %q: %w", u.dirs[i].path, err)
		}
	}
	return u.info, nil
}

// clean returns the entry's path relative to the layer, "" for the layer's own root.
func clean(name string) (string, error) {
	for _, part := range strings.Split(name, "/") {
		if part == ".." {
			return "", fmt.Errorf("%w: the path leaves the layer", ErrUnsafeLayer)
		}
	}
	return strings.TrimPrefix(path.Clean("/"+name), "/"), nil
}

func (u *unpacker) entry(h *tar.Header, r io.Reader) error {
	if u.info.Entries++; u.info.Entries > u.limits.LayerEntries {
		return fmt.Errorf("%w: more than %d entries", ErrUnsafeLayer, u.limits.LayerEntries)
	}
	name, err := clean(h.Name)
	if err != nil {
		return err
	}
	if name == "" {
		return u.metadata(u.root, ".", h, true)
	}
	dir, base := path.Split(name)
	parent, err := u.openDir(path.Clean("/" + dir))
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	if base == whiteoutOpaque {
		return fsetxattrAt(parent, "trusted.overlay.opaque", []byte("y"))
	}
	if hidden, ok := strings.CutPrefix(base, whiteoutPrefix); ok {
		if hidden == "" || hidden == "." {
			return fmt.Errorf("%w: whiteout of nothing", ErrUnsafeLayer)
		}
		if err := unix.Mknodat(parent, hidden, unix.S_IFCHR, 0); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("whiteout: %w", err)
		}
		return nil
	}
	if err := u.clear(parent, base, h.Typeflag == tar.TypeDir); err != nil {
		return err
	}
	return u.create(parent, base, name, h, r)
}

// clear makes room: a later entry replaces an earlier one of the same name, but a directory keeps its content.
func (u *unpacker) clear(parent int, base string, dir bool) error {
	var st unix.Stat_t
	err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	switch {
	case isDir && dir:
		return nil
	case isDir:
		return removeAllAt(parent, base)
	default:
		return unix.Unlinkat(parent, base, 0)
	}
}

func (u *unpacker) create(parent int, base, name string, h *tar.Header, r io.Reader) error {
	switch h.Typeflag {
	case tar.TypeDir:
		if err := unix.Mkdirat(parent, base, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		u.dirs = append(u.dirs, dirTime{name, h.ModTime})
	case tar.TypeReg:
		if err := u.file(parent, base, r); err != nil {
			return err
		}
	case tar.TypeSymlink:
		if err := unix.Symlinkat(h.Linkname, parent, base); err != nil {
			return err
		}
	case tar.TypeLink:
		return u.hardlink(parent, base, h.Linkname) // shares its target's metadata
	case tar.TypeFifo:
		if err := unix.Mknodat(parent, base, unix.S_IFIFO|0o600, 0); err != nil {
			return err
		}
	case tar.TypeChar, tar.TypeBlock:
		return fmt.Errorf("%w: device nodes are not allowed in an image", ErrUnsafeLayer)
	case tar.TypeXGlobalHeader:
		return nil
	default:
		return fmt.Errorf("%w: unknown entry type %q", ErrUnsafeLayer, string(h.Typeflag))
	}
	return u.metadata(parent, base, h, h.Typeflag != tar.TypeSymlink)
}

func (u *unpacker) file(parent int, base string, r io.Reader) error {
	fd, err := unix.Openat(parent, base, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	defer f.Close()
	left := u.limits.LayerBytes - u.info.Bytes
	n, err := io.CopyBuffer(struct{ io.Writer }{f}, io.LimitReader(r, left+1), u.buf)
	u.info.Bytes += n
	if err != nil {
		return fmt.Errorf("truncated or damaged archive: %w", err)
	}
	if n > left {
		return fmt.Errorf("%w: more than %d bytes unpacked", ErrUnsafeLayer, u.limits.LayerBytes)
	}
	return f.Close()
}

func (u *unpacker) hardlink(parent int, base, target string) error {
	rel, err := clean(target)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", target, err)
	}
	dir, file := path.Split(rel)
	from, err := u.resolve(path.Clean("/" + dir))
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", target, err)
	}
	defer unix.Close(from)
	if err := unix.Linkat(from, file, parent, base, 0); err != nil {
		return fmt.Errorf("hard link to %q: %w", target, err)
	}
	return nil
}

// metadata sets owner, mode, extended attributes and times, in the order in which the kernel doesn't undo them.
func (u *unpacker) metadata(parent int, base string, h *tar.Header, chmod bool) error {
	if err := unix.Fchownat(parent, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("owner %d:%d: %w", h.Uid, h.Gid, err)
	}
	if chmod {
		if err := unix.Fchmodat(parent, base, uint32(h.Mode&0o7777), 0); err != nil {
			return fmt.Errorf("mode: %w", err)
		}
	}
	for key, value := range h.PAXRecords {
		attr, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if !ok || strings.HasPrefix(attr, "trusted.overlay.") || !chmod {
			continue
		}
		if err := setxattrAt(parent, base, attr, []byte(value)); err != nil && !errors.Is(err, unix.ENOTSUP) {
			return fmt.Errorf("extended attribute %s: %w", attr, err)
		}
	}
	ts := unix.NsecToTimespec(h.ModTime.UnixNano())
	if err := unix.UtimesNanoAt(parent, base, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("times: %w", err)
	}
	return nil
}

func (u *unpacker) setTime(name string, when time.Time) error {
	dir, base := path.Split(name)
	parent, err := u.resolve(path.Clean("/" + dir))
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil // a later entry replaced it
	}
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	ts := unix.NsecToTimespec(when.UnixNano())
	err = unix.UtimesNanoAt(parent, base, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// resolve opens a directory inside the layer, symbolic links taken as relative to the layer.
func (u *unpacker) resolve(p string) (int, error) {
	return unix.Openat2(u.root, strings.TrimPrefix(p, "/")+"/.", &unix.OpenHow{
		Flags:   unix.O_DIRECTORY | unix.O_CLOEXEC | unix.O_RDONLY,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
}

// openDir is resolve that makes the directories that a sloppy archive leaves out.
func (u *unpacker) openDir(p string) (int, error) {
	fd, err := u.resolve("." + p)
	if err == nil || !errors.Is(err, unix.ENOENT) || p == "/" {
		return fd, err
	}
	parent, err := u.openDir(path.Dir(p))
	if err != nil {
		return -1, err
	}
	defer unix.Close(parent)
	if err := unix.Mkdirat(parent, path.Base(p), 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, err
	}
	return u.resolve("." + p)
}
