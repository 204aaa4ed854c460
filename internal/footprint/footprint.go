// Package footprint gives memory back that a program needed only to start. A large Go program touches most of its file
// while its packages initialise, and the kernel keeps those pages mapped, and counted, for as long as the process lives.
// Unmapping them costs nothing lasting: what is used again is mapped again from the page cache, a microsecond a page.
//
// Reads:  /proc/self/maps. Writes: nothing.
package footprint

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Trim returns free heap to the kernel and unmaps the read-only pages of the program's file and of a mapped database.
func Trim() error {
	debug.FreeOSMemory()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("find the program's file: %w", err)
	}
	exe = strings.TrimSuffix(exe, " (deleted)") // an upgrade put another file in its place
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("read the memory map: %w", err)
	}
	defer f.Close()
	areas, err := readOnly(f, exe)
	if err != nil {
		return err
	}
	var errs []error
	for _, a := range areas {
		// A file that was written in large pieces lies in the page cache in huge pages, and one fault maps two megabytes of it,
		// nearly all of which the program never looks at. A kernel without huge pages refuses this, and doesn't need it.
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, a.start, a.end-a.start, unix.MADV_NOHUGEPAGE)
		// Read-only and backed by a file: dropping such a page loses nothing (madvise(2), MADV_DONTNEED).
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, a.start, a.end-a.start, unix.MADV_DONTNEED); errno != 0 {
			errs = append(errs, fmt.Errorf("unmap %x-%x: %w", a.start, a.end, errno))
		}
	}
	return errors.Join(errs...)
}

type area struct{ start, end uintptr }

// readOnly lists the areas of /proc/<pid>/maps that can't be written: of the program's file, and of files that are mapped
// shared, as etcd's database is, all of whose pages were mapped when it was opened.
func readOnly(maps io.Reader, file string) ([]area, error) {
	var areas []area
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 6 || !strings.HasPrefix(f[5], "/") || f[1] != "r--s" && (f[5] != file || len(f[1]) < 4 || f[1][1] != '-' || f[1][3] != 'p') {
			continue
		}
		from, to, _ := strings.Cut(f[0], "-")
		start, err1 := strconv.ParseUint(from, 16, 64)
		end, err2 := strconv.ParseUint(to, 16, 64)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("memory map: %w", err)
		}
		areas = append(areas, area{uintptr(start), uintptr(end)})
	}
	return areas, lines.Err()
}

const (
	// burst is how many bytes a program allocates before it is worth a trim: what touched that much heap has touched as
	// much of the program's file again.
	burst = 24 << 20
	// calm is how long it must then have allocated less than that.
	calm = 10 * time.Second
)

// Run trims after the program has settled, and again each time it comes to rest after a burst of work. It waits for
// garbage collections and looks at the clock after a burst alone: an idle program isn't woken.
func Run(ctx context.Context, after ...time.Duration) {
	collected := make(chan struct{}, 1)
	var ended atomic.Bool
	defer ended.Store(true)
	onCollection(&ended, collected)
	for _, wait := range after {
		if !sleep(ctx, wait) {
			return
		}
		_ = Trim() // a saving that failed is no failure of the program
	}
	for trimmed := allocated(); ; {
		select {
		case <-ctx.Done():
			return
		case <-collected:
		}
		for now := allocated(); now-trimmed >= burst; {
			if !sleep(ctx, calm) {
				return
			}
			before := now
			if now = allocated(); now-before >= burst {
				continue
			}
			_ = Trim()
			trimmed = allocated()
			break
		}
	}
}

// sleep reports false if the context ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// allocated is how many bytes of heap the program has asked for in its life.
func allocated() uint64 { return metric("/gc/heap/allocs:bytes") }

// metric reads one of runtime/metrics that counts bytes.
func metric(name string) uint64 {
	sample := []metrics.Sample{{Name: name}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// onCollection tells of each garbage collection, until ended: an object that nobody holds is cleaned up by the next one.
func onCollection(ended *atomic.Bool, tell chan<- struct{}) {
	sentinel := new([16]byte)
	runtime.AddCleanup(sentinel, func(tell chan<- struct{}) {
		if ended.Load() {
			return
		}
		onCollection(ended, tell) // first, or one that follows at once goes by unnoticed
		select {
		case tell <- struct{}{}:
		default:
		}
	}, tell)
}
