package shutdown

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// The names of logind on the bus; see org.freedesktop.login1(5).
const (
	login1        = "org.freedesktop.login1"
	login1Manager = "org.freedesktop.login1.Manager"
	login1Path    = dbus.ObjectPath("/org/freedesktop/login1")
	systemd1      = "org.freedesktop.systemd1"
	systemd1Path  = dbus.ObjectPath("/org/freedesktop/systemd1")
)

// override is the drop-in by which logind is told to wait as long as we need.
const (
	override       = "99-mote.conf"
	defaultConfDir = "/etc/systemd/logind.conf.d"
)

// bus is a connection to logind.
type bus struct {
	conn    *dbus.Conn
	confDir string
	signals chan *dbus.Signal
}

func dial(ctx context.Context, address, confDir string) (*bus, error) {
	conn, err := dbus.Connect(address, dbus.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("no D-Bus at %s: %w", address, err)
	}
	b := &bus{conn: conn, confDir: confDir, signals: make(chan *dbus.Signal, 8)}
	conn.Signal(b.signals) // closed with the connection
	err = conn.AddMatchSignalContext(ctx, dbus.WithMatchInterface(login1Manager), dbus.WithMatchMember("PrepareForShutdown"), dbus.WithMatchObjectPath(login1Path))
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("follow shutdowns: %w", err)
	}
	return b, nil
}

func (b *bus) manager() dbus.BusObject { return b.conn.Object(login1, login1Path) }

// property reads one of logind's.
func property[T any](b *bus, name string) (T, error) {
	var zero T
	v, err := b.manager().GetProperty(login1Manager + "." + name)
	if err != nil {
		return zero, fmt.Errorf("logind: %w", err)
	}
	out, ok := v.Value().(T)
	if !ok {
		return zero, fmt.Errorf("logind: %s is a %T", name, v.Value())
	}
	return out, nil
}

// allow makes logind wait for us as long as we need: if it doesn't yet, through a drop-in of its configuration.
func (b *bus) allow(ctx context.Context, need time.Duration) error {
	most, err := property[uint64](b, "InhibitDelayMaxUSec")
	if err != nil || time.Duration(most)*time.Microsecond >= need {
		return err
	}
	if err := os.MkdirAll(b.confDir, 0o755); err != nil {
		return fmt.Errorf("logind's configuration: %w", err)
	}
	path := filepath.Join(b.confDir, override)
	text := fmt.Sprintf("# Written by the mote agent: see shutdownGracePeriod.\n[Login]\nInhibitDelayMaxSec=%d\n", int64((need+time.Second-1)/time.Second))
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return fmt.Errorf("logind's configuration: %w", err)
	}
	// SIGHUP makes logind read it. Nothing is said once it has: the property is asked for until it has changed.
	const hangup = int32(unix.SIGHUP)
	if err := b.conn.Object(systemd1, systemd1Path).CallWithContext(ctx, systemd1+".Manager.KillUnit", 0, "systemd-logind.service", "all", hangup).Err; err != nil {
		return fmt.Errorf("let logind read %s: %w", path, err)
	}
	for wait := 50 * time.Millisecond; wait < 5*time.Second; wait *= 2 {
		if most, err = property[uint64](b, "InhibitDelayMaxUSec"); err != nil || time.Duration(most)*time.Microsecond >= need {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
	return fmt.Errorf("logind waits for %v at most and doesn't take %v from %s: set InhibitDelayMaxSec in logind.conf", time.Duration(most)*time.Microsecond, need, path)
}

// inhibit delays shutdowns until the returned file is closed.
func (b *bus) inhibit(ctx context.Context) (*os.File, error) {
	var fd dbus.UnixFD
	err := b.manager().CallWithContext(ctx, login1Manager+".Inhibit", 0, "shutdown", "mote", "pods are to end in order", "delay").Store(&fd)
	if err != nil {
		return nil, fmt.Errorf("delay shutdowns: %w", err)
	}
	return os.NewFile(uintptr(fd), "inhibitor"), nil
}

var errGone = errors.New("the connection to D-Bus ended")

// next waits for the next word on a shutdown: it begins, or was called off.
func (b *bus) next(ctx context.Context) (begins bool, err error) {
	for {
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case s, ok := <-b.signals:
			if !ok {
				return false, errGone
			}
			if s.Name != login1Manager+".PrepareForShutdown" || len(s.Body) != 1 {
				continue
			}
			if begins, ok := s.Body[0].(bool); ok {
				return begins, nil
			}
		}
	}
}

// Cleanup takes the drop-in of logind's configuration away. Not found is success.
func Cleanup() error {
	if err := os.Remove(filepath.Join(defaultConfDir, override)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("logind's configuration: %w", err)
	}
	return nil
}
