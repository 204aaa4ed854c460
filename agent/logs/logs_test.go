package logs

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const sample = `2026-01-01T00:00:01.5Z stdout F one
2026-01-01T00:00:02.123456789Z stderr F err
2026-01-01T00:00:03Z stdout P par
2026-01-01T00:00:03Z stdout F tial
broken
2026-01-01T00:00:04Z stdout F four
`

func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(path, []byte(sample+"2026-01-01T00:00:05Z stdout F no end"), 0o600); err != nil {
		t.Fatal(err)
	}
	all := Options{Tail: -1, Stdout: true, Stderr: true}
	with := func(f func(*Options)) Options { o := all; f(&o); return o }
	for name, tc := range map[string]struct {
		opt  Options
		want string
	}{
		"all":        {all, "one\nerr\npartial\nfour\n"},
		"stdout":     {with(func(o *Options) { o.Stderr = false }), "one\npartial\nfour\n"},
		"stderr":     {with(func(o *Options) { o.Stdout = false }), "err\n"},
		"tail":       {with(func(o *Options) { o.Tail = 2 }), "four\n"}, // the unfinished line counts
		"tail 0":     {with(func(o *Options) { o.Tail = 0 }), ""},
		"tail much":  {with(func(o *Options) { o.Tail = 99 }), "one\nerr\npartial\nfour\n"},
		"since":      {with(func(o *Options) { o.Since = time.Date(2026, 1, 1, 0, 0, 3, 0, time.UTC) }), "partial\nfour\n"},
		"limit":      {with(func(o *Options) { o.Limit = 6 }), "one\ner"},
		"timestamps": {with(func(o *Options) { o.Timestamps = true; o.Limit = 70 }), "2026-01-01T00:00:01.500000000Z one\n2026-01-01T00:00:02.123456789Z err\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			if err := Read(t.Context(), path, tc.opt, &out, func() {}); err != nil || out.String() != tc.want {
				t.Errorf("%q, %v; want %q", out.String(), err, tc.want)
			}
		})
	}
	if err := Read(t.Context(), path+"x", all, io.Discard, func() {}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing log: %v", err)
	}
}

func TestTailAcrossBlocks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	var text strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&text, "2026-01-01T00:00:01Z stdout F line %d\n", i)
	}
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := Read(t.Context(), path, Options{Tail: 3000, Stdout: true}, &out, func() {}); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Split(out.String(), "\n"); len(lines) != 3001 || lines[0] != "line 2000" || lines[2999] != "line 4999" {
		t.Errorf("%d lines from %q", len(lines), lines[0])
	}
}

// writer is what a runtime does with a log.
type writer struct {
	t    *testing.T
	path string
	f    *os.File
	n    int
}

func (w *writer) open() {
	f, err := os.OpenFile(w.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		w.t.Fatal(err)
	}
	w.f = f
}

func (w *writer) line() {
	text := fmt.Sprintf("%s stdout F %d\n", time.Now().UTC().Format(time.RFC3339Nano), w.n)
	w.n++
	// In two writes, so that readers meet half lines.
	for _, part := range []string{text[:10], text[10:]} {
		if _, err := w.f.WriteString(part); err != nil {
			w.t.Fatal(err)
		}
	}
}

// A follower sees each line once through many rotations, and ends with the container.
func TestFollowThroughRotations(t *testing.T) {
	w := &writer{t: t, path: filepath.Join(t.TempDir(), "0.log")}
	w.open()
	w.line()
	var running atomic.Bool
	running.Store(true)
	var out bytes.Buffer
	done, began := make(chan error, 1), make(chan struct{})
	var once sync.Once
	go func() {
		done <- Read(context.Background(), w.path, Options{Follow: true, Tail: -1, Stdout: true, Running: running.Load}, &out, func() { once.Do(func() { close(began) }) })
	}()
	<-began
	for i := range 500 {
		w.line()
		if i%50 == 49 {
			aside := fmt.Sprintf("%s.%03d", w.path, i)
			if err := os.Rename(w.path, aside); err != nil {
				t.Fatal(err)
			}
			w.line() // still into the old file
			time.Sleep(time.Millisecond)
			if err := w.f.Close(); err != nil {
				t.Fatal(err)
			}
			w.open()
		}
	}
	w.line()
	if err := w.f.Close(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(5 * time.Millisecond) // the runtime's event comes after the close
	running.Store(false)
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the follower doesn't end with its container")
	}
	lines := strings.Fields(out.String())
	if len(lines) != w.n {
		t.Fatalf("%d lines of %d", len(lines), w.n)
	}
	for i, l := range lines {
		if l != fmt.Sprint(i) {
			t.Fatalf("line %d is %s", i, l)
		}
	}
}

func TestFollowEndsWithItsReader(t *testing.T) {
	w := &writer{t: t, path: filepath.Join(t.TempDir(), "0.log")}
	w.open()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- Read(ctx, w.path, Options{Follow: true, Tail: -1, Stdout: true, Running: func() bool { return true }}, io.Discard, func() {})
	}()
	time.Sleep(20 * time.Millisecond)
	cancel()
	select {
	case <-done:
	case <-time.After(2 * time.Second):
		t.Fatal("it goes on without a reader")
	}
}

func TestRotate(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "0.log")
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var mu sync.Mutex
	var fail error
	r := &Rotator{MaxSize: 10, Files: 3, Logger: slog.Default(), now: func() time.Time { at = at.Add(time.Second); return at }, Reopen: func(context.Context, string) error {
		mu.Lock()
		defer mu.Unlock()
		if fail != nil {
			return fail
		}
		return os.WriteFile(path, nil, 0o600)
	}}
	for i := range 5 {
		if err := errors.Join(os.WriteFile(path, []byte(fmt.Sprint("content ", i)), 0o600), os.WriteFile(path+".x.gz.tmp", nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		if err := r.rotate(t.Context(), Log{"id", path}); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if got := strings.Join(names, " "); got != "0.log 0.log.20260101-000004.gz 0.log.20260101-000005" {
		t.Errorf("files: %s", got)
	}
	f, err := os.Open(path + ".20260101-000004.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(z); err != nil || string(b) != "content 3" {
		t.Errorf("%q, %v", b, err)
	}
	fail = errors.New("away")
	if err := r.rotate(t.Context(), Log{"id", path}); err == nil {
		t.Error("a failed reopen is hidden")
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the log isn't put back: %v", err)
	}
}

// An agent that was killed between moving a log aside and having it opened anew leaves a container that writes to the old
// file: the next agent has it opened.
func TestUnfinishedRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(path+".20260101-000004", []byte("moved aside"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	opened := ""
	r := &Rotator{
		MaxSize: 10, Files: 3, Every: time.Millisecond, Logger: slog.Default(), Logs: func() []Log { return []Log{{"id", path}} },
		Reopen: func(_ context.Context, id string) error {
			opened = id
			cancel()
			return nil
		},
	}
	if err := r.Run(ctx); err != nil || opened != "id" {
		t.Errorf("%v, opened %q", err, opened)
	}
}
