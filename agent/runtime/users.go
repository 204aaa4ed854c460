package runtime

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/selinux/go-selinux/label"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/runtime/image"
	"github.com/mote-edge/mote/agent/runtime/mounts"
	"github.com/mote-edge/mote/agent/runtime/namespace"
)

// ownUsers tells whether a sandbox has a user namespace of its own.
func ownUsers(options *cri.NamespaceOption) bool {
	users := options.GetUsernsOptions()
	return users != nil && users.Mode != cri.NamespaceMode_NODE
}

// usersOf is a sandbox's mapping of users; nil with the host's user namespace.
func usersOf(config *cri.PodSandboxConfig) (*namespace.Users, error) {
	options := nsOptions(config)
	if !ownUsers(options) {
		return nil, nil
	}
	asked := options.GetUsernsOptions()
	if asked.Mode != cri.NamespaceMode_POD {
		return nil, fmt.Errorf("user namespace mode %v is not supported: %w", asked.Mode, errInvalid)
	}
	if options.GetPid() == cri.NamespaceMode_NODE || options.GetIpc() == cri.NamespaceMode_NODE {
		return nil, fmt.Errorf("a user namespace doesn't go with the host's PID or IPC namespace: %w", errInvalid)
	}
	uid, err := oneMapping("uid", asked.Uids)
	if err != nil {
		return nil, err
	}
	gid, err := oneMapping("gid", asked.Gids)
	if err != nil {
		return nil, err
	}
	if uid.Length != gid.Length {
		return nil, fmt.Errorf("uid and gid mappings differ in length: %w", errInvalid)
	}
	return &namespace.Users{UID: uid.HostId, GID: gid.HostId, Length: uid.Length}, nil
}

func oneMapping(kind string, mappings []*cri.IDMapping) (*cri.IDMapping, error) {
	if len(mappings) != 1 {
		return nil, fmt.Errorf("a user namespace needs exactly one %s mapping, not %d: %w", kind, len(mappings), errInvalid)
	}
	m := mappings[0]
	if m.ContainerId != 0 || m.HostId == 0 || m.Length == 0 || uint64(m.HostId)+uint64(m.Length) > 1<<32 {
		return nil, fmt.Errorf("%s mapping %d to %d, length %d: it must begin with the container's 0 and leave out the host's: %w", kind, m.ContainerId, m.HostId, m.Length, errInvalid)
	}
	return m, nil
}

// sameUsers tells whether a mount's mapping is the sandbox's, which is the only one that mounts can have.
func sameUsers(users *namespace.Users, m *cri.Mount) bool {
	same := func(mappings []*cri.IDMapping, host uint32) bool {
		return len(mappings) == 1 && mappings[0].ContainerId == 0 && mappings[0].HostId == host && mappings[0].Length == users.Length
	}
	return users != nil && same(m.UidMappings, users.UID) && same(m.GidMappings, users.GID)
}

// mountRoot mounts a container's root filesystem and returns where. Only the root of a user namespace, which is nobody special
// on the host, may walk there: to others it would open what is in the container, setuid programs included.
func (s *Service) mountRoot(sb *sandbox, c *container) (string, error) {
	users, err := usersOf(sb.config)
	if err != nil {
		return "", err
	}
	mode := os.FileMode(0o700)
	if users != nil {
		mode = 0o711
	}
	target := s.rootDir(c.rec.ID)
	if err := os.MkdirAll(target, mode); err != nil {
		return "", fmt.Errorf("root filesystem: %w", err)
	}
	if users != nil {
		return target, s.cfg.Images.MountMapped(c.rec.ID, target, c.rec.MountLabel, mapping(sb, users))
	}
	return target, s.cfg.Images.Mount(c.rec.ID, target, c.rec.MountLabel)
}

// rootDir is where a container's root filesystem is mounted.
func (s *Service) rootDir(id string) string { return filepath.Join(s.cfg.RunDir, "ctr", id, "rootfs") }

