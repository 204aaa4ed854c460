package main

import (
	"context"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mote-edge/mote/internal/layout"
)

// A server without a node tells systemd itself that it is up, and that it lives.
func TestServerAloneTellsSystemd(t *testing.T) {
	dir := t.TempDir()
	address := &net.UnixAddr{Name: filepath.Join(dir, "notify.sock"), Net: "unixgram"}
	systemd, err := net.ListenUnixgram("unixgram", address)
	if err != nil {
		t.Fatal(err)
	}
	defer systemd.Close()
	t.Setenv("NOTIFY_SOCKET", address.Name)
	t.Setenv("WATCHDOG_USEC", "2000000")
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := free.Addr().(*net.TCPAddr).Port
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := serverCommand(&layout.Dirs{Data: filepath.Join(dir, "data"), Run: filepath.Join(dir, "run"), Config: filepath.Join(dir, "etc")})
	c.SetArgs([]string{"--disable-agent", "--secure-port", strconv.Itoa(port), "--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1"})
	c.SilenceUsage = true
	ended := make(chan error, 1)
	go func() { ended <- c.ExecuteContext(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	if err := systemd.SetReadDeadline(time.Now().Add(60 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var told []string
	for len(told) < 3 {
		var text [128]byte
		n, err := systemd.Read(text[:])
		if err != nil {
			t.Fatalf("told %v, then %v", told, err)
		}
		told = append(told, string(text[:n]))
	}
	if got := strings.Join(told, " "); got != "READY=1 WATCHDOG=1 WATCHDOG=1" {
		t.Errorf("told %s", got)
	}
}
