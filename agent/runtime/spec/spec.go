// Package spec turns CRI configurations into OCI runtime specifications. It decides and does nothing: what it needs to
// know of the host comes in as plain values.
//
// Reads:  seccomp profiles named by Localhost (through the Host's reader).
// Writes: nothing.
package spec

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Host is what this machine has, found out once at start.
type Host struct {
	Capabilities    []string // CAP_..., what the runtime itself may hand out
	CgroupV2        bool
	AppArmor        bool
	AppArmorDefault bool // the profile that RuntimeDefault means is loaded
	Swap            bool // the kernel accounts swap per cgroup
	MinOOMScoreAdj  int  // below this the kernel refuses (no CAP_SYS_RESOURCE)
	HugePageSizes   []string
	Controllers     map[string]bool
	Hostname        string
	ReadFile        func(path string) ([]byte, error)
}

// User is the identity that the container's process gets, looked up in its image.
type User struct {
	UID, GID uint32
	Groups   []uint32 // supplementary, the primary one included
}

// Namespaces are paths to join. An empty path means the host's, except that PID and mount default to new ones.
type Namespaces struct {
	Net, IPC, UTS, PID, User string
	HostPID                  bool
	UIDMappings, GIDMappings []specs.LinuxIDMapping
}

// Input is all that a container's specification follows from.
type Input struct {
	Host       Host
	Sandbox    *cri.PodSandboxConfig
	Container  *cri.ContainerConfig
	Image      ocispec.ImageConfig
	Rootfs     string
	User       User
	Namespaces Namespaces
	CgroupPath string
	Mounts     []Mount             // resolved volume mounts
	Devices    []specs.LinuxDevice // resolved devices, with Permissions
	DeviceMode map[string]string   // container path → cgroup permissions
	HostDevs   []specs.LinuxDevice // every device of the host, for privileged containers
	Files      Files
	Labels     Labels
}

// Labels are SELinux's; empty where there is none.
type Labels struct{ Process, Mount string }

// Files are the sandbox's own files, mounted unless the container brings its own.
type Files struct {
	ResolvConf, Hostname, Hosts, Shm string
}

// ErrNoCommand: neither the pod nor the image says what to run.
var ErrNoCommand = errors.New("no command specified: neither the container nor its image has one")

// Build makes the specification.
func Build(in Input) (*specs.Spec, error) {
	args, err := command(in.Container, in.Image)
	if err != nil {
		return nil, err
	}
	sc := in.Container.GetLinux().GetSecurityContext()
	out := &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: in.Rootfs, Readonly: sc.GetReadonlyRootfs()},
		Process: &specs.Process{
			Terminal:        in.Container.Tty,
			Args:            args,
			Env:             environment(in),
			Cwd:             workingDir(in.Container, in.Image),
			User:            specs.User{UID: in.User.UID, GID: in.User.GID, AdditionalGids: in.User.Groups},
			NoNewPrivileges: sc.GetNoNewPrivs(),
		},
		Linux: &specs.Linux{
			CgroupsPath: in.CgroupPath,
			Namespaces:  namespaces(in, sc.GetPrivileged()),
			UIDMappings: in.Namespaces.UIDMappings,
			GIDMappings: in.Namespaces.GIDMappings,
		},
	}
	if out.Process.Capabilities, err = capabilities(sc, in.Host.Capabilities); err != nil {
		return nil, err
	}
	if !sc.GetPrivileged() {
		out.Linux.MaskedPaths = sc.GetMaskedPaths()
		out.Linux.ReadonlyPaths = sc.GetReadonlyPaths()
	}
	if out.Mounts, out.Linux.RootfsPropagation, err = mounts(in, sc.GetPrivileged()); err != nil {
		return nil, err
	}
	resources(out, in)
	devices(out, in, sc.GetPrivileged())
	if err := profiles(out, in, sc); err != nil {
		return nil, err
	}
	return out, nil
}

// command follows the table in the Kubernetes documentation "Define a Command and Arguments for a Container".
func command(c *cri.ContainerConfig, image ocispec.ImageConfig) ([]string, error) {
	entry, args := c.Command, c.Args
	if len(entry) == 0 {
		entry = image.Entrypoint
		if len(args) == 0 {
			args = image.Cmd
		}
	}
	all := slices.Concat(entry, args)
	if len(all) == 0 {
		return nil, ErrNoCommand
	}
	return all, nil
}

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func environment(in Input) []string {
	var env []string
	at := map[string]int{}
	set := func(key, value string) {
		if i, known := at[key]; known {
			env[i] = key + "=" + value
			return
		}
		at[key] = len(env)
		env = append(env, key+"="+value)
	}
	key, value, _ := strings.Cut(defaultPath, "=")
	set(key, value)
	hostname := in.Sandbox.GetHostname()
	if hostname == "" {
		hostname = in.Host.Hostname
	}
	set("HOSTNAME", hostname)
	if in.Container.Tty {
		set("TERM", "xterm")
	}
	for _, pair := range in.Image.Env {
		if key, value, ok := strings.Cut(pair, "="); ok {
			set(key, value)
		}
	}
	for _, e := range in.Container.Envs {
		set(e.Key, string(e.Value))
	}
	return env
}

func workingDir(c *cri.ContainerConfig, image ocispec.ImageConfig) string {
	dir := c.WorkingDir
	if dir == "" {
		dir = image.WorkingDir
	}
	return path.Join("/", dir)
}

func namespaces(in Input, privileged bool) []specs.LinuxNamespace {
	out := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	join := func(kind specs.LinuxNamespaceType, path string) {
		if path != "" {
			out = append(out, specs.LinuxNamespace{Type: kind, Path: path})
		}
	}
	join(specs.UserNamespace, in.Namespaces.User)
	join(specs.NetworkNamespace, in.Namespaces.Net)
	join(specs.IPCNamespace, in.Namespaces.IPC)
	join(specs.UTSNamespace, in.Namespaces.UTS)
	if in.Namespaces.PID != "" {
		join(specs.PIDNamespace, in.Namespaces.PID)
	} else if !in.Namespaces.HostPID {
		out = append(out, specs.LinuxNamespace{Type: specs.PIDNamespace})
	}
	// With cgroup v1 each hierarchy would be one more mount of its own; containers see their own subtree either way.
	if in.Host.CgroupV2 && !privileged {
		out = append(out, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return out
}

// ParentPath joins a sandbox's cgroup parent and an ID.
func ParentPath(sandbox *cri.PodSandboxConfig, id string) (string, error) {
	parent := sandbox.GetLinux().GetCgroupParent()
	if strings.HasSuffix(parent, ".slice") {
		return "", fmt.Errorf("cgroup parent %q is a systemd slice: this runtime uses the cgroupfs driver", parent)
	}
	if parent == "" {
		parent = "/mote-pods"
	}
	return path.Join("/", parent, id), nil
}
