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

// writeSysctl sets a sysctl by its path below /proc/sys.
func writeSysctl(path, value string) error {
	if !filepath.IsLocal(path) {
		return fmt.Errorf("sysctl %q: %w", path, ErrSysctl)
	}
	if err := os.WriteFile(filepath.Join("/proc/sys", path), []byte(value), 0); err != nil {
		return fmt.Errorf("sysctl %q: %w", path, err)
	}
	return nil
}

// pathOf takes both spellings as sysctl(8) does: what separates first separates throughout, and the other stands for it in
// a name. net.ipv4.conf.eth0/1.forwarding is net/ipv4/conf/eth0.1/forwarding.
func pathOf(name string) (string, error) {
	path := name
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '.' {
		path = strings.NewReplacer(".", "/", "/", ".").Replace(name)
	}
	if !filepath.IsLocal(path) || filepath.Clean(path) != path {
		return "", fmt.Errorf("sysctl %q is no name of one: %w", name, ErrSysctl)
	}
	return path, nil
}

// allowed tells whether a sysctl belongs to the pod's own namespaces; others would change the host.
func allowed(path string, hostNet, hostIPC bool) error {
	switch {
	case ofNetwork(path):
		if hostNet {
			return fmt.Errorf("sysctl %q is not allowed with the host's network: %w", path, ErrSysctl)
		}
		return nil
	case strings.HasPrefix(path, "kernel/shm"), strings.HasPrefix(path, "kernel/msg"), path == "kernel/sem",
		strings.HasPrefix(path, "fs/mqueue/"):
		if hostIPC {
			return fmt.Errorf("sysctl %q is not allowed with the host's IPC namespace: %w", path, ErrSysctl)
		}
		return nil
	}
	return fmt.Errorf("sysctl %q is not namespaced: %w", path, ErrSysctl)
}

// Sysctls returns values by path, with what pods may rely on: unprivileged low ports and ping, as other runtimes set them.
func Sysctls(asked map[string]string, hostNet, hostIPC bool) (map[string]string, error) {
	all := map[string]string{}
	if !hostNet {
		all["net/ipv4/ip_unprivileged_port_start"] = "0"
		all["net/ipv4/ping_group_range"] = "0 2147483647"
	}
	for name, value := range asked {
		path, err := pathOf(name)
		if err != nil {
			return nil, err
		}
		if err := allowed(path, hostNet, hostIPC); err != nil {
			return nil, err
		}
		all[path] = value
	}
	return all, nil
}
