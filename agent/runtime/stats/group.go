// Package stats reads what containers and pods use, from the kernel's files alone and when somebody asks.
//
// Reads:  cgroup files; /proc/net/dev of network namespaces.
// Writes: nothing.
package stats

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Group reads a cgroup's files directly.
type Group struct {
	Path string // as in CRI: absolute within each hierarchy
	V2   bool
}

func (g Group) read(controller, name string) ([]byte, error) {
	if g.V2 {
		return os.ReadFile(filepath.Join("/sys/fs/cgroup", g.Path, name))
	}
	return os.ReadFile(filepath.Join("/sys/fs/cgroup", controller, g.Path, name))
}

func (g Group) number(controller, name string) (uint64, bool) {
	raw, err := g.read(controller, name)
	if err != nil {
		return 0, false
	}
	value, err := strconv.ParseUint(string(bytes.TrimSpace(raw)), 10, 64)
	return value, err == nil
}

// table reads a file of "key value" lines.
func (g Group) table(controller, name string) map[string]uint64 {
	raw, err := g.read(controller, name)
	if err != nil {
		return nil
	}
	out := map[string]uint64{}
	for line := range strings.Lines(string(raw)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if number, err := strconv.ParseUint(value, 10, 64); err == nil {
			out[key] = number
		}
	}
	return out
}

func (g Group) cpuNanos() (uint64, bool) {
	if g.V2 {
		micros, found := g.table("", "cpu.stat")["usage_usec"]
		return micros * 1000, found
	}
	return g.number("cpuacct", "cpuacct.usage")
}

// Pressure reads one of the PSI files; nil on cgroup v1.
func (g Group) Pressure(name string) *cri.PsiStats {
	if !g.V2 {
		return nil
	}
	raw, err := g.read("", name)
	if err != nil {
		return nil
	}
	out := &cri.PsiStats{}
	for line := range strings.Lines(string(raw)) {
		data := &cri.PsiData{}
		kind := ""
		_, err := fmt.Sscanf(line, "%s avg10=%f avg60=%f avg300=%f total=%d", &kind, &data.Avg10, &data.Avg60, &data.Avg300, &data.Total)
		if err != nil {
			continue
		}
		data.Total *= 1000 // the file has microseconds
		if kind == "full" {
			out.Full = data
		} else {
			out.Some = data
		}
	}
	return out
}

// unlimited is what the kernel shows for "no limit", about: v1 rounds the largest number down to pages.
const unlimited = 1 << 60

// Memory follows the kubelet's definition of the working set: usage without inactive file pages.
func (g Group) Memory() *cri.MemoryUsage {
	usageFile, limitFile, prefix := "memory.usage_in_bytes", "memory.limit_in_bytes", "total_"
	if g.V2 {
		usageFile, limitFile, prefix = "memory.current", "memory.max", ""
	}
	usage, found := g.number("memory", usageFile)
	if !found {
		return nil
	}
	stat := g.table("memory", "memory.stat")
	working := usage - min(usage, stat[prefix+"inactive_file"])
	rss := stat[prefix+"rss"]
	if g.V2 {
		rss = stat["anon"]
	}
	out := &cri.MemoryUsage{
		Timestamp: time.Now().UnixNano(), UsageBytes: &cri.UInt64Value{Value: usage}, WorkingSetBytes: &cri.UInt64Value{Value: working},
		RssBytes: &cri.UInt64Value{Value: rss}, PageFaults: &cri.UInt64Value{Value: stat[prefix+"pgfault"]},
		MajorPageFaults: &cri.UInt64Value{Value: stat[prefix+"pgmajfault"]}, Psi: g.Pressure("memory.pressure"),
	}
	if limit, found := g.number("memory", limitFile); found && limit < unlimited {
		out.AvailableBytes = &cri.UInt64Value{Value: limit - min(limit, working)}
	}
	return out
}

// Swap is nil where the kernel doesn't account it.
func (g Group) Swap() *cri.SwapUsage {
	usage, limit, known := uint64(0), uint64(0), false
	var limited bool
	if g.V2 {
		usage, known = g.number("memory", "memory.swap.current")
		limit, limited = g.number("memory", "memory.swap.max")
	} else {
		total, found := g.number("memory", "memory.memsw.usage_in_bytes")
		memory, found2 := g.number("memory", "memory.usage_in_bytes")
		usage, known = total-min(total, memory), found && found2
	}
	if !known {
		return nil
	}
	out := &cri.SwapUsage{Timestamp: time.Now().UnixNano(), SwapUsageBytes: &cri.UInt64Value{Value: usage}}
	if limited {
		out.SwapAvailableBytes = &cri.UInt64Value{Value: limit - min(limit, usage)}
	}
	return out
}

// Processes counts threads as the pids controller does, and processes where there is none.
func (g Group) Processes() uint64 {
	if count, found := g.number("pids", "pids.current"); found {
		return count
	}
	raw, _ := g.read("memory", "cgroup.procs")
	return uint64(bytes.Count(raw, []byte("\n")))
}
