package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/mote-edge/mote/agent/runtime/hold"
	"github.com/mote-edge/mote/internal/layout"
)

// superviseRuntime starts the runtime again when it and its holder died together: each of them alone is looked after by the
// other. It blocks until ctx ends.
func superviseRuntime(ctx context.Context, dirs layout.Dirs, log *slog.Logger) error {
	for ctx.Err() == nil {
		if err := awaitHolderEnd(ctx, dirs.HoldSocket()); err != nil && !hold.Alive(dirs.HoldSocket()) && ctx.Err() == nil {
			log.Warn("the container runtime and its holder are gone, starting them again", "err", err)
			if err := startRuntime(ctx, dirs); err != nil {
				log.Error("the container runtime isn't started, trying again", "err", err)
			}
		}
		select { // a holder that was killed is followed within milliseconds; this bounds the tries of one that can't start
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
	return nil
}

// awaitHolderEnd connects to the holder and returns when the connection ends, or can't be made.
func awaitHolderEnd(ctx context.Context, socket string) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unixpacket", socket)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	_, err = c.Read(make([]byte, 1)) // it says nothing unasked
	_ = c.Close()
	return err
}

// startRuntime starts mote-runtime under mote-hold, unless something answers at its socket already. It isn't our child
// in any way that matters: containers outlive the agent, and so must what holds them.
func startRuntime(ctx context.Context, dirs layout.Dirs) error {
	d := net.Dialer{Timeout: time.Second}
	if c, err := d.DialContext(ctx, "unix", dirs.RuntimeSocket()); err == nil {
		return c.Close()
	}
	if c, err := d.DialContext(ctx, "unixpacket", dirs.HoldSocket()); err == nil {
		return c.Close() // the holder lives: it is starting the runtime again by itself
	}
	if hold.Alive(dirs.HoldSocket()) {
		return nil // the runtime is becoming the holder
	}
	holder, err := layout.Sibling("mote-hold")
	if err != nil {
		return err
	}
	runtime, err := layout.Sibling("mote-runtime")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dirs.Run, 0o711); err != nil {
		return fmt.Errorf("run directory: %w", err)
	}
	log, err := os.OpenFile(filepath.Join(dirs.Run, "runtime.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("log of the container runtime: %w", err)
	}
	defer func() { _ = log.Close() }()
	// Not CommandContext: it must not die with us.
	cmd := exec.Command(holder, "--socket", dirs.HoldSocket(), "--", runtime,
		"--data-dir", dirs.Data, "--run-dir", dirs.Run, "--config-dir", dirs.Config)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the container runtime: %w", err)
	}
	go func() { _ = cmd.Wait() }() // if it ends while we live, it mustn't stay a zombie
	return nil
}
