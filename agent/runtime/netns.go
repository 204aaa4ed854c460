package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// pins are the bind mounts that keep a sandbox's namespaces alive without a process in them.
type pins struct{ net, ipc, uts string }

// makeNamespaces creates the namespaces whose path is set, prepares them and pins them.
func makeNamespaces(p pins, hostname string, sysctls map[string]string) error {
	result := make(chan error, 1)
	go func() {
		// The thread enters the new namespaces and is never unlocked: it ends with this goroutine.
		runtime.LockOSThread()
		result <- namespacesOnThread(p, hostname, sysctls)
	}()
	return <-result
}

func namespacesOnThread(p pins, hostname string, sysctls map[string]string) error {
	flags := 0
	for _, each := range []struct {
		path string
		flag int
	}{{p.net, unix.CLONE_NEWNET}, {p.ipc, unix.CLONE_NEWIPC}, {p.uts, unix.CLONE_NEWUTS}} {
		if each.path != "" {
			flags |= each.flag
		}
	}
	if err := unix.Unshare(flags); err != nil {
		return fmt.Errorf("create namespaces: %w", err)
	}
	if p.uts != "" && hostname != "" {
		if err := unix.Sethostname([]byte(hostname)); err != nil {
			return fmt.Errorf("set hostname %q: %w", hostname, err)
		}
	}
	if p.net != "" {
		if err := loopbackUp(); err != nil {
			return err
		}
	}
	for name, value := range sysctls {
		if err := writeSysctl(name, value); err != nil {
			return err
		}
	}
	for _, each := range []struct{ path, kind string }{{p.net, "net"}, {p.ipc, "ipc"}, {p.uts, "uts"}} {
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

// unpin lets a namespace go. An absent one is fine.
func unpin(path string) error {
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

// writeSysctl accepts both separators: net.ipv4.x and net/ipv4/x.
func writeSysctl(name, value string) error {
	path := name
	if !strings.Contains(name, "/") {
		path = strings.ReplaceAll(name, ".", "/")
	}
	full := filepath.Join("/proc/sys", path)
	if !strings.HasPrefix(full, "/proc/sys/") {
		return fmt.Errorf("sysctl %q: %w", name, errInvalid)
	}
	if err := os.WriteFile(full, []byte(value), 0); err != nil {
		return fmt.Errorf("sysctl %q: %w", name, err)
	}
	return nil
}

// namespacedSysctl reports whether a sysctl belongs to the pod's own namespaces; others would change the host.
func namespacedSysctl(name string, hostNet, hostIPC bool) error {
	name = strings.ReplaceAll(name, "/", ".")
	switch {
	case strings.HasPrefix(name, "net."):
		if hostNet {
			return fmt.Errorf("sysctl %q is not allowed with the host's network: %w", name, errInvalid)
		}
		return nil
	case strings.HasPrefix(name, "kernel.shm"), strings.HasPrefix(name, "kernel.msg"), name == "kernel.sem",
		strings.HasPrefix(name, "fs.mqueue."):
		if hostIPC {
			return fmt.Errorf("sysctl %q is not allowed with the host's IPC namespace: %w", name, errInvalid)
		}
		return nil
	}
	return fmt.Errorf("sysctl %q is not namespaced: %w", name, errInvalid)
}

// sysctlsFor adds what pods may rely on: unprivileged low ports and ping, as other runtimes set them.
func sysctlsFor(asked map[string]string, hostNet, hostIPC bool) (map[string]string, error) {
	all := map[string]string{}
	if !hostNet {
		all["net.ipv4.ip_unprivileged_port_start"] = "0"
		all["net.ipv4.ping_group_range"] = "0 2147483647"
	}
	for name, value := range asked {
		if err := namespacedSysctl(name, hostNet, hostIPC); err != nil {
			return nil, err
		}
		all[strings.ReplaceAll(name, "/", ".")] = value
	}
	return all, nil
}
