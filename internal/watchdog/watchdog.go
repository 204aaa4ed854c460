// Package watchdog tells systemd that this program is up and alive (sd_notify(3), sd_watchdog_enabled(3)): a unit with
// Type=notify starts those after it when there is something to start after, one with WatchdogSec restarts one that hangs.
//
// Reads:  NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID.
// Writes: datagrams to systemd's socket.
package watchdog

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// least is the shortest WatchdogSec that is taken: a busy machine would miss a shorter one.
const least = time.Second

// Watchdog is systemd's, as the environment describes it. The zero value is none.
type Watchdog struct {
	socket string
	every  time.Duration // between signs of life; 0: nobody waits for them
}

// New reads the environment of process pid.
func New(getenv func(string) string, pid int) (Watchdog, error) {
	w := Watchdog{socket: getenv("NOTIFY_SOCKET")}
	if strings.HasPrefix(w.socket, "@") {
		w.socket = "\x00" + w.socket[1:] // an abstract socket
	}
	micros := getenv("WATCHDOG_USEC")
	if p := getenv("WATCHDOG_PID"); micros == "" || w.socket == "" || p != "" && p != strconv.Itoa(pid) {
		return w, nil
	}
	n, err := strconv.ParseInt(micros, 10, 64)
	if err != nil || n <= 0 {
		return w, fmt.Errorf("WATCHDOG_USEC=%q is not a time: set WatchdogSec in the unit", micros)
	}
	limit := time.Duration(n) * time.Microsecond
	if limit <= least {
		return w, fmt.Errorf("WatchdogSec of %v is too short: make it longer than %v", limit, least)
	}
	w.every = limit / 2
	return w, nil
}

// Ready says that the program is up.
func (w Watchdog) Ready() error { return w.notify("READY=1") }

// Tell says that the program is up when up is closed, and from then on does what Run does.
func (w Watchdog) Tell(ctx context.Context, up <-chan struct{}, alive func() error, log *slog.Logger) error {
	select {
	case <-up:
	case <-ctx.Done():
		return nil
	}
	if err := w.Ready(); err != nil {
		log.Warn("systemd isn't told that this is up", "err", err)
	}
	return w.Run(ctx, alive, log)
}

// Run gives signs of life as long as alive returns, and without error.
func (w Watchdog) Run(ctx context.Context, alive func() error, log *slog.Logger) error {
	if w.every == 0 {
		return nil
	}
	tick := time.NewTicker(w.every)
	defer tick.Stop()
	for {
		if err := alive(); err != nil {
			log.Error("not well: systemd isn't told that all is well, and will restart this", "err", err)
		} else if err := w.notify("WATCHDOG=1"); err != nil {
			log.Error("systemd's watchdog not told", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (w Watchdog) notify(state string) error {
	if w.socket == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: w.socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("systemd's socket: %w", err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("systemd's socket: %w", err)
	}
	return nil
}

// FromEnvironment is New for this process. It takes the variables away, so that neither libraries (k8s.io/apiserver tells systemd
// of itself alone) nor children speak for the process.
func FromEnvironment() (Watchdog, error) {
	w, err := New(os.Getenv, os.Getpid())
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		_ = os.Unsetenv(name) // fails for names that aren't any
	}
	return w, err
}
