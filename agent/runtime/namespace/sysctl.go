package namespace

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// ErrSysctl: a sysctl that a pod can't have.
var ErrSysctl = errors.New("invalid argument")

// writeSysctl accepts both separators: net.ipv4.x and net/ipv4/x.
func writeSysctl(name, value string) error {
	path := name
	if !strings.Contains(name, "/") {
		path = strings.ReplaceAll(name, ".", "/")
	}
	full := filepath.Join("/proc/sys", path)
	if !strings.HasPrefix(full, "/proc/sys/") {
		return fmt.Errorf("sysctl %q: %w", name, ErrSysctl)
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
			return fmt.Errorf("sysctl %q is not allowed with the host's network: %w", name, ErrSysctl)
		}
		return nil
	case strings.HasPrefix(name, "kernel.shm"), strings.HasPrefix(name, "kernel.msg"), name == "kernel.sem",
		strings.HasPrefix(name, "fs.mqueue."):
		if hostIPC {
			return fmt.Errorf("sysctl %q is not allowed with the host's IPC namespace: %w", name, ErrSysctl)
		}
		return nil
	}
	return fmt.Errorf("sysctl %q is not namespaced: %w", name, ErrSysctl)
}

// Sysctls adds what pods may rely on: unprivileged low ports and ping, as other runtimes set them.
func Sysctls(asked map[string]string, hostNet, hostIPC bool) (map[string]string, error) {
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
