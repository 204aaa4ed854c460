package logs

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mote-edge/mote/agent/runtime/poll"
)

func TestComplete(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	for _, test := range []struct {
		name string
		data string
		end  bool
		want int
	}{
		{"nothing", "", false, 0},
		{"half a line", "abc", false, 0},
		{"half a line at the end", "abc", true, 3},
		{"one line", "abc\n", false, 4},
		{"a line and a half", "abc\nde", false, 4},
		{"too long", long + "yy", false, maxLine},
		{"a line, then too long", "a\n" + long + "yy", false, 2 + maxLine},
		{"empty lines", "\n\n", false, 2},
	} {
		if got := complete([]byte(test.data), test.end); got != test.want {
			t.Errorf("%s: %d, want %d", test.name, got, test.want)
		}
	}
}

func TestAppendEntries(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)
	stamp := "2026-01-02T03:04:05.000000600Z"
	long := strings.Repeat("x", maxLine)
	for _, test := range []struct {
		name, data string
		end        bool
		want       string
	}{
		{"lines", "a\n\nb\n", false, stamp + " stderr F a\n" + stamp + " stderr F \n" + stamp + " stderr F b\n"},
		{"last without newline", "a", true, stamp + " stderr P a\n"},
		{"piece", long, false, stamp + " stderr P " + long + "\n"},
		{"long line", long + "y\n", false, stamp + " stderr P " + long + "\n" + stamp + " stderr F y\n"},
	} {
		if got := string(appendEntries(nil, []byte(test.data), Stderr, now)); got != test.want {
			t.Errorf("%s: %q", test.name, got)
		}
	}
}

func newPump(t *testing.T, dir string) (*Pump, int) {
	t.Helper()
	watch, err := poll.New()
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = watch.Run() }()
	p, err := New(Config{SpoolDir: filepath.Join(dir, "spool"), LogPath: filepath.Join(dir, "0.log"), Log: slog.Default()}, watch)
	if err != nil {
		t.Fatal(err)
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	if err := p.Start([2]int{fds[0], -1}); err != nil {
		t.Fatal(err)
	}
	return p, fds[1]
}

func content(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for line := range strings.Lines(string(raw)) {
		out.WriteString(strings.SplitN(line, " ", 4)[3])
	}
	return out.String()
}

func TestPump(t *testing.T) {
	dir := t.TempDir()
	p, w := newPump(t, dir)
	sink, _ := p.Attach()
	var want strings.Builder
	go func() {
		for i := range 5000 {
			_, _ = unix.Write(w, fmt.Appendf(nil, "line %d\n", i))
		}
		_, _ = unix.Write(w, []byte("tail"))
		_ = unix.Close(w)
	}()
	for i := range 5000 {
		fmt.Fprintf(&want, "line %d\n", i)
	}
	var seen strings.Builder
	for chunk := range sink.Chunks {
		seen.Write(chunk.Data)
	}
	<-p.Done()
	if got := content(t, filepath.Join(dir, "0.log")); got != want.String()+"tail\n" {
		t.Errorf("log has %d bytes, want %d", len(got), want.Len()+5)
	}
	if seen.String() != want.String()+"tail" {
		t.Errorf("the attached client saw %d bytes", seen.Len())
	}
	if _, err := os.Stat(filepath.Join(dir, "spool", "stdout.spool")); !os.IsNotExist(err) {
		t.Error("the spool is still there")
	}
}

// Each row is a moment at which the process may have died: what is on disk, and what the log must hold in the end.
func TestRecoverAfterDeath(t *testing.T) {
	now := time.Now()
	entries := func(data string) string { return string(appendEntries(nil, []byte(data), Stdout, now)) }
	for _, test := range []struct {
		name   string
		log    string
		spool  string
		head   header
		pinned bool // the header names the log file that is there
		want   string
	}{
		{"nothing was going on", entries("a\n"), "", header{}, true, "a\n"},
		{"spooled, not begun", entries("a\n"), "b\nc\n", header{}, true, "a\nb\nc\n"},
		{"half a line in the spool", entries("a\n"), "b\nc", header{}, true, "a\nb\nc\n"},
		{"consumed part stays out", entries("a\n"), "a\nb\n", header{consumed: 2}, true, "a\nb\n"},
		{"append not begun", entries("a\n"), "b\n", header{pending: true, to: 2, logOffset: int64(len(entries("a\n")))}, true, "a\nb\n"},
		{"append cut short", entries("a\n") + entries("bbb\n")[:20], "bbb\n", header{pending: true, to: 4, logOffset: int64(len(entries("a\n")))}, true, "a\nbbb\n"},
		{"append finished, not committed", entries("a\n") + entries("bbb\n"), "bbb\n", header{pending: true, to: 4, logOffset: int64(len(entries("a\n")))}, true, "a\nbbb\n"},
		{"finished with a rest", entries("a\n") + entries("bbb\n"), "bbb\ncc", header{pending: true, to: 4, logOffset: int64(len(entries("a\n")))}, true, "a\nbbb\ncc\n"},
		{"log was moved away", "", "b\n", header{pending: true, to: 2, logOffset: 400}, false, "b\n"},
		{"damaged header", entries("a\n"), "b\n", header{pending: true, consumed: 99, to: -5, logOffset: 1 << 40}, true, "a\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "0.log")
			if err := os.WriteFile(path, []byte(test.log), 0o600); err != nil {
				t.Fatal(err)
			}
			if test.pinned {
				var st unix.Stat_t
				if err := unix.Stat(path, &st); err != nil {
					t.Fatal(err)
				}
				test.head.logInode = st.Ino
			}
			if err := os.Mkdir(filepath.Join(dir, "spool"), 0o700); err != nil {
				t.Fatal(err)
			}
			if test.spool != "" {
				raw := append(test.head.encode(), test.spool...)
				if err := os.WriteFile(filepath.Join(dir, "spool", "stdout.spool"), raw, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			p, w := newPump(t, dir)
			_ = unix.Close(w)
			<-p.Done()
			if got := content(t, path); got != test.want {
				t.Errorf("log %q, want %q", got, test.want)
			}
		})
	}
}

func TestReopen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "0.log")
	p, w := newPump(t, dir)
	_, _ = unix.Write(w, []byte("one\n"))
	for range 1000 {
		if info, err := os.Stat(path); err == nil && info.Size() > 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := p.Reopen(); err != nil {
		t.Fatal(err)
	}
	_, _ = unix.Write(w, []byte("two\n"))
	_ = unix.Close(w)
	<-p.Done()
	if one, two := content(t, path+".1"), content(t, path); one != "one\n" || two != "two\n" {
		t.Errorf("%q, %q", one, two)
	}
	if p.Reopen() == nil {
		t.Error("an ended log was opened again")
	}
}
