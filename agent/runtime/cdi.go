package runtime

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"
)

// defaultCDIDirs are where vendors describe their devices; the later one wins.
var defaultCDIDirs = []string{"/etc/cdi", "/run/cdi"}

// injectCDI adds what the named CDI devices consist of: device nodes, mounts, environment, hooks. The descriptions are
// read at each start that names one: they're few, seldom wanted, and so never out of date.
func (s *Service) injectCDI(c *container, sp *specs.Spec) error {
	var names []string
	for _, d := range c.config.GetCDIDevices() {
		names = append(names, d.GetName())
	}
	if len(names) == 0 {
		return nil
	}
	registry, err := cdi.NewCache(cdi.WithAutoRefresh(false), cdi.WithSpecDirs(s.cfg.CDIDirs...))
	if err != nil {
		return fmt.Errorf("CDI registry %v: %w", s.cfg.CDIDirs, err)
	}
	missing, err := registry.InjectDevices(sp, names...)
	if err == nil {
		return nil
	}
	err = fmt.Errorf("CDI device injection failed: %w: %w", err, errInvalid)
	if len(missing) > 0 { // perhaps because of a broken file
		broken := registry.GetErrors()
		for _, path := range slices.Sorted(maps.Keys(broken)) {
			err = fmt.Errorf("%w; %s: %w", err, path, errors.Join(broken[path]...))
		}
	}
	return err
}
