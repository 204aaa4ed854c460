package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Usage is disk space in bytes and files.
type Usage struct {
	Bytes  uint64
	Inodes uint64
}

// Usage walks a snapshot's writable layer. It costs as much as the layer has files: ask only when somebody wants to know.
func (s *Store) Usage(key string) (Usage, error) {
	dir, err := s.snapDir(key)
	if err != nil {
		return Usage{}, err
	}
	return diskUsage(filepath.Join(dir, "upper"))
}

// LayersUsage adds up what the unpacked layers held when they were unpacked; it reads no tree.
func (s *Store) LayersUsage() (Usage, error) {
	entries, err := os.ReadDir(s.path("layers"))
	if err != nil {
		return Usage{}, fmt.Errorf("read the layers: %w", err)
	}
	var u Usage
	for _, e := range entries {
		info, err := s.layerInfo(e.Name())
		if err != nil {
			if errors.Is(err, os.ErrNotExist) {
				continue // being removed
			}
			return Usage{}, err
		}
		u.Bytes += uint64(info.Bytes)
		u.Inodes += uint64(info.Entries)
	}
	return u, nil
}

func diskUsage(root string) (Usage, error) {
	var u Usage
	seen := map[uint64]bool{}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // files come and go while we look
		}
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			if errors.Is(err, unix.ENOENT) {
				return nil
			}
			return err
		}
		if st.Nlink > 1 {
			if seen[st.Ino] {
				return nil
			}
			seen[st.Ino] = true
		}
		u.Bytes += uint64(st.Blocks) * 512
		u.Inodes++
		return nil
	})
	if err != nil {
		return Usage{}, fmt.Errorf("measure %s: %w", root, err)
	}
	return u, nil
}