func mapping(sb *sandbox, users *namespace.Users) image.Mapping {
	return image.Mapping{Namespace: sb.rec.UserPath, UID: int(users.UID), GID: int(users.GID)}
}

func (s *Service) unmountRoot(id string) error { return mounts.Detach(s.rootDir(id)) }

// removeRoot takes a container's root filesystem away, writable layer and all. None is success.
func (s *Service) removeRoot(id string) error {
	if err := s.unmountRoot(id); err != nil {
		return err
	}
	if err := os.Remove(s.rootDir(id)); err == nil {
		_ = os.Remove(filepath.Dir(s.rootDir(id))) // unless something else is in it
	}
	return s.cfg.Images.RemoveSnapshot(id)
}

// userNamespaces tries what a pod with users of its own needs, once: a namespace, and a root filesystem mapped to it.
func (s *Service) userNamespaces() bool {
	s.usersOnce.Do(func() {
		const some = 1 << 16
		file, err := namespace.NewUsers(namespace.Users{UID: some, GID: some, Length: some})
		if err == nil {
			defer file.Close()
			err = openToAll(filepath.Join(s.cfg.RunDir, "ctr"))
		}
		if err == nil {
			path := fmt.Sprintf("/proc/self/fd/%d", file.Fd())
			err = s.cfg.Images.TryMapped(image.Mapping{Namespace: path, UID: some, GID: some})
		}
		if err != nil {
			s.log.Info("pods can't have user namespaces (hostUsers: false) on this host", "err", err)
		}
		s.usersWork = err == nil
	})
	return s.usersWork
}

// openToAll tells whether everybody may walk to a directory: the root of a user namespace is nobody special on the
// host, and its root filesystem is below.
func openToAll(dir string) error {
	for ; dir != "/"; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if info.Mode().Perm()&1 == 0 {
			return fmt.Errorf("directory %s is closed to other users: chmod o+x it", dir)
		}
	}
	return nil
}

// usersState is what the runtime found out about user namespaces.
type usersState struct {
	usersOnce sync.Once
	usersWork bool
}

// convert is libcontainer's reading of a specification. Of a user namespace that it is told the path of it would learn the
// mappings by forking this process, threads and all; here they are known.
func convert(id string, sp *specs.Spec) (*configs.Config, error) {
	plain, path := *sp, ""
	linux := *sp.Linux
	plain.Linux, linux.Namespaces = &linux, slices.Clone(linux.Namespaces)
	for i := range linux.Namespaces {
		if ns := &linux.Namespaces[i]; ns.Type == specs.UserNamespace {
			path, ns.Path = ns.Path, ""
		}
	}
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{CgroupName: id, Spec: &plain})
	if err != nil || path == "" {
		return config, err
	}
	config.Namespaces.Add(configs.NEWUSER, path)
	for _, m := range config.Mounts {
		if m.IDMapping != nil {
			m.IDMapping.UserNSPath, m.IDMapping.UIDMappings, m.IDMapping.GIDMappings = path, nil, nil
		}
	}
	return config, nil
}

// ociMapping is one of a user namespace's mappings.
func ociMapping(host, length uint32) []specs.LinuxIDMapping {
	return []specs.LinuxIDMapping{{ContainerID: 0, HostID: host, Size: length}}
}

// giveTo hands a sandbox's file to the root of its user namespace.
func giveTo(users *namespace.Users, path string) error {
	if users == nil {
		return nil
	}
	return os.Lchown(path, int(users.UID), int(users.GID))
}

// mountShm makes a pod's shared memory.
func mountShm(target string, users *namespace.Users, mountLabel string) error {
	if err := os.Mkdir(target, 0o700); err != nil {
		return fmt.Errorf("shared memory: %w", err)
	}
	options := "mode=1777,size=67108864"
	if users != nil {
		options += fmt.Sprintf(",uid=%d,gid=%d", users.UID, users.GID)
	}
	if err := unix.Mount("shm", target, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, label.FormatMountLabel(options, mountLabel)); err != nil {
		_ = os.Remove(target)
		return fmt.Errorf("mount shared memory: %w", err)
	}
	return nil
}
