package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	corev1 "k8s.io/api/core/v1"
)

// applyFSGroup gives a volume to the pod's fsGroup: the group of every file, read and write for it, and on directories
// the bit that hands the group down. With the OnRootMismatch policy the root's state stands for the rest.
func applyFSGroup(pod *corev1.Pod, dir string) error {
	sc := pod.Spec.SecurityContext
	if sc == nil || sc.FSGroup == nil {
		return nil
	}
	gid := int(*sc.FSGroup)
	if sc.FSGroupChangePolicy != nil && *sc.FSGroupChangePolicy == corev1.FSGroupChangeOnRootMismatch {
		info, err := os.Lstat(dir)
		if err != nil {
			return err
		}
		const want = 0o770
		if groupOf(info) == gid && info.Mode().Perm()&want == want && info.Mode()&os.ModeSetgid != 0 {
			return nil
		}
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			var info fs.FileInfo
			if info, err = d.Info(); err == nil {
				err = own(path, info, gid, 0o660)
			}
		}
		if errors.Is(err, fs.ErrNotExist) && path != dir {
			return nil // removed by somebody while we walk
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("applying fsGroup %d: %w", gid, err)
	}
	return nil
}

// own sets one file's group and adds the group's permissions.
func own(path string, info fs.FileInfo, gid int, mask os.FileMode) error {
	if info.Mode()&os.ModeSymlink != 0 {
		return os.Lchown(path, -1, gid)
	}
	if groupOf(info) != gid {
		if err := os.Lchown(path, -1, gid); err != nil {
			return err
		}
	}
	mode := info.Mode() & (os.ModePerm | os.ModeSetuid | os.ModeSetgid | os.ModeSticky)
	want := mode | mask
	if info.IsDir() {
		want |= 0o110 | os.ModeSetgid
	}
	// chown clears the set-id bits, so they're written again even when they stand in the mode that was read.
	if want == mode && mode&(os.ModeSetuid|os.ModeSetgid) == 0 {
		return nil
	}
	return os.Chmod(path, want)
}

func groupOf(info fs.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Gid)
	}
	return -1
}
