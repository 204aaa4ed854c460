package spec

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Mount is a volume whose source has been resolved to an existing host path without symlinks.
type Mount struct {
	*cri.Mount
	Source       string
	SourceShared bool // the source's mount propagates to peers (Bidirectional needs it)
	SourceSlave  bool
	Mapped       bool // its files belong to the container's users: an id-mapped mount
}

// Mounts are the mounts of the specification that Build makes, in their order.
func Mounts(in Input) ([]specs.Mount, error) {
	out, _, err := mounts(in, in.Container.GetLinux().GetSecurityContext().GetPrivileged())
	return out, err
}

func mounts(in Input, privileged bool) ([]specs.Mount, string, error) {
	out := systemMounts(in, privileged)
	taken := map[string]bool{}
	for _, m := range in.Mounts {
		taken[path.Clean(m.ContainerPath)] = true
	}
	out = slices.DeleteFunc(out, func(m specs.Mount) bool { return taken[m.Destination] })

	// Files of the sandbox; read-only with a read-only root, as docker and its heirs do it.
	access := "rw"
	if in.Container.GetLinux().GetSecurityContext().GetReadonlyRootfs() {
		access = "ro"
	}
	for _, f := range []struct{ target, source string }{
		{"/etc/resolv.conf", in.Files.ResolvConf}, {"/etc/hostname", in.Files.Hostname}, {"/etc/hosts", in.Files.Hosts},
	} {
		if f.source != "" && !taken[f.target] {
			out = append(out, bind(f.source, f.target, "rbind", "rprivate", access))
		}
	}
	if in.Files.Shm != "" && !taken["/dev/shm"] {
		out = append(out, bind(in.Files.Shm, "/dev/shm", "rbind", "rprivate", "rw"))
	}

	propagation := ""
	volumes := slices.Clone(in.Mounts)
	// Parents before children, whatever the order in the pod.
	slices.SortStableFunc(volumes, func(a, b Mount) int { return depth(a.ContainerPath) - depth(b.ContainerPath) })
	for _, v := range volumes {
		m, root, err := volume(v, propagation)
		if err != nil {
			return nil, "", err
		}
		propagation = root
		out = append(out, m)
	}
	return out, propagation, nil
}

func volume(v Mount, root string) (specs.Mount, string, error) {
	options := []string{"rbind"}
	if v.Mapped {
		options = append(options, "idmap") // by the container's user namespace
	}
	switch v.Propagation {
	case cri.MountPropagation_PROPAGATION_PRIVATE:
		options = append(options, "rprivate")
	case cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
		if !v.SourceShared && !v.SourceSlave {
			return specs.Mount{}, "", fmt.Errorf("path %q is mounted on a mount that is neither shared nor slave: HostToContainer propagation is impossible (make it so with: mount --make-rshared)", v.Source)
		}
		options = append(options, "rslave")
		if root != "rshared" {
			root = "rslave"
		}
	case cri.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		if !v.SourceShared {
			return specs.Mount{}, "", fmt.Errorf("path %q is mounted on a mount that is not shared: Bidirectional propagation is impossible (make it so with: mount --make-rshared)", v.Source)
		}
		options = append(options, "rshared")
		root = "rshared"
	default:
		return specs.Mount{}, "", fmt.Errorf("unknown mount propagation %v of %q", v.Propagation, v.ContainerPath)
	}
	switch {
	case v.RecursiveReadOnly && !v.Readonly:
		return specs.Mount{}, "", fmt.Errorf("mount %q: recursive_read_only needs readonly", v.ContainerPath)
	case v.RecursiveReadOnly && v.Propagation != cri.MountPropagation_PROPAGATION_PRIVATE:
		return specs.Mount{}, "", fmt.Errorf("mount %q: recursive_read_only needs private propagation", v.ContainerPath)
	case v.RecursiveReadOnly:
		options = append(options, "rro")
	case v.Readonly:
		options = append(options, "ro")
	default:
		options = append(options, "rw")
	}
	for _, o := range v.MountOptions {
		if !slices.Contains([]string{"noexec", "nosuid", "nodev", "exec", "suid", "dev", "noatime", "relatime", "nodiratime"}, o) {
			return specs.Mount{}, "", fmt.Errorf("mount %q: option %q is not supported", v.ContainerPath, o)
		}
		options = append(options, o)
	}
	return bind(v.Source, path.Clean(v.ContainerPath), options...), root, nil
}

func bind(source, target string, options ...string) specs.Mount {
	return specs.Mount{Type: "bind", Source: source, Destination: target, Options: options}
}

func depth(p string) int {
	p = path.Clean("/" + p)
	if p == "/" {
		return 0
	}
	return strings.Count(p, "/")
}

func systemMounts(in Input, privileged bool) []specs.Mount {
	sysAccess := "ro"
	if privileged {
		sysAccess = "rw"
	}
	out := []specs.Mount{
		{Type: "proc", Source: "proc", Destination: "/proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Type: "tmpfs", Source: "tmpfs", Destination: "/dev", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Type: "devpts", Source: "devpts", Destination: "/dev/pts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Type: "mqueue", Source: "mqueue", Destination: "/dev/mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Type: "sysfs", Source: "sysfs", Destination: "/sys", Options: []string{"nosuid", "noexec", "nodev", sysAccess}},
		{Type: "cgroup", Source: "cgroup", Destination: "/sys/fs/cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", sysAccess}},
	}
	if in.Namespaces.User != "" && in.Namespaces.Net == "" {
		// A user namespace may not mount sysfs for a network namespace that it doesn't own.
		out[4] = bind("/sys", "/sys", "rbind", "nosuid", "noexec", "nodev", "ro")
	}
	return out
}
