package logs

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

type nobody struct{}

func (nobody) Add(int, func()) error { return nil }
func (nobody) Arm(int) error         { return nil }
func (nobody) Remove(int)            {}

// Whatever an earlier runtime left in a spool, the next one settles it without losing what the log had before.
func FuzzSpool(f *testing.F) {
	const log = "2026-01-01T00:00:00.000000000Z stdout F old\n"
	f.Add(append(header{pending: true, to: 4, logOffset: int64(len(log))}.encode(), "new\n"...), true)
	f.Add(append(header{pending: true, consumed: 2, to: 9, logOffset: -5}.encode(), "new\n"...), true)
	f.Add(append(header{pending: true, consumed: -1, to: -1, logOffset: 1 << 40}.encode(), "x"...), true)
	f.Add(header{consumed: 1 << 60}.encode(), false)
	f.Add([]byte("short"), false)
	f.Fuzz(func(t *testing.T, content []byte, ours bool) {
		dir := t.TempDir()
		path, spool := filepath.Join(dir, "0.log"), filepath.Join(dir, "spool")
		if err := os.WriteFile(path, []byte(log), 0o600); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		at := int64(len(log))
		if len(content) >= headerSize {
			inode := info.Sys().(*syscall.Stat_t).Ino
			if ours { // as if the header spoke of this very log
				content = bytes.Clone(content) // an input isn't the target's to change
				binary.LittleEndian.PutUint64(content[24:], inode)
			}
			if binary.LittleEndian.Uint64(content[24:]) == inode {
				at = decodeHeader(content).logOffset
			}
		}
		if err := os.Mkdir(spool, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(spool, "stdout.spool"), content, 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := New(Config{SpoolDir: spool, LogPath: path, Log: slog.New(slog.DiscardHandler)}, nobody{})
		if err != nil {
			t.Fatal(err)
		}
		var pipe [2]int
		if err := syscall.Pipe(pipe[:]); err != nil {
			t.Fatal(err)
		}
		_ = syscall.Close(pipe[1])
		if err := p.Start([2]int{pipe[0], -1}); err != nil {
			t.Fatal(err)
		}
		p.Finish()
		<-p.Done()
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if keep := min(max(at, 0), int64(len(log))); int64(len(got)) < keep || string(got[:keep]) != log[:keep] {
			t.Errorf("the log's first %d bytes became %q", keep, got)
		}
	})
}
