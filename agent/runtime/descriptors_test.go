package runtime

import (
	"log/slog"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/runtime/logs"
	"github.com/mote-edge/mote/agent/runtime/poll"
)

// A stream that has ended is handed on as one that is at its end and can be waited for: its number may be another file's by
// then, and the next runtime counts on the order.
func TestEndedStreamsAreHandedOnAsEnded(t *testing.T) {
	p, err := poll.New()
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = p.Run() }()
	dir := t.TempDir()
	pump, err := logs.New(logs.Config{SpoolDir: dir, LogPath: filepath.Join(dir, "0.log"), Log: slog.New(slog.DiscardHandler)}, p)
	if err != nil {
		t.Fatal(err)
	}
	var out, errs [2]int
	if err := unix.Pipe2(out[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	if err := unix.Pipe2(errs[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(out[1])
	if err := pump.Start([2]int{out[0], errs[0]}); err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(errs[1]) // stderr ends
	for {
		fds, thaw := pump.Freeze()
		thaw()
		if fds[1] < 0 {
			break
		}
	}
	c := newContainer(containerRecord{ID: "a"}, &cri.ContainerConfig{}, "")
	c.pump, c.pidfd = pump, 999
	c.mu.Lock()
	fds, thaw := c.descriptors()
	c.mu.Unlock()
	defer thaw()
	if len(fds) != 3 || fds[0] != out[0] || fds[2] != 999 {
		t.Fatalf("%v", fds)
	}
	if n, err := unix.Read(fds[1], make([]byte, 1)); n != 0 || err != nil {
		t.Errorf("the stream that ended: %d, %v", n, err)
	}
	other, err := poll.New()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Add(fds[1], func() {}); err != nil {
		t.Error(err)
	}
}
