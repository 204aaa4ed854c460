package logs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// follow writes what is there and what comes. It waits for the kernel's word about the file and its directory. f is
// replaced by the next file at a rotation.
func (r *reader) follow(f **os.File) error {
	w, err := newWatcher(filepath.Dir(r.path))
	if err != nil {
		return err
	}
	defer w.close()
	stop := context.AfterFunc(r.ctx, w.close)
	defer stop()
	const soon, late = 20 * time.Millisecond, 10 * time.Second
	check := soon // the writer may have gone before we came
	for {
		// The state is asked for before the read: what a container wrote last is then in the file.
		running := r.opt.Running()
		if err := r.drain(*f); err != nil {
			return err
		}
		if err := r.sync(); err != nil {
			return err
		}
		if r.ctx.Err() != nil {
			return nil
		}
		next, err := r.rotated(*f)
		if err != nil {
			return err
		}
		if next != nil {
			// The old file may have got its last lines between our read and the rename.
			err := r.drain(*f)
			_ = (*f).Close()
			*f = next
			if err != nil {
				return err
			}
			continue
		}
		if !running {
			return nil
		}
		switch w.wait(check) {
		case closed:
			check = soon // the writer has gone: its container has ended, or the runtime starts anew
		case changed:
			check = late
		case nothing:
			check = min(2*check, late)
		}
	}
}

// rotated opens the file that follows the open one; nil if that is still the log, or if there is none at the moment.
func (r *reader) rotated(f *os.File) (*os.File, error) {
	have, err := f.Stat()
	if err != nil {
		return nil, err
	}
	now, err := os.Stat(r.path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && os.SameFile(have, now) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("follow log: %w", err)
	}
	// A reader held up by a slow client may be several rotations behind.
	older, err := rotations(r.path)
	if err != nil {
		return nil, err
	}
	for i, name := range older[:max(len(older)-1, 0)] {
		if info, err := os.Stat(name); err == nil && os.SameFile(have, info) && !strings.HasSuffix(older[i+1], ".gz") {
			if next, err := os.Open(older[i+1]); err == nil {
				return next, nil
			}
		}
	}
	next, err := os.Open(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return next, err
}

// news is what a watcher has heard.
type news int

const (
	nothing news = iota
	changed
	closed
)

// watcher waits for changes in a directory.
type watcher struct{ f *os.File }

func newWatcher(dir string) (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch log: %w (fs.inotify.max_user_instances may be too low)", err)
	}
	f := os.NewFile(uintptr(fd), "inotify") // non-blocking, so that a read waits in the runtime's poller
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MODIFY|unix.IN_CLOSE_WRITE|unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_DELETE_SELF); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	return &watcher{f: f}, nil
}

func (w *watcher) close() { _ = w.f.Close() }

// wait sleeps until something changes, the watcher is closed or the time is over.
func (w *watcher) wait(d time.Duration) news {
	var buf [4096]byte
	if err := w.f.SetReadDeadline(time.Now().Add(d)); err != nil {
		return nothing
	}
	n, err := w.f.Read(buf[:])
	if err != nil {
		return nothing
	}
	out := changed
	for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
		mask := uint32(b[4]) | uint32(b[5])<<8 | uint32(b[6])<<16 | uint32(b[7])<<24
		name := uint32(b[12]) | uint32(b[13])<<8 | uint32(b[14])<<16 | uint32(b[15])<<24
		if mask&(unix.IN_CLOSE_WRITE|unix.IN_DELETE_SELF|unix.IN_IGNORED) != 0 {
			out = closed
		}
		b = b[min(len(b), unix.SizeofInotifyEvent+int(name)):]
	}
	return out
}
