package spec

import (
	"fmt"
	"strings"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// DefaultAppArmorProfile is the profile that RuntimeDefault means, where the administrator has loaded it.
const DefaultAppArmorProfile = "mote-default"

func profiles(out *specs.Spec, in Input, sc *cri.LinuxContainerSecurityContext) error {
	if err := applySeccomp(out, in, sc); err != nil {
		return err
	}
	out.Linux.MountLabel = in.Labels.Mount
	if !sc.GetPrivileged() { // else it stays in the runtime's domain
		out.Process.SelinuxLabel = in.Labels.Process
	}
	return applyAppArmor(out, in, sc)
}

func applySeccomp(out *specs.Spec, in Input, sc *cri.LinuxContainerSecurityContext) error {
	profile := sc.GetSeccomp()
	if profile == nil {
		profile = legacyProfile(sc.GetSeccompProfilePath())
	}
	if profile == nil || sc.GetPrivileged() {
		return nil
	}
	var err error
	switch profile.ProfileType {
	case cri.SecurityProfile_Unconfined:
		return nil
	case cri.SecurityProfile_RuntimeDefault:
		out.Linux.Seccomp, err = seccomp.GetDefaultProfile(out)
		if err != nil {
			return fmt.Errorf("default seccomp profile: %w", err)
		}
	case cri.SecurityProfile_Localhost:
		name := strings.TrimPrefix(profile.LocalhostRef, "localhost/")
		body, err := in.Host.ReadFile(name)
		if err != nil {
			return fmt.Errorf("seccomp profile %q: %w", name, err)
		}
		out.Linux.Seccomp, err = seccomp.LoadProfile(string(body), out)
		if err != nil {
			return fmt.Errorf("seccomp profile %q: %w", name, err)
		}
	default:
		return fmt.Errorf("unknown seccomp profile type %v", profile.ProfileType)
	}
	return nil
}

func legacyProfile(path string) *cri.SecurityProfile {
	switch {
	case path == "" || path == "unconfined":
		return nil
	case path == "runtime/default" || path == "docker/default":
		return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}
	default:
		return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: path}
	}
}

func applyAppArmor(out *specs.Spec, in Input, sc *cri.LinuxContainerSecurityContext) error {
	profile := sc.GetApparmor()
	if profile == nil {
		profile = legacyProfile(sc.GetApparmorProfile()) //nolint:staticcheck // old kubelets send nothing else
	}
	if profile == nil || profile.ProfileType == cri.SecurityProfile_Unconfined {
		return nil
	}
	if profile.ProfileType == cri.SecurityProfile_Localhost {
		if !in.Host.AppArmor {
			return fmt.Errorf("AppArmor profile %q: AppArmor is not enabled on this host", profile.LocalhostRef)
		}
		out.Process.ApparmorProfile = strings.TrimPrefix(profile.LocalhostRef, "localhost/")
		return nil
	}
	if in.Host.AppArmorDefault && !sc.GetPrivileged() {
		out.Process.ApparmorProfile = DefaultAppArmorProfile
	}
	return nil
}
