// Package oom tells of processes that the kernel killed because the machine as a whole had no memory left. Containers that
// cross their own limits are the runtime's to report.
//
// Reads:  the kernel's log.
// Writes: nothing.
package oom

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Watcher follows the kernel's log. It sleeps until the kernel writes something.
type Watcher struct {
	Path string // empty means /dev/kmsg
	// Event records an event about the node.
	Event func(kind, reason, message string)
	Log   *slog.Logger
}

// Run watches until ctx ends.
func (w *Watcher) Run(ctx context.Context) error {
	path := w.Path
	if path == "" {
		path = "/dev/kmsg"
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		w.Log.Info("kills by the kernel aren't reported as events of the node", "reason", err)
		<-ctx.Done()
		return nil
	}
	stop := context.AfterFunc(ctx, func() { _ = f.Close() })
	defer stop()
	_, _ = f.Seek(0, io.SeekEnd) // what was before us is no news; a pipe has no before
	// One read is one record: the buffer holds the longest that there is.
	r := bufio.NewReaderSize(f, 16<<10)
	for {
		line, err := r.ReadString('\n')
		if message, ok := systemKill(line); ok {
			w.Event("Warning", "SystemOOM", message)
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.EPIPE): // records were overwritten before they were read
		case err != nil:
			return fmt.Errorf("read %s: %w", path, err)
		}
	}
}

// systemKill reads one record, "6,92370,14049154501,-;oom-kill:constraint=CONSTRAINT_NONE,…,task=x,pid=1,uid=0". It is a
// kill for the machine's sake if no cgroup's limit was the cause, or the victim is in none.
func systemKill(record string) (message string, ok bool) {
	head, text, found := strings.Cut(strings.TrimSpace(record), ";")
	text, kill := strings.CutPrefix(text, "oom-kill:")
	priority, _, _ := strings.Cut(head, ",")
	level, err := strconv.Atoi(priority)
	if !found || !kill || err != nil || level >= 8 { // anything above is not the kernel's own word
		return "", false
	}
	fields := map[string]string{}
	for _, f := range strings.Split(text, ",") {
		k, v, _ := strings.Cut(f, "=")
		fields[k] = v
	}
	if fields["constraint"] == "CONSTRAINT_MEMCG" && fields["task_memcg"] != "/" {
		return "", false
	}
	message = "System OOM encountered"
	if fields["task"] != "" && fields["pid"] != "" {
		message += ", victim process: " + fields["task"] + ", pid: " + fields["pid"]
	}
	return message, true
}
