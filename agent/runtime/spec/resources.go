package spec

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func resources(out *specs.Spec, in Input) {
	r := in.Container.GetLinux().GetResources()
	out.Linux.Resources = Resources(r, in.Host)
	score := int(min(max(r.GetOomScoreAdj(), int64(in.Host.MinOOMScoreAdj)), 1000))
	out.Process.OOMScoreAdj = &score
}

// Resources translates limits; zero means "not set". What the kernel has no controller for is left out.
func Resources(r *cri.LinuxContainerResources, host Host) *specs.LinuxResources {
	out := &specs.LinuxResources{}
	if r == nil {
		return out
	}
	cpu := &specs.LinuxCPU{}
	if host.Controllers["cpuset"] {
		cpu.Cpus, cpu.Mems = r.CpusetCpus, r.CpusetMems
	}
	hasCPU := host.Controllers["cpu"]
	if hasCPU && r.CpuShares > 0 {
		cpu.Shares = new(uint64(r.CpuShares))
	}
	if hasCPU && r.CpuPeriod > 0 {
		cpu.Period = new(uint64(r.CpuPeriod))
	}
	if hasCPU && r.CpuQuota != 0 {
		cpu.Quota = new(r.CpuQuota)
	}
	out.CPU = cpu
	if host.Controllers["memory"] && r.MemoryLimitInBytes > 0 {
		out.Memory = &specs.LinuxMemory{Limit: new(r.MemoryLimitInBytes)}
		switch {
		case !host.Swap:
		case r.MemorySwapLimitInBytes > 0:
			out.Memory.Swap = new(r.MemorySwapLimitInBytes)
		default: // no swap: memory+swap equals memory
			out.Memory.Swap = new(r.MemoryLimitInBytes)
		}
	}
	for _, h := range r.HugepageLimits {
		for _, size := range host.HugePageSizes {
			if host.Controllers["hugetlb"] && size == h.PageSize {
				out.HugepageLimits = append(out.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: h.PageSize, Limit: h.Limit})
			}
		}
	}
	if host.CgroupV2 && len(r.Unified) > 0 {
		out.Unified = r.Unified
	}
	return out
}

func devices(out *specs.Spec, in Input, privileged bool) {
	rules := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	out.Linux.Devices = append(out.Linux.Devices, in.Devices...)
	if privileged {
		rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Access: "rwm"})
		have := map[string]bool{}
		for _, d := range in.Devices {
			have[d.Path] = true
		}
		for _, d := range in.HostDevs {
			if !have[d.Path] {
				out.Linux.Devices = append(out.Linux.Devices, d)
			}
		}
	}
	for _, d := range in.Devices {
		access := in.DeviceMode[d.Path]
		if access == "" {
			access = "rwm"
		}
		rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: d.Type, Major: new(d.Major), Minor: new(d.Minor), Access: access})
	}
	out.Linux.Resources.Devices = rules
}
