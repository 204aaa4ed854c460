package agent

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/mote-edge/mote/internal/layout"
)

// startRuntime starts mote-runtime under mote-hold, unless something answers at its socket already. It isn't our child
// in any way that matters: containers outlive the agent, and so must what holds them.
func startRuntime(ctx context.Context, dirs layout.Dirs) error {
	d := net.Dialer{Timeout: time.Second}
	if c, err := d.DialContext(ctx, "unix", dirs.RuntimeSocket()); err == nil {
		return c.Close()
	}
	if c, err := d.DialContext(ctx, "unix", dirs.HoldSocket()); err == nil {
		return c.Close() // the holder lives: it is starting the runtime again by itself
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
