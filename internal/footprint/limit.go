package footprint

import (
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
)

// RespectCgroup makes the garbage collector work harder as the heap nears the memory limit of the process's cgroup,
// rather than let the kernel kill it. GOMEMLIMIT overrides it. It returns the limit it set, or 0.
func RespectCgroup() int64 {
	if os.Getenv("GOMEMLIMIT") != "" {
		return 0
	}
	cgroups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return 0
	}
	limit := int64(math.MaxInt64)
	for _, file := range limitFiles(string(cgroups)) {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && n > 0 {
			limit = min(limit, n)
		}
	}
	if limit > 1<<50 { // cgroup v1 writes "none" as a huge number, v2 as "max"
		return 0
	}
	limit = limit / 10 * 7 // the rest is for the program's pages, stacks and mapped files
	debug.SetMemoryLimit(limit)
	return limit
}

// limitFiles names the files that may hold the limit, for a process's /proc/<pid>/cgroup (cgroups(7)).
func limitFiles(cgroups string) []string {
	var files []string
	for line := range strings.Lines(cgroups) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		switch {
		case parts[1] == "":
			for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
				files = append(files, filepath.Join(root, parts[2], "memory.max"))
			}
		case parts[1] == "memory":
			files = append(files, filepath.Join("/sys/fs/cgroup/memory", parts[2], "memory.limit_in_bytes"))
		}
	}
	return files
}
