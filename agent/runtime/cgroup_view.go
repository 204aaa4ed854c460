package runtime

import (
	"cmp"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/cgroups"
	cgroupmanager "github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"github.com/mote-edge/mote/agent/runtime/reexec"
)

// hierarchies are cgroup v1's, by the names of their mounts, and the directories that containers' cgroups are below; looked for
// once. None if libcontainer makes no cgroups in one of them.
func hierarchies(v2 bool) (map[string]string, error) {
	if v2 {
		return nil, nil
	}
	mounts, err := cgroups.GetCgroupMounts(false)
	if err != nil {
		return nil, err
	}
	const probe = "/probe" // nothing is made
	manager, err := cgroupmanager.New(&cgroups.Cgroup{Path: probe, Resources: &cgroups.Resources{}})
	if err != nil {
		return nil, err
	}
	paths, roots := manager.GetPaths(), map[string]string{}
	for _, m := range mounts {
		at := ""
		for _, name := range m.Subsystems {
			at = cmp.Or(at, paths[name], paths[cgroups.CgroupNamePrefix+name])
		}
		root, below := strings.CutSuffix(at, probe)
		if !below {
			return nil, nil
		}
		roots[filepath.Base(m.Mountpoint)] = root
	}
	return roots, nil
}

// viewCgroups has a container's first step put its view of cgroup v1 together, instead of libcontainer. That needs to know the
// container's cgroup in every hierarchy; where it isn't known, or where mounts must reach the host, libcontainer does it.
func (s *Service) viewCgroups(id string, config *configs.Config) error {
	at := slices.IndexFunc(config.Mounts, func(m *configs.Mount) bool { return m.Device == "cgroup" })
	if at < 0 || len(s.hierarchies) == 0 || config.Cgroups == nil || !filepath.IsAbs(config.Cgroups.Path) || config.RootPropagation != 0 ||
		config.MountLabel != "" || config.Namespaces.Contains(configs.NEWUSER) || config.Namespaces.Contains(configs.NEWCGROUP) {
		return nil
	}
	m := *config.Mounts[at]
	view := reexec.View{Writable: m.Flags&unix.MS_RDONLY == 0, Sources: map[string]string{}}
	for name, root := range s.hierarchies {
		view.Sources[name] = filepath.Join(root, filepath.Clean(config.Cgroups.Path))
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
