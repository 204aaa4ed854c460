// Package namespace makes the namespaces of sandboxes and keeps them alive by bind mounts, without a process in them.
//
// Reads:  nothing.
// Writes: bind mounts of namespaces at the paths it is given; sysctls inside them.
package namespace

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mote-edge/mote/agent/runtime/mounts"
)

// Pins are the paths that a sandbox's namespaces are kept alive at; an empty one means the host's namespace.
type Pins struct{ Net, IPC, UTS, User string }

// Config says what to make.
type Config struct {
	Pins
	Users    *Users // with Pins.User: who is who in it
	Hostname string
	Sysctls  map[string]string
}

func (p Pins) each() []pin {
	all := []pin{
		{p.User, "user", unix.CLONE_NEWUSER}, {p.Net, "net", unix.CLONE_NEWNET}, {p.IPC, "ipc", unix.CLONE_NEWIPC}, {p.UTS, "uts", unix.CLONE_NEWUTS},
	}
	asked := all[:0]
	for _, each := range all {
		if each.path != "" {
			asked = append(asked, each)
		}
	}
	return asked
}

type pin struct {
	path, kind string
	flag       int
}

// Make creates the namespaces whose path is set, prepares them and pins them.
func Make(c Config) error {
	result := make(chan error, 1)
	go func() {
		// The thread enters the new namespaces and is never unlocked: it ends with this goroutine.
		runtime.LockOSThread()
		result <- onThread(c)
	}()
	return <-result
}

func onThread(c Config) error {
	own := "/proc/thread-self/ns/"
	if c.User != "" {
		// The other namespaces must belong to the new user namespace, or its root could do nothing in them. A
		// process with threads can't enter one: a child is made in all of them together.
		pid, err := newChild(c.Pins, *c.Users)
		if err != nil {
			return err
		}
		defer endChild(pid)
		own = "/proc/" + strconv.Itoa(pid) + "/ns/"
		if err := enter(c.Pins, own); err != nil {
			return err
		}
	} else {
		flags := 0
		for _, each := range c.each() {
			flags |= each.flag
		}
		if err := unix.Unshare(flags); err != nil {
			return fmt.Errorf("create namespaces: %w", err)
		}
	}
	if c.UTS != "" && c.Hostname != "" {
		if err := unix.Sethostname([]byte(c.Hostname)); err != nil {
			return fmt.Errorf("set hostname %q: %w", c.Hostname, err)
		}
	}
	if c.Net != "" {
		if err := loopbackUp(); err != nil {
			return err
		}
	}
	for _, each := range c.each() {
		if err := pinAt(own+each.kind, each.path); err != nil {
			return err
		}
	}
	return writeSysctls(c)
}

// writeSysctls sets those of the network as the host's root, whose capability counts, and then the others: in a user
// namespace these are its own root's alone.
func writeSysctls(c Config) error {
	for name, value := range c.Sysctls {
		if ofNetwork(name) {
			if err := writeSysctl(name, value); err != nil {
				return err
			}
		}
	}
	if c.User != "" {
		if err := becomeRootOf(*c.Users); err != nil {
			return err
		}
	}
	for name, value := range c.Sysctls {
		if !ofNetwork(name) {
			if err := writeSysctl(name, value); err != nil {
				return err
			}
		}
	}
	return nil
}

func ofNetwork(path string) bool { return strings.HasPrefix(path, "net/") }

func pinAt(namespace, path string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return fmt.Errorf("pin namespace: %w", err)
	}
	_ = file.Close()
	if err := unix.Mount(namespace, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("pin namespace at %s: %w", path, err)
	}
	return nil
}

// Unpin lets a namespace go. An absent one is fine.
func Unpin(path string) error {
	if path == "" {
		return nil
	}
	if err := mounts.Detach(path); err != nil {
		return fmt.Errorf("unpin: %w", err)
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("bring loopback up: %w", err)
	}
	return nil
}
