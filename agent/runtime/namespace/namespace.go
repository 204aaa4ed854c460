// Package namespace makes the namespaces of sandboxes and keeps them alive by bind mounts, without a process in them.
//
// Reads:  nothing.
// Writes: bind mounts of namespaces at the paths it is given; sysctls inside them.
package namespace

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Pins are the paths that a sandbox's namespaces are kept alive at; an empty one means the host's namespace.
type Pins struct{ Net, IPC, UTS string }

// Make creates the namespaces whose path is set, prepares them and pins them.
func Make(p Pins, hostname string, sysctls map[string]string) error {
	result := make(chan error, 1)
	go func() {
		// The thread enters the new namespaces and is never unlocked: it ends with this goroutine.
		runtime.LockOSThread()
		result <- onThread(p, hostname, sysctls)
	}()
	return <-result
}

func onThread(p Pins, hostname string, sysctls map[string]string) error {
	flags := 0
	for _, each := range []struct {
		path string
		flag int
	}{{p.Net, unix.CLONE_NEWNET}, {p.IPC, unix.CLONE_NEWIPC}, {p.UTS, unix.CLONE_NEWUTS}} {
		if each.path != "" {
			flags |= each.flag
		}
	}
	if err := unix.Unshare(flags); err != nil {
		return fmt.Errorf("create namespaces: %w", err)
	}
	if p.UTS != "" && hostname != "" {
		if err := unix.Sethostname([]byte(hostname)); err != nil {
			return fmt.Errorf("set hostname %q: %w", hostname, err)
		}
	}
	if p.Net != "" {
		if err := loopbackUp(); err != nil {
			return err
		}
	}
	for name, value := range sysctls {
		if err := writeSysctl(name, value); err != nil {
			return err
		}
	}
	for _, each := range []struct{ path, kind string }{{p.Net, "net"}, {p.IPC, "ipc"}, {p.UTS, "uts"}} {
		if each.path == "" {
			continue
		}
		if err := pin("/proc/thread-self/ns/"+each.kind, each.path); err != nil {
			return err
		}
	}
	return nil
}

func pin(namespace, path string) error {
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
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err == nil {
			continue
		}
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break
		}
		return fmt.Errorf("unpin %s: %w", path, err)
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
