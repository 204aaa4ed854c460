package cgroup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Usage is what a cgroup has consumed at one moment.
type Usage struct {
	Time       time.Time
	CPUNanos   uint64 // CPU time since the cgroup was made
	Memory     uint64 // bytes charged
	WorkingSet uint64 // bytes charged without the inactive page cache
	RSS        uint64 // anonymous bytes
	Faults     uint64
	MajFaults  uint64
	Limit      uint64 // memory limit; the largest number for none
	PIDs       uint64
	// Swap is what lies in swap, SwapLimit the most that may; nil where the kernel doesn't tell, or there is no limit.
	Swap, SwapLimit *uint64
}

// Usage reads a cgroup's counters. cg is a path inside the hierarchies; "/" is the machine.
func (t *Tree) Usage(cg string) (Usage, error) {
	u := Usage{Time: time.Now()}
	var err error
	if t.hier.v2 {
		err = t.usageV2(filepath.Join(t.hier.unified, cg), &u)
	} else {
		err = t.usageV1(cg, &u)
	}
	if cg == "/" {
		b, _ := os.ReadFile("/proc/meminfo")
		if used, total, ok := parseSwap(string(b)); ok {
			u.Swap, u.SwapLimit = &used, &total
		}
	}
	return u, err
}

// parseSwap reads the machine's swap from /proc/meminfo.
func parseSwap(meminfo string) (used, total uint64, ok bool) {
	var free uint64
	for line := range strings.Lines(meminfo) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		n, _ := strconv.ParseUint(f[1], 10, 64)
		switch f[0] {
		case "SwapTotal:":
			total, ok = n<<10, true
		case "SwapFree:":
			free = n << 10
		}
	}
	return total - min(free, total), total, ok
}

func (t *Tree) usageV1(cg string, u *Usage) error {
	var err error
	if mount := t.hier.v1["cpuacct"]; mount != "" {
		if u.CPUNanos, err = readUint(filepath.Join(mount, cg), "cpuacct.usage"); err != nil {
			return err
		}
	}
	memory := filepath.Join(t.hier.v1["memory"], cg)
	if u.Memory, err = readUint(memory, "memory.usage_in_bytes"); err != nil {
		return err
	}
	if u.Limit, err = readUint(memory, "memory.limit_in_bytes"); err != nil {
		return err
	}
	if u.Limit > 1<<62 {
		u.Limit = ^uint64(0)
	}
	stat, err := readKeys(memory, "memory.stat")
	if err != nil {
		return err
	}
	u.fill(stat["total_inactive_file"], stat["total_rss"], stat["total_pgfault"], stat["total_pgmajfault"])
	if swap, ok := stat["total_swap"]; ok { // where swap is accounted
		u.Swap = &swap
		if both, err := readUint(memory, "memory.memsw.limit_in_bytes"); err == nil && both < 1<<62 && both >= u.Limit {
			limit := both - u.Limit
			u.SwapLimit = &limit
		}
	}
	u.PIDs, _ = readUint(filepath.Join(t.hier.v1["pids"], cg), "pids.current") // the root has no such file
	return nil
}

func (t *Tree) usageV2(dir string, u *Usage) error {
	cpu, err := readKeys(dir, "cpu.stat")
	if err != nil {
		return err
	}
	u.CPUNanos = cpu["usage_usec"] * 1000
	stat, err := readKeys(dir, "memory.stat")
	if err != nil {
		return err
	}
	// The root cgroup has no memory.current: what is charged to anybody stands for it.
	if u.Memory, err = readUint(dir, "memory.current"); errors.Is(err, fs.ErrNotExist) {
		u.Memory = stat["anon"] + stat["file"] + stat["kernel"]
	} else if err != nil {
		return err
	}
	if u.Limit, err = readUint(dir, "memory.max"); err != nil {
		u.Limit = ^uint64(0)
	}
	u.fill(stat["inactive_file"], stat["anon"], stat["pgfault"], stat["pgmajfault"])
	if swap, err := readUint(dir, "memory.swap.current"); err == nil {
		u.Swap = &swap
		if limit, err := readUint(dir, "memory.swap.max"); err == nil && limit < 1<<62 {
			u.SwapLimit = &limit
		}
	}
	u.PIDs, _ = readUint(dir, "pids.current")
	return nil
}

func (u *Usage) fill(inactiveFile, rss, faults, majFaults uint64) {
	u.RSS, u.Faults, u.MajFaults = rss, faults, majFaults
	if u.WorkingSet = 0; u.Memory > inactiveFile {
		u.WorkingSet = u.Memory - inactiveFile
	}
}

func readUint(dir, name string) (uint64, error) {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return 0, err
	}
	return parseUint(string(b))
}

// readKeys reads a file of "key value" lines.
func readKeys(dir, name string) (map[string]uint64, error) {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	out := make(map[string]uint64, 48)
	for line := range strings.Lines(string(b)) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseUint(value, 10, 64); ok && err == nil {
			out[key] = n
		}
	}
	return out, nil
}
