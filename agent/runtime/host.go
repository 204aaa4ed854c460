package runtime

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"

	"github.com/mote-edge/mote/agent/runtime/spec"
)

// findHost looks at the machine once.
func findHost() spec.Host {
	host := spec.Host{
		CgroupV2:      cgroups.IsCgroup2UnifiedMode(),
		HugePageSizes: cgroups.HugePageSizes(),
		ReadFile:      os.ReadFile,
	}
	host.Hostname, _ = os.Hostname()
	host.Controllers = controllers(host.CgroupV2)
	host.Capabilities = spec.CapabilitiesOf(statusMask("CapBnd"))
	host.MinOOMScoreAdj = -1000
	const sysResource = 24
	if statusMask("CapEff")&(1<<sysResource) == 0 {
		raw, _ := os.ReadFile("/proc/self/oom_score_adj")
		host.MinOOMScoreAdj, _ = strconv.Atoi(strings.TrimSpace(string(raw)))
	}
	if raw, err := os.ReadFile("/sys/module/apparmor/parameters/enabled"); err == nil {
		host.AppArmor = len(raw) > 0 && raw[0] == 'Y'
		loaded, _ := os.ReadFile("/sys/kernel/security/apparmor/profiles")
		host.AppArmorDefault = strings.Contains("\n"+string(loaded), "\n"+spec.DefaultAppArmorProfile+" ")
	}
	if host.CgroupV2 {
		// memory.swap.max exists only below the root.
		found, _ := filepath.Glob("/sys/fs/cgroup/*/memory.swap.max")
		host.Swap = len(found) > 0
	} else {
		_, err := os.Stat("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
		host.Swap = err == nil
	}
	return host
}

// controllers lists the cgroup controllers that are there: v1's mounts, or what v2's root offers.
func controllers(v2 bool) map[string]bool {
	out := map[string]bool{}
	if v2 {
		raw, _ := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
		for _, name := range strings.Fields(string(raw)) {
			out[name] = true
		}
		return out
	}
	for _, name := range []string{"cpu", "cpuset", "memory", "pids", "hugetlb", "blkio"} {
		if _, err := os.Stat(filepath.Join("/sys/fs/cgroup", name, "cgroup.procs")); err == nil {
			out[name] = true
		}
	}
	return out
}

func statusMask(field string) uint64 {
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(raw)) {
		if value, found := strings.CutPrefix(line, field+":"); found {
			mask, _ := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			return mask
		}
	}
	return 0
}

// recursiveReadOnly reports whether mount_setattr is there (Linux 5.12).
func recursiveReadOnly() bool {
	err := unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{})
	return err != unix.ENOSYS
}
