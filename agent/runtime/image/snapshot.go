package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/mote-edge/mote/agent/runtime/mounts"
)

// Snapshot is a container's writable root: the image's layers below, one directory on top.
type Snapshot struct {
	Key     string   `json:"-"` // the directory's name
	ImageID string   `json:"imageID"`
	DiffIDs []string `json:"diffIDs"`
	Points  string   `json:"points,omitempty"` // the set of mount points below the image
}

var keyPattern = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$`) })

func (s *Store) snapDir(key string) (string, error) {
	if !keyPattern().MatchString(key) {
		return "", fmt.Errorf("snapshot key %q: use letters, digits, '.', '_' and '-'", key)
	}
	return s.path("snapshots", key), nil
}

// Prepare makes a snapshot of an image under key (a container ID), for a container that will mount at points. Repeating it with
// the same image and points is success.
func (s *Store) Prepare(imageID, key string, points []MountPoint) error {
	dir, err := s.snapDir(key)
	if err != nil {
		return err
	}
	s.removal.RLock()
	defer s.removal.RUnlock()
	img, err := s.Get(imageID)
	if err != nil {
		return err
	}
	s.points.use.RLock() // until the snapshot says which set it has
	defer s.points.use.RUnlock()
	set, err := s.ensurePoints(&img, points)
	if err != nil {
		return fmt.Errorf("snapshot %s: %w", key, err)
	}
	data, err := json.Marshal(Snapshot{ImageID: img.ID, DiffIDs: img.DiffIDs, Points: set})
	if err != nil {
		return fmt.Errorf("snapshot %s: %w", key, err)
	}
	for _, d := range []string{dir, filepath.Join(dir, "upper"), filepath.Join(dir, "work")} {
		mode := os.FileMode(0o755) // upper's mode becomes the container's "/"
		if d == dir {
			mode = 0o700
		}
		if err := os.Mkdir(d, mode); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("snapshot %s: %w", key, err)
		}
	}
	if err := s.alike.write(filepath.Join(dir, "snapshot.json"), data); err != nil {
		return fmt.Errorf("snapshot %s: %w", key, err)
	}
	return nil
}

const maxAlike = 256

// alikes knows a file for each text that snapshots' records have: those of one image and the same mount points are alike, and
// one inode serves them all.
type alikes struct {
	mu    sync.Mutex
	paths map[string]string // text → path; what is there may have been removed since
}

// write makes path, in place of what is there, a file with this text, which must never be written to again. It isn't synced: a
// writable layer need not survive a power cut, its container doesn't either.
func (a *alikes) write(path string, text []byte) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	a.mu.Lock()
	from := a.paths[string(text)]
	a.mu.Unlock()
	if from == "" || os.Link(from, path) != nil { // none yet, that container is gone, or it has all the links that the filesystem allows
		if err := os.WriteFile(path, text, 0o600); err != nil {
			return err
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.paths == nil || len(a.paths) >= maxAlike {
		a.paths = map[string]string{}
	}
	a.paths[string(text)] = path
	return nil
}

// Mount mounts the snapshot at target, a directory that the caller makes and unmounts; label, if not empty, is what SELinux
// knows its files by. Mounting twice is success.
func (s *Store) Mount(key, target, label string) error {
	dir, err := s.snapDir(key)
	if err != nil {
		return err
	}
	if mounted, err := isMounted(target); err != nil || mounted {
		return err
	}
	snap, err := readSnapshot(dir)
	if err != nil {
		return err
	}
	lower, err := s.lower(snap.DiffIDs)
	if err != nil {
		return err
	}
	if snap.Points != "" {
		lower = append(lower, s.pointsDir(snap.Points))
	}
	opts := labelled(label, map[string]string{"upperdir": filepath.Join(dir, "upper"), "workdir": filepath.Join(dir, "work")})
	if err := mountOverlay(lower, opts, target, 0); err != nil {
		return fmt.Errorf("mount snapshot %s: %w", key, err)
	}
	return nil
}

// MountImage mounts an image read-only at target, for image volumes.
func (s *Store) MountImage(imageID, target, label string) error {
	return s.mountImage(imageID, target, func(lower []string) error {
		return mountOverlay(lower, labelled(label, nil), target, unix.MS_RDONLY)
	})
}

// mountImage has overlay mount the image's layers at target, unless it is mounted there.
func (s *Store) mountImage(imageID, target string, overlay func(lower []string) error) error {
	s.removal.RLock()
	defer s.removal.RUnlock()
	img, err := s.Get(imageID)
	if err != nil {
		return err
	}
	if mounted, err := isMounted(target); err != nil || mounted {
		return err
	}
	lower, err := s.lower(img.DiffIDs)
	if err != nil {
		return err
	}
	empty, err := s.emptyDir()
	if err != nil {
		return err
	}
	// An overlay without an upper directory needs two lower ones.
	if err := overlay(append(lower, empty)); err != nil {
		return fmt.Errorf("mount image %s: %w", imageID, err)
	}
	return nil
}

// RemoveSnapshot deletes the files of a snapshot, which isn't mounted any more. None is success.
func (s *Store) RemoveSnapshot(key string) error {
	dir, err := s.snapDir(key)
	if err != nil {
		return err
	}
	if err := mounts.Detach(filepath.Join(dir, "rootfs")); err != nil { // where runtimes before this one mounted it
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove snapshot %s: %w", key, err)
	}
	return nil
}

// Snapshots lists the keys of all snapshots, for the runtime's sweep of leftovers.
func (s *Store) Snapshots() ([]string, error) {
	snaps, err := s.snapshots()
	if err != nil {
		return nil, err
	}
	keys := make([]string, len(snaps))
	for i, snap := range snaps {
		keys[i] = snap.Key
	}
	return keys, nil
}

func (s *Store) snapshots() ([]Snapshot, error) {
	entries, err := os.ReadDir(s.path("snapshots"))
	if err != nil {
		return nil, fmt.Errorf("read the snapshots: %w", err)
	}
	out := make([]Snapshot, 0, len(entries))
	for _, e := range entries {
		snap, err := readSnapshot(s.path("snapshots", e.Name()))
		if err != nil {
			snap = Snapshot{} // half made or damaged: still listed, so that the sweep finds it
		}
		snap.Key = e.Name()
		out = append(out, snap)
	}
	return out, nil
}

func readSnapshot(dir string) (Snapshot, error) {
	var snap Snapshot
	data, err := os.ReadFile(filepath.Join(dir, "snapshot.json"))
	if err != nil {
		return snap, fmt.Errorf("snapshot %s: %w", filepath.Base(dir), err)
	}
	if err := json.Unmarshal(data, &snap); err != nil {
		return snap, fmt.Errorf("snapshot %s: %w", filepath.Base(dir), err)
	}
	return snap, nil
}

func (s *Store) emptyDir() (string, error) {
	dir := s.path("empty")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("image store: %w", err)
	}
	return dir, nil
}

// lower returns the layers' directories, the topmost first, as overlayfs wants them.
func (s *Store) lower(diffIDs []string) ([]string, error) {
	if len(diffIDs) == 0 {
		empty, err := s.emptyDir()
		return []string{empty}, err
	}
	dirs := make([]string, 0, len(diffIDs))
	seen := map[string]bool{}
	for i := len(diffIDs) - 1; i >= 0; i-- {
		if seen[diffIDs[i]] { // overlayfs refuses the same directory twice; the upper occurrence hides the lower
			continue
		}
		seen[diffIDs[i]] = true
		dirs = append(dirs, filepath.Join(s.layerDir(diffIDs[i]), "fs"))
	}
	return dirs, nil
}

// contextOption is the option that gives all files of a mount one SELinux label.
const contextOption = "context"

func labelled(label string, opts map[string]string) map[string]string {
	if label == "" {
		return opts
	}
	out := map[string]string{contextOption: label}
	maps.Copy(out, opts)
	return out
}

// mountOverlay mounts by mount(2) where the options fit into its one page, and by the newer calls where they don't
// (lowerdir+ takes one layer a call since Linux 6.5).
func mountOverlay(lower []string, opts map[string]string, target string, flags uintptr) error {
	data := "lowerdir=" + strings.Join(lower, ":")
	for k, v := range opts {
		if k == contextOption { // it may hold commas
			v = `"` + v + `"`
		}
		data += "," + k + "=" + v
	}
	if len(data) < unix.Getpagesize()-1 {
		return unix.Mount("overlay", target, "overlay", flags, data)
	}
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open overlayfs: %w", err)
	}
	defer unix.Close(fs)
	for _, l := range lower {
		if err := unix.FsconfigSetString(fs, "lowerdir+", l); err != nil {
			return fmt.Errorf("%d layers need Linux 6.5 or later: %w", len(lower), err)
		}
	}
	for k, v := range opts {
		if err := unix.FsconfigSetString(fs, k, v); err != nil {
			return fmt.Errorf("overlayfs option %s: %w", k, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return fmt.Errorf("create overlayfs: %w", err)
	}
	attr := 0
	if flags&unix.MS_RDONLY != 0 {
		attr |= unix.MOUNT_ATTR_RDONLY
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attr)
	if err != nil {
		return fmt.Errorf("mount overlayfs: %w", err)
	}
	defer unix.Close(mnt)
	return unix.MoveMount(mnt, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// isMounted compares the mount IDs of a directory and its parent: no parsing of mountinfo, which grows with the pods.
func isMounted(path string) (bool, error) {
	var here, up unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &here); err != nil {
		return false, fmt.Errorf("stat %s: %w", path, err)
	}
	if err := unix.Statx(unix.AT_FDCWD, filepath.Dir(path), unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &up); err != nil {
		return false, fmt.Errorf("stat %s: %w", filepath.Dir(path), err)
	}
	return here.Mnt_id != up.Mnt_id, nil
}
