package criconfig

import (
	"fmt"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The paths of /proc and /sys that containers may not see or write, by procMount Default.
var (
	maskedPaths = []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
		"/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// ImageUser is the user that the image's config names.
type ImageUser struct {
	UID  *int64
	Name string
}

func or[T any](choices ...*T) *T {
	for _, c := range choices {
		if c != nil {
			return c
		}
	}
	return nil
}

// contexts returns both security contexts, never nil.
func contexts(pod *corev1.Pod, c *corev1.Container) (*corev1.PodSecurityContext, *corev1.SecurityContext) {
	p, s := &corev1.PodSecurityContext{}, &corev1.SecurityContext{}
	if pod.Spec.SecurityContext != nil {
		p = pod.Spec.SecurityContext
	}
	if c != nil && c.SecurityContext != nil {
		s = c.SecurityContext
	}
	return p, s
}

// CheckNonRoot applies runAsNonRoot to the user that the container would run as.
func CheckNonRoot(pod *corev1.Pod, c *corev1.Container, image ImageUser) error {
	p, s := contexts(pod, c)
	if non := or(s.RunAsNonRoot, p.RunAsNonRoot); non == nil || !*non {
		return nil
	}
	where := fmt.Sprintf("(pod: %q, container: %s)", podRef(pod), c.Name)
	switch user := or(s.RunAsUser, p.RunAsUser); {
	case user != nil && *user == 0:
		return fmt.Errorf("container's runAsUser breaks non-root policy %s", where)
	case user != nil:
		return nil
	case image.UID != nil && *image.UID == 0, image.UID == nil && image.Name == "":
		return fmt.Errorf("container has runAsNonRoot and image will run as root %s", where)
	case image.UID == nil:
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root %s", image.Name, where)
	}
	return nil
}

// podRef is how messages name a pod: name_namespace(uid).
func podRef(pod *corev1.Pod) string {
	return fmt.Sprintf("%s_%s(%s)", pod.Name, pod.Namespace, pod.UID)
}

func namespaces(pod *corev1.Pod, target string, users *runtimeapi.UserNamespace) *runtimeapi.NamespaceOption {
	n := &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER, UsernsOptions: users}
	if pod.Spec.HostNetwork {
		n.Network = runtimeapi.NamespaceMode_NODE
	}
	if pod.Spec.HostIPC {
		n.Ipc = runtimeapi.NamespaceMode_NODE
	}
	switch share := pod.Spec.ShareProcessNamespace; {
	case pod.Spec.HostPID:
		n.Pid = runtimeapi.NamespaceMode_NODE
	case share != nil && *share:
		n.Pid = runtimeapi.NamespaceMode_POD
	}
	if target != "" {
		n.Pid, n.TargetId = runtimeapi.NamespaceMode_TARGET, target
	}
	return n
}

func seccomp(root string, profiles ...*corev1.SeccompProfile) *runtimeapi.SecurityProfile {
	p := or(profiles...)
	if p == nil {
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
	}
	switch p.Type {
	case corev1.SeccompProfileTypeRuntimeDefault:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	case corev1.SeccompProfileTypeLocalhost:
		name := ""
		if p.LocalhostProfile != nil {
			name = filepath.Join(root, filepath.Join("/", *p.LocalhostProfile)) // no way out by ".."
		}
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: name}
	}
	return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
}

func apparmor(profiles ...*corev1.AppArmorProfile) *runtimeapi.SecurityProfile {
	p := or(profiles...)
	if p == nil {
		return nil
	}
	switch p.Type {
	case corev1.AppArmorProfileTypeRuntimeDefault:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	case corev1.AppArmorProfileTypeLocalhost:
		name := ""
		if p.LocalhostProfile != nil {
			name = *p.LocalhostProfile
		}
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: name}
	}
	return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
}

func selinux(options ...*corev1.SELinuxOptions) *runtimeapi.SELinuxOption {
	o := or(options...)
	if o == nil {
		return nil
	}
	return &runtimeapi.SELinuxOption{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}
}

func groups(p *corev1.PodSecurityContext) []int64 {
	out := slices.Clone(p.SupplementalGroups)
	if p.FSGroup != nil {
		out = append(out, *p.FSGroup)
	}
	return out
}

func groupsPolicy(p *corev1.PodSecurityContext) runtimeapi.SupplementalGroupsPolicy {
	if p.SupplementalGroupsPolicy != nil && *p.SupplementalGroupsPolicy == corev1.SupplementalGroupsPolicyStrict {
		return runtimeapi.SupplementalGroupsPolicy_Strict
	}
	return runtimeapi.SupplementalGroupsPolicy_Merge
}

func int64Value(v *int64) *runtimeapi.Int64Value {
	if v == nil {
		return nil
	}
	return &runtimeapi.Int64Value{Value: *v}
}

// checkProcMount refuses what the API server refuses too, for static pods: /proc without masks shows the host's kernel to
// whoever is the host's root.
func checkProcMount(c *corev1.Container, users *runtimeapi.UserNamespace) error {
	if s := c.SecurityContext; users == nil && s != nil && s.ProcMount != nil && *s.ProcMount == corev1.UnmaskedProcMount && !isTrue(s.Privileged) {
		return fmt.Errorf("procMount %s of container %q needs a user namespace: set hostUsers to false", corev1.UnmaskedProcMount, c.Name)
	}
	return nil
}

func isTrue(b *bool) bool { return b != nil && *b }

// security is the container's effective security context.
func security(in ContainerInput) *runtimeapi.LinuxContainerSecurityContext {
	p, s := contexts(in.Pod, in.Container)
	out := &runtimeapi.LinuxContainerSecurityContext{
		Privileged:               isTrue(s.Privileged),
		NamespaceOptions:         namespaces(in.Pod, in.Target, in.Users),
		SelinuxOptions:           selinux(s.SELinuxOptions, p.SELinuxOptions),
		RunAsUser:                int64Value(or(s.RunAsUser, p.RunAsUser)),
		RunAsGroup:               int64Value(or(s.RunAsGroup, p.RunAsGroup)),
		ReadonlyRootfs:           isTrue(s.ReadOnlyRootFilesystem),
		SupplementalGroups:       groups(p),
		SupplementalGroupsPolicy: groupsPolicy(p),
		NoNewPrivs:               s.AllowPrivilegeEscalation != nil && !*s.AllowPrivilegeEscalation,
		Seccomp:                  seccomp(in.SeccompRoot, s.SeccompProfile, p.SeccompProfile, in.Tuning.seccompDefault()),
		Apparmor:                 apparmor(s.AppArmorProfile, annotatedProfile(in.Pod, in.Container.Name), p.AppArmorProfile),
	}
	if out.RunAsUser == nil && in.ImageUser.Name == "" { // the runtime resolves names in the container's passwd
		out.RunAsUser = int64Value(in.ImageUser.UID)
	}
	if out.RunAsUser == nil {
		out.RunAsUsername = in.ImageUser.Name
	}
	if c := s.Capabilities; c != nil {
		out.Capabilities = &runtimeapi.Capability{}
		for _, a := range c.Add {
			out.Capabilities.AddCapabilities = append(out.Capabilities.AddCapabilities, string(a))
		}
		for _, d := range c.Drop {
			out.Capabilities.DropCapabilities = append(out.Capabilities.DropCapabilities, string(d))
		}
	}
	if s.ProcMount == nil || *s.ProcMount == corev1.DefaultProcMount {
		out.MaskedPaths, out.ReadonlyPaths = maskedPaths, readonlyPaths
	}
	return out
}
