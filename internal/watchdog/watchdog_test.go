package watchdog

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

func TestEnvironment(t *testing.T) {
	for name, c := range map[string]struct {
		env   map[string]string
		every time.Duration
		bad   bool
	}{
		"no systemd":        {nil, 0, false},
		"no watchdog":       {map[string]string{"NOTIFY_SOCKET": "/s"}, 0, false},
		"thirty seconds":    {map[string]string{"NOTIFY_SOCKET": "/s", "WATCHDOG_USEC": "30000000"}, 15 * time.Second, false},
		"ours":              {map[string]string{"NOTIFY_SOCKET": "/s", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 15 * time.Second, false},
		"another process's": {map[string]string{"NOTIFY_SOCKET": "/s", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, 0, false},
		"no socket":         {map[string]string{"WATCHDOG_USEC": "30000000"}, 0, false},
		"too short":         {map[string]string{"NOTIFY_SOCKET": "/s", "WATCHDOG_USEC": "1000000"}, 0, true},
		"no number":         {map[string]string{"NOTIFY_SOCKET": "/s", "WATCHDOG_USEC": "soon"}, 0, true},
	} {
		w, err := New(func(k string) string { return c.env[k] }, 7)
		if w.every != c.every || (err != nil) != c.bad {
			t.Errorf("%s: every %v, %v", name, w.every, err)
		}
	}
}

// What systemd hears: that the agent is up, that it lives, and nothing while it doesn't.
func TestSignsOfLife(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	w := Watchdog{socket: path, every: 20 * time.Millisecond}
	hear := func(wait time.Duration) string {
		b := make([]byte, 100)
		_ = l.SetReadDeadline(time.Now().Add(wait))
		n, _ := l.Read(b)
		return string(b[:n])
	}
	if err := w.Ready(); err != nil || hear(5*time.Second) != "READY=1" {
		t.Fatal("not told that it is up:", err)
	}
	var ill atomic.Bool
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = w.Run(ctx, func() error {
			if ill.Load() {
				return errors.New("ill")
			}
			return nil
		}, slog.New(slog.DiscardHandler))
	}()
	for range 3 {
		if got := hear(5 * time.Second); got != "WATCHDOG=1" {
			t.Fatalf("%q", got)
		}
	}
	ill.Store(true)
	for range 5 { // what was on its way
		hear(50 * time.Millisecond)
	}
	if got := hear(200 * time.Millisecond); got != "" {
		t.Errorf("while it is ill: %q", got)
	}
	cancel()
	<-done
	if err := (Watchdog{}).Ready(); err != nil {
		t.Error("without systemd:", err)
	}
}
