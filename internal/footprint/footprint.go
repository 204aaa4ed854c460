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
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Trim returns free heap to the kernel and unmaps the program file's read-only pages.
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
		// Private, read-only and backed by the file: dropping such a page loses nothing (madvise(2), MADV_DONTNEED).
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, a.start, a.end-a.start, unix.MADV_DONTNEED); errno != 0 {
			errs = append(errs, fmt.Errorf("unmap %x-%x: %w", a.start, a.end, errno))
		}
	}
	return errors.Join(errs...)
}

type area struct{ start, end uintptr }

// readOnly lists the areas of /proc/<pid>/maps that map the file and can't be written.
func readOnly(maps io.Reader, file string) ([]area, error) {
	var areas []area
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 6 || f[5] != file || len(f[1]) < 4 || f[1][1] != '-' || f[1][3] != 'p' {
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

// Run trims after the program has settled, and then rarely: each time it throws out what a burst of work has mapped.
func Run(ctx context.Context, after ...time.Duration) {
	for i := 0; ; i++ {
		wait := time.Hour
		if i < len(after) {
			wait = after[i]
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		_ = Trim() // a saving that failed is no failure of the program
	}
}
