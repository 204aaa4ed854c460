package runtime

import (
	"errors"
	"fmt"
	"os/exec"

	"github.com/moby/profiles/apparmor"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/mote-edge/mote/agent/runtime/spec"
)

// loadAppArmor has the kernel know the profile that RuntimeDefault means, where there is AppArmor. One that the
// administrator has loaded under this name stands.
func (s *Service) loadAppArmor() {
	if !s.host.AppArmor || s.host.AppArmorDefault {
		return
	}
	err := apparmor.InstallDefault(spec.DefaultAppArmorProfile)
	if errors.Is(err, exec.ErrNotFound) {
		err = fmt.Errorf("%w: install the package apparmor", err)
	}
	if err != nil {
		s.log.Warn("AppArmor's RuntimeDefault confines nothing", "profile", spec.DefaultAppArmorProfile, "err", err)
		return
	}
	s.host.AppArmorDefault = true
}

// checkAppArmor refuses a profile that the kernel doesn't know before a process is made for it.
func checkAppArmor(sp *specs.Spec) error {
	name := sp.Process.ApparmorProfile
	if name == "" {
		return nil
	}
	loaded, err := apparmor.IsLoaded(name)
	if err != nil {
		return fmt.Errorf("look for AppArmor profile %q: %w", name, err)
	}
	if !loaded {
		return fmt.Errorf("apparmor profile not found %s (load it with apparmor_parser): %w", name, errInvalid)
	}
	return nil
}
