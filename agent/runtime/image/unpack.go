package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"hash/crc32"
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
	whiteoutMeta   = ".wh..wh." // other than opaque: AUFS's own bookkeeping, which means nothing here
	whiteoutOpaque = ".wh..wh..opq"
)

// ErrUnsafeLayer marks a layer that tries to reach outside its own tree, or holds what a layer may not hold.
var ErrUnsafeLayer = errors.New("unsafe layer")

type unpackOptions struct {
	limits Limits
	lower  []string          // directories of the layers below, topmost first
	sums   io.Writer         // takes the files' checksums
	room   func(int64) error // asked before every roomStep bytes; nil: no check
}

const roomStep = 1 << 20

// unpacker writes one layer. Every path is resolved by openat2 with the layer's directory as root, so neither ".." nor
// a symbolic link that an earlier entry made leads outside.
type unpacker struct {
	unpackOptions
	root     int // directory descriptor
	rootPath string
	info     layerInfo
	asked    int64     // bytes for which there was room
	dirs     []dirTime // applied last: writing into a directory changes its time
	buf      []byte
	// The parent of the last entry: archives list a directory's files one after the other.
	parent parentDir
}

type dirTime struct {
	path string
	when time.Time
}

type parentDir struct {
	name string // as the archive says it
	real string // without links
	fd   int    // -1: none
}

// unpack extracts a plain tar stream into dir and returns how much it held.
func unpack(r io.Reader, dir string, o unpackOptions) (layerInfo, error) {
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_RDONLY, 0)
	if err != nil {
		return layerInfo{}, fmt.Errorf("open %s: %w", dir, err)
	}
	defer unix.Close(fd)
	u := &unpacker{unpackOptions: o, root: fd, buf: make([]byte, 64<<10), parent: parentDir{fd: -1}}
	defer u.forget()
	if u.rootPath, err = realPath(fd); err != nil {
		return layerInfo{}, err
	}
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
			return u.info, fmt.Errorf("entry %.200q: %w", h.Name, err)
		}
	}
	for i := len(u.dirs) - 1; i >= 0; i-- {
		if err := u.setTime(u.dirs[i].path, u.dirs[i].when); err != nil {
			return u.info, fmt.Errorf("entry %.200q: %w", u.dirs[i].path, err)
		}
	}
	return u.info, nil
}

// clean returns the entry's path relative to the layer, "" for the layer's own root.
func clean(name string) (string, error) {
	if strings.ContainsRune(name, 0) {
		return "", fmt.Errorf("%w: a name with a NUL", ErrUnsafeLayer)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", fmt.Errorf("%w: the path leaves the layer", ErrUnsafeLayer)
		}
	}
	return strings.TrimPrefix(path.Clean("/"+name), "/"), nil
}

func (u *unpacker) entry(h *tar.Header, r io.Reader) error {
	if u.info.Entries++; u.info.Entries > u.limits.LayerEntries {
		return fmt.Errorf("%w: a layer with more than %d entries", ErrTooBig, u.limits.LayerEntries)
	}
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil // no file
	}
	name, err := clean(h.Name)
	if err != nil {
		return err
	}
	if name == "" {
		if h.Typeflag != tar.TypeDir {
			return fmt.Errorf("%w: the layer's root is not a directory", ErrUnsafeLayer)
		}
		return u.metadata(u.root, ".", h, true)
	}
	dir, base := path.Split(name)
	parent, err := u.parentOf(path.Clean("/" + dir))
	if err != nil {
		return err
	}
	if base == whiteoutOpaque {
		return fsetxattrAt(parent.fd, opaqueAttr, []byte("y"))
	}
	if strings.HasPrefix(base, whiteoutMeta) {
		return nil
	}
	if hidden, ok := strings.CutPrefix(base, whiteoutPrefix); ok {
		return u.whiteout(parent.fd, hidden)
	}
	hid, err := u.clear(parent.fd, base, h.Typeflag == tar.TypeDir)
	if err != nil {
		return err
	}
	if err := u.create(parent, base, name, h, r); err != nil {
		return err
	}
	if hid && h.Typeflag == tar.TypeDir { // the layer hides what is below and begins anew
		return u.opaque(parent.fd, base)
	}
	return nil
}

// whiteout hides an entry of a lower layer. What this layer itself has under the name stays (layer.md: whiteouts apply
// to lower layers alone), a directory without what is below it.
func (u *unpacker) whiteout(parent int, hidden string) error {
	if hidden == "" || hidden == "." || hidden == ".." {
		return fmt.Errorf("%w: whiteout of nothing", ErrUnsafeLayer)
	}
	err := unix.Mknodat(parent, hidden, unix.S_IFCHR, 0)
	if errors.Is(err, unix.EEXIST) {
		var st unix.Stat_t
		if err = unix.Fstatat(parent, hidden, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return u.opaque(parent, hidden)
		}
	}
	if err != nil {
		return fmt.Errorf("whiteout: %w", err)
	}
	return nil
}

