package logs

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Log is a running container's log.
type Log struct{ ContainerID, Path string }

// Rotator bounds the logs of running containers.
type Rotator struct {
	MaxSize int64 // bytes of one file
	Files   int   // files a container, the one being written included; 2 at least
	// Every is how often the logs' sizes are looked at while one of them grows fast; 0 means ten seconds.
	Every time.Duration
	// Logs lists the running containers' logs.
	Logs func() []Log
	// Reopen makes the runtime write to a new file of the same name.
	Reopen func(ctx context.Context, containerID string) error
	Logger *slog.Logger

	now func() time.Time
}

// Run rotates until ctx ends. It looks at the files' sizes: often while some log grows fast, else once a minute.
func (r *Rotator) Run(ctx context.Context) error {
	often := r.Every
	if often == 0 {
		often = 10 * time.Second
	}
	rarely := max(time.Minute, often)
	wait := often
	before := map[string]int64{}
	for {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		wait = min(2*wait, rarely)
		sizes := make(map[string]int64, len(before))
		for _, l := range r.Logs() {
			info, err := os.Stat(l.Path)
			if errors.Is(err, fs.ErrNotExist) {
				// An agent that was killed in the middle of a rotation, or somebody else, has moved it away.
				if err := r.Reopen(ctx, l.ContainerID); err != nil {
					r.Logger.Debug("log isn't opened again", "container", l.ContainerID, "log", l.Path, "error", err) // it has ended
				}
			}
			if err != nil {
				continue
			}
			size := info.Size()
			if size >= r.MaxSize {
				if err := r.rotate(ctx, l); err != nil {
					r.Logger.Warn("log isn't rotated", "container", l.ContainerID, "log", l.Path, "error", err)
				}
				size = 0
			}
			sizes[l.Path] = size
			if size-before[l.Path] > r.MaxSize/100 {
				wait = often
			}
		}
		before = sizes
	}
}

const stamp = "20060102-150405"

// rotate moves a full log aside. Old ones are compressed, but for the newest: somebody may be reading it to its end.
func (r *Rotator) rotate(ctx context.Context, l Log) error {
	half, err := filepath.Glob(escape(l.Path) + ".*.tmp") // a crash left it
	if err != nil {
		return err
	}
	for _, f := range half {
		if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	old, err := rotations(l.Path)
	if err != nil {
		return err
	}
	for len(old) > max(r.Files-2, 0) {
		if err := os.Remove(old[0]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		old = old[1:]
	}
	for _, path := range old {
		if !strings.HasSuffix(path, ".gz") {
			if err := compress(path); err != nil {
				return err
			}
		}
	}
	now := time.Now
	if r.now != nil {
		now = r.now
	}
	aside := l.Path + "." + now().Format(stamp)
	if err := os.Rename(l.Path, aside); err != nil {
		return err
	}
	if err := r.Reopen(ctx, l.ContainerID); err != nil {
		return errors.Join(fmt.Errorf("the runtime doesn't reopen the log: %w", err), os.Rename(aside, l.Path))
	}
	return nil
}

// rotations lists a log's older files, the oldest first: their time stamps sort as they run.
func rotations(path string) ([]string, error) {
	found, err := filepath.Glob(escape(path) + ".*")
	if err != nil {
		return nil, err
	}
	found = slices.DeleteFunc(found, func(f string) bool { return strings.HasSuffix(f, ".tmp") })
	slices.Sort(found)
	return found, nil
}

// escape keeps a path's characters from being read as a pattern.
func escape(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

func compress(path string) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	next := path + ".gz.tmp"
	out, err := os.OpenFile(next, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	z := gzip.NewWriter(out)
	_, err = io.Copy(z, in)
	if err = errors.Join(err, z.Close(), out.Close()); err != nil {
		return errors.Join(fmt.Errorf("compress %s: %w", path, err), os.Remove(next))
	}
	if err := os.Rename(next, path+".gz"); err != nil {
		return err
	}
	return os.Remove(path)
}
