package spec

import (
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// defaultCapabilities is the set that container runtimes have agreed on.
var defaultCapabilities = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
	"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

func capabilityName(name string) string {
	name = strings.ToUpper(name)
	if !strings.HasPrefix(name, "CAP_") {
		name = "CAP_" + name
	}
	return name
}

func capabilities(sc *cri.LinuxContainerSecurityContext, host []string) (*specs.LinuxCapabilities, error) {
	set := slices.Clone(defaultCapabilities)
	if sc.GetPrivileged() {
		set = slices.Clone(host)
	}
	change := sc.GetCapabilities()
	apply := func(names []string, change func([]string, string) []string) {
		for _, name := range names {
			if strings.EqualFold(name, "ALL") {
				for _, each := range host {
					set = change(set, each)
				}
				continue
			}
			set = change(set, capabilityName(name))
		}
	}
	add := func(set []string, name string) []string {
		if slices.Contains(set, name) {
			return set
		}
		return append(set, name)
	}
	drop := func(set []string, name string) []string {
		return slices.DeleteFunc(set, func(each string) bool { return each == name })
	}
	// "ALL" first, single names after it: "drop ALL, add X" and "add ALL, drop X" both mean what they say.
	isAll := func(name string) bool { return strings.EqualFold(name, "ALL") }
	if slices.ContainsFunc(change.GetAddCapabilities(), isAll) {
		apply([]string{"ALL"}, add)
	}
	if slices.ContainsFunc(change.GetDropCapabilities(), isAll) {
		set = nil
	}
	apply(slices.DeleteFunc(slices.Clone(change.GetAddCapabilities()), isAll), add)
	apply(slices.DeleteFunc(slices.Clone(change.GetDropCapabilities()), isAll), drop)

	var ambient []string
	for _, name := range change.GetAddAmbientCapabilities() {
		ambient = append(ambient, capabilityName(name))
		set = add(set, capabilityName(name))
	}
	for _, name := range append(slices.Clone(change.GetAddCapabilities()), ambient...) {
		if !isAll(name) && !slices.Contains(known, capabilityName(name)) {
			return nil, fmt.Errorf("unknown capability %q", name)
		}
	}
	// What the runtime itself lacks can't be given: leave it out, as far as it wasn't asked for by name.
	set = slices.DeleteFunc(set, func(name string) bool {
		return len(host) > 0 && !slices.Contains(host, name)
	})
	slices.Sort(set)
	out := &specs.LinuxCapabilities{Bounding: set, Effective: set, Permitted: set}
	if len(ambient) > 0 {
		ambient = slices.DeleteFunc(ambient, func(name string) bool { return !slices.Contains(set, name) })
		out.Inheritable, out.Ambient = ambient, ambient
	}
	return out, nil
}

// known lists the kernel's capabilities by number.
var known = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
	"CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
	"CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
	"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
	"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
	"CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// CapabilitiesOf names the capabilities in a mask, as CapBnd in /proc/self/status shows it.
func CapabilitiesOf(mask uint64) []string {
	var names []string
	for bit, name := range known {
		if mask&(1<<bit) != 0 {
			names = append(names, name)
		}
	}
	return names
}
