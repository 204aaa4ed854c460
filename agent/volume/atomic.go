package volume

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// writeAtomically makes files the content of a volume, so that a reader sees all of the old or all of the new:
//
//	key       -> ..data/key
//	..data    -> ..2026_11_22_…        one rename moves it to the next directory
//	..2026_11_22_…/key
//
// Nothing is written when the content is right already. gid is the group to give the files to, -1 for none.
func writeAtomically(dir string, files map[string]file, gid int) error {
	const link = "..data"
	data := filepath.Join(dir, link)
	old, err := os.Readlink(data)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if old != "" && same(filepath.Join(dir, old), files, gid) {
		return tidy(dir, filepath.Base(old), files) // a crash may have come between the rename and the links
	}
	next, err := writeNext(dir, files, gid)
	if err != nil {
		return err
	}
	undo := func(err error) error {
		return errors.Join(err, os.RemoveAll(next))
	}
	temporary := data + "_tmp"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return undo(err)
	}
	if err := os.Symlink(filepath.Base(next), temporary); err != nil {
		return undo(err)
	}
	if err := os.Rename(temporary, data); err != nil {
		return undo(err)
	}
	return tidy(dir, filepath.Base(next), files)
}

// writeNext writes the files into a fresh directory and returns it.
func writeNext(dir string, files map[string]file, gid int) (string, error) {
	next, err := os.MkdirTemp(dir, "..mote_")
	if err != nil {
		return "", err
	}
	if err := writeFiles(next, files, gid); err != nil {
		return "", errors.Join(err, os.RemoveAll(next))
	}
	return next, nil
}

func writeFiles(next string, files map[string]file, gid int) error {
	if err := chownDir(next, gid); err != nil {
		return err
	}
	for name, f := range files {
		path := filepath.Join(next, name)
		if parent := filepath.Dir(name); parent != "." {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return err
			}
			for d := parent; d != "."; d = filepath.Dir(d) {
				if err := chownDir(filepath.Join(next, d), gid); err != nil {
					return err
				}
			}
		}
		if err := os.WriteFile(path, f.data, 0o600); err != nil {
			return err
		}
		if f.uid >= 0 || gid >= 0 {
			if err := os.Lchown(path, f.uid, gid); err != nil {
				return err
			}
		}
		if err := os.Chmod(path, f.final(gid)); err != nil { // exactly, whatever the umask
			return err
		}
	}
	return nil
}

// final is a file's mode with the group's right to read.
func (f file) final(gid int) os.FileMode {
	if gid >= 0 {
		return f.mode | 0o440
	}
	return f.mode
}

func chownDir(dir string, gid int) error {
	if gid < 0 {
		return os.Chmod(dir, 0o755)
	}
	if err := os.Lchown(dir, -1, gid); err != nil {
		return err
	}
	return os.Chmod(dir, 0o755|os.ModeSetgid)
}

// same tells whether a data directory holds exactly these files.
func same(dir string, files map[string]file, gid int) bool {
	seen := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		f, ok := files[name]
		if !ok {
			return errDiffers
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode() != f.final(gid) || info.Size() != int64(len(f.data)) || gid >= 0 && groupOf(info) != gid {
			return errDiffers
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && f.uid >= 0 && int(st.Uid) != f.uid {
			return errDiffers
		}
		have, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(have, f.data) {
			return errDiffers
		}
		seen++
		return nil
	})
	return err == nil && seen == len(files)
}

var errDiffers = errors.New("content differs")

// tidy makes the links to the files that are and removes everything else but the current data directory.
func tidy(dir, current string, files map[string]file) error {
	want := map[string]bool{}
	for name := range files {
		first, _, _ := strings.Cut(name, "/")
		want[first] = true
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	have := map[string]bool{}
	for _, e := range entries {
		name := e.Name()
		switch {
		case name == current, name == "..data":
		case strings.HasPrefix(name, ".."):
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				return fmt.Errorf("remove old content: %w", err)
			}
		case want[name]:
			have[name] = true
		default:
			if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("remove old link: %w", err)
			}
		}
	}
	for name := range want {
		if have[name] {
			continue
		}
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}
