package image

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// MountPoint is a path in a container at which something will be mounted: a directory, or a file.
type MountPoint struct {
	Path string // absolute
	File bool
}

const (
	maxPointSets = 128 // sets of mount points before those that no snapshot has are looked for
	maxResolved  = 4096
	maxLinks     = 10
)

// pointSets are directories that hold mount points and nothing else: the lowest layer of the containers that mount at these
// points, shared by all that do. Without it each container's own layer would get them, up to a dozen files and directories on
// the disk for each start. It lies below the image, so that whatever the image has at these paths is what the container sees;
// and if the image hides them (a whiteout, an opaque directory), whoever mounts makes the points as ever.
type pointSets struct {
	use      sync.RWMutex // held for writing while a set is made, or removed
	mu       sync.Mutex
	resolved map[string]string // image and path → path without links
}

// ensurePoints returns the name of the set of these points, which it makes if there is none. s.points.use is held for reading.
func (s *Store) ensurePoints(img *Image, points []MountPoint) (string, error) {
	if len(points) == 0 {
		return "", nil
	}
	own := make([]MountPoint, 0, len(points))
	for _, p := range points {
		p.Path = s.resolved(img, p.Path)
		own = append(own, p)
	}
	slices.SortFunc(own, func(a, b MountPoint) int { return cmp.Compare(a.Path, b.Path) })
	own = slices.Compact(own)
	sum := sha256.New()
	for _, p := range own {
		fmt.Fprintf(sum, "%q %t\n", p.Path, p.File)
	}
	name := hex.EncodeToString(sum.Sum(nil)[:16])
	for {
		if _, err := os.Stat(s.pointsDir(name)); err == nil {
			return name, nil
		}
		s.points.use.RUnlock()
		err := s.makePoints(name, own)
		s.points.use.RLock()
		if err != nil {
			return "", err
		}
	}
}

func (s *Store) pointsDir(name string) string { return s.path("points", name) }

// makePoints makes a set. It isn't synced: what a power cut takes of it is made in the containers' own layers.
func (s *Store) makePoints(name string, points []MountPoint) error {
	s.points.use.Lock()
	defer s.points.use.Unlock()
	dir := s.pointsDir(name)
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := s.sweepPoints(maxPointSets); err != nil {
		return err
	}
	work, err := os.MkdirTemp(s.path("tmp"), "points-")
	if err != nil {
		return fmt.Errorf("mount points: %w", err)
	}
	defer os.RemoveAll(work)
	if err := os.Chmod(work, 0o755); err != nil {
		return fmt.Errorf("mount points: %w", err)
	}
	for _, p := range points {
		if err := makePoint(work, p); err != nil {
			return fmt.Errorf("mount point %s: %w", p.Path, err)
		}
	}
	if err := os.Rename(work, dir); err != nil {
		return fmt.Errorf("mount points: %w", err)
	}
	return nil
}

// makePoint makes one as libcontainer would. One that is in another's way isn't made: the mounts will show which is right.
func makePoint(root string, p MountPoint) error {
	target := filepath.Join(root, path.Clean("/"+p.Path))
	parent := target
	if p.File {
		parent = filepath.Dir(target)
	}
	err := os.MkdirAll(parent, 0o755)
	if err == nil && p.File {
		var file *os.File
		if file, err = os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644); err == nil {
			err = file.Close()
		}
	}
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, os.ErrExist) {
		return nil
	}
	return err
}

// sweepPoints removes the sets that no snapshot has, once there are more than most. s.points.use is held for writing, or
// nothing else uses the store yet.
func (s *Store) sweepPoints(most int) error {
	sets, err := os.ReadDir(s.path("points"))
	if err != nil {
		return fmt.Errorf("mount points: %w", err)
	}
	if len(sets) <= most {
		return nil
	}
	snaps, err := s.snapshots()
	if err != nil {
		return err
	}
	used := map[string]bool{}
	for _, snap := range snaps {
		used[snap.Points] = true
	}
	for _, set := range sets {
		if used[set.Name()] {
			continue
		}
		if err := os.RemoveAll(s.pointsDir(set.Name())); err != nil {
			return fmt.Errorf("mount points: %w", err)
		}
	}
	return nil
}

// resolved is a path without the links that the image has on the way to it: "/var/run" is one in most images. What it finds is a
// hint alone: points are made below a set's own directory, wherever it leads.
func (s *Store) resolved(img *Image, p string) string {
	key := img.ID + p
	s.points.mu.Lock()
	out, known := s.points.resolved[key]
	s.points.mu.Unlock()
	if known {
		return out
	}
	out = path.Clean("/" + p)
	if lower, err := s.lower(img.DiffIDs); err == nil {
		out = resolveIn(lower, out)
	}
	s.points.mu.Lock()
	defer s.points.mu.Unlock()
	if s.points.resolved == nil || len(s.points.resolved) > maxResolved {
		s.points.resolved = map[string]string{}
	}
	s.points.resolved[key] = out
	return out
}

// resolveIn follows links in layers, the topmost first, as an overlay of them would; whiteouts aside.
func resolveIn(layers []string, p string) string {
	rest, at := strings.Split(strings.TrimPrefix(p, "/"), "/"), "/"
	for links := 0; len(rest) > 0 && links < maxLinks; {
		next := path.Join(at, rest[0])
		rest = rest[1:]
		link, found := linkIn(layers, next)
		switch {
		case !found:
			return path.Join(append([]string{next}, rest...)...)
		case link == "":
			at = next
		default:
			links++
			if !path.IsAbs(link) {
				link = path.Join(at, link)
			}
			rest, at = append(strings.Split(strings.TrimPrefix(path.Clean(link), "/"), "/"), rest...), "/"
		}
	}
	return path.Join(append([]string{at}, rest...)...)
}

// linkIn looks for a path in the topmost layer that has it: where it leads if it is a link.
func linkIn(layers []string, p string) (link string, found bool) {
	for _, layer := range layers {
		root, err := unix.Open(layer, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		// A link on the way would be another layer's business, and one to the host's files here.
		how := unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS}
		fd, err := unix.Openat2(root, strings.TrimPrefix(p, "/"), &how)
		_ = unix.Close(root)
		if err != nil {
			continue
		}
		var text [unix.PathMax]byte
		n, err := unix.Readlinkat(fd, "", text[:])
		_ = unix.Close(fd)
		if err != nil {
			return "", true // no link
		}
		return string(text[:n]), true
	}
	return "", false
}