func (u *unpacker) opaque(parent int, base string) error {
	fd, err := unix.Openat(parent, base, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return fsetxattrAt(fd, opaqueAttr, []byte("y"))
}

// clear makes room: a later entry replaces an earlier one of the same name, but a directory keeps its content. It tells
// whether the name was a whiteout.
func (u *unpacker) clear(parent int, base string, dir bool) (hid bool, err error) {
	var st unix.Stat_t
	err = unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	switch {
	case isDir && dir:
		return false, nil
	case isDir:
		u.forgetNext() // the remembered parent may be inside
		return false, removeAllAt(parent, base)
	default:
		u.forgetNext()
		return isWhiteout(&st), unix.Unlinkat(parent, base, 0)
	}
}

func isWhiteout(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 }

func (u *unpacker) create(parent parentDir, base, name string, h *tar.Header, r io.Reader) error {
	switch h.Typeflag {
	case tar.TypeDir:
		if err := unix.Mkdirat(parent.fd, base, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		if len(u.dirs) >= maxDirs {
			return fmt.Errorf("%w: a layer with more than %d directories", ErrTooBig, maxDirs)
		}
		u.dirs = append(u.dirs, dirTime{name, h.ModTime})
	case tar.TypeReg:
		sum, err := u.file(parent.fd, base, h.Size, r)
		if err != nil {
			return err
		}
		if err := writeSum(u.sums, path.Join(parent.real, base), sum); err != nil {
			return err
		}
	case tar.TypeSymlink:
		if err := unix.Symlinkat(h.Linkname, parent.fd, base); err != nil {
			return err
		}
	case tar.TypeLink:
		return u.hardlink(parent, base, h.Linkname) // shares its target's metadata
	case tar.TypeFifo:
		if err := unix.Mknodat(parent.fd, base, unix.S_IFIFO|0o600, 0); err != nil {
			return err
		}
	case tar.TypeChar, tar.TypeBlock:
		return fmt.Errorf("%w: device nodes are not allowed in an image", ErrUnsafeLayer)
	default:
		return fmt.Errorf("%w: unknown entry type %q", ErrUnsafeLayer, string(h.Typeflag))
	}
	return u.metadata(parent.fd, base, h, h.Typeflag != tar.TypeSymlink)
}

// file writes a regular file and returns its checksum.
func (u *unpacker) file(parent int, base string, size int64, r io.Reader) (uint32, error) {
	left := u.limits.LayerBytes - u.info.Bytes
	if size > left {
		return 0, fmt.Errorf("%w: a layer with more than %d bytes unpacked", ErrTooBig, u.limits.LayerBytes)
	}
	if size > u.limits.FileBytes {
		return 0, fmt.Errorf("%w: a file of %d bytes, %d are allowed", ErrTooBig, size, u.limits.FileBytes)
	}
	fd, err := unix.Openat(parent, base, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return 0, err
	}
	f := os.NewFile(uintptr(fd), base)
	defer f.Close()
	crc := uint32(0)
	for {
		n, rerr := r.Read(u.buf)
		if n > 0 {
			if u.info.Bytes += int64(n); u.info.Bytes > u.asked && u.room != nil {
				if err := u.room(roomStep); err != nil {
					return 0, err
				}
				u.asked = u.info.Bytes + roomStep
			}
			crc = crc32.Update(crc, castagnoli, u.buf[:n])
			if _, err := f.Write(u.buf[:n]); err != nil {
				return 0, err
			}
		}
		if rerr == io.EOF {
			return crc, f.Close()
		}
		if rerr != nil {
			return 0, fmt.Errorf("truncated or damaged archive: %w", rerr)
		}
	}
}

// hardlink links to an earlier entry of this layer, or to a copy of a lower layer's file, which is what the overlay
// filesystem makes of such a link.
func (u *unpacker) hardlink(parent parentDir, base, target string) error {
	rel, err := clean(target)
	if err != nil {
		return fmt.Errorf("hard link to %.200q: %w", target, err)
	}
	if rel == "" {
		return fmt.Errorf("%w: hard link to the layer's root", ErrUnsafeLayer)
	}
	dir, file := path.Split(rel)
	from, err := u.resolve(u.root, path.Clean("/"+dir))
	if err == nil {
		defer unix.Close(from)
		var st unix.Stat_t
		if err = unix.Fstatat(from, file, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil {
			switch {
			case st.Mode&unix.S_IFMT == unix.S_IFDIR, isWhiteout(&st):
				return fmt.Errorf("%w: hard link to %.200q, which is not a file", ErrUnsafeLayer, target)
			}
			if err := unix.Linkat(from, file, parent.fd, base, 0); err != nil {
				return fmt.Errorf("hard link to %.200q: %w", target, err)
			}
			return nil
		}
	}
	if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
		return fmt.Errorf("hard link to %.200q: %w", target, err)
	}
	return u.copyUp(parent, base, rel)
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
		// The overlay filesystem's own attributes would redirect lookups to other files.
		if !ok || strings.HasPrefix(attr, "trusted.overlay.") || strings.HasPrefix(attr, "user.overlay.") || !chmod {
			continue
		}
		err := setxattrAt(parent, base, attr, []byte(value))
		if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) && strings.HasPrefix(attr, "user.") {
			continue // the filesystem, or the type of file, has none
		}
		if err != nil {
			return fmt.Errorf("extended attribute %.100q: %w", attr, err)
		}
	}
	return setTimes(parent, base, h.ModTime)
}

func setTimes(parent int, base string, when time.Time) error {
	ts, err := unix.TimeToTimespec(when)
	if err != nil {
		ts = unix.Timespec{} // a year that this machine can't say
	}
	if err := unix.UtimesNanoAt(parent, base, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("times: %w", err)
	}
	return nil
}

func (u *unpacker) setTime(name string, when time.Time) error {
	dir, base := path.Split(name)
	parent, err := u.resolve(u.root, path.Clean("/"+dir))
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil // a later entry replaced it
	}
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	err = setTimes(parent, base, when)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}
