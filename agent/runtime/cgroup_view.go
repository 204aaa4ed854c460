package runtime

import (
	"cmp"
	"path/filepath"
	"slices"

	"github.com/opencontainers/cgroups"
	cgroupmanager "github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"github.com/mote-edge/mote/agent/runtime/reexec"
)

// hierarchies are cgroup v1's mounts, looked for once.
func hierarchies(v2 bool) ([]cgroups.Mount, error) {
	if v2 {
		return nil, nil
	}
	return cgroups.GetCgroupMounts(false)
}

// viewCgroups has a container's first step put its view of cgroup v1 together, instead of libcontainer. That needs to know the
// container's cgroup in every hierarchy; where it isn't known, or where mounts must reach the host, libcontainer does it.
func (s *Service) viewCgroups(id string, config *configs.Config) error {
	at := slices.IndexFunc(config.Mounts, func(m *configs.Mount) bool { return m.Device == "cgroup" })
	if at < 0 || len(s.hierarchies) == 0 || config.RootPropagation != 0 || config.MountLabel != "" || config.Namespaces.Contains(configs.NEWUSER) ||
		config.Namespaces.Contains(configs.NEWCGROUP) {
		return nil
	}
	manager, err := cgroupmanager.New(config.Cgroups)
	if err != nil {
		return err
	}
	paths := manager.GetPaths()
	m := *config.Mounts[at]
	view := reexec.View{Writable: m.Flags&unix.MS_RDONLY == 0, Sources: map[string]string{}}
	for _, h := range s.hierarchies {
		source := ""
		for _, name := range h.Subsystems {
			source = cmp.Or(source, paths[name], paths[cgroups.CgroupNamePrefix+name])
		}
		if source == "" {
			return nil
		}
		view.Sources[filepath.Base(h.Mountpoint)] = source
	}
	dir := filepath.Dir(s.rootDir(id))
	if err := view.Write(dir); err != nil {
		return err
	}
	m.Device, m.Source, m.Flags = "bind", filepath.Join(dir, reexec.ViewDir), m.Flags|unix.MS_BIND|unix.MS_REC
	config.Mounts = slices.Clone(config.Mounts)
	config.Mounts[at] = &m
	return nil
}
