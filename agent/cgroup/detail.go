package cgroup

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Detail is what monitoring asks of a cgroup beyond Usage. What the kernel doesn't tell is zero.
type Detail struct {
	Periods, Throttled    uint64 // CFS periods, and those in which the quota was used up
	ThrottledNanos        uint64
	Cache, Swap           uint64 // bytes
	OOMKills              uint64
	ReadBytes, WriteBytes uint64 // of block devices
	Reads, Writes         uint64 // operations
	// What waits for what; nil where the kernel doesn't tell.
	CPUPressure, MemoryPressure, IOPressure *Pressure
}

// Detail reads further counters of a cgroup.
func (t *Tree) Detail(cg string) Detail {
	d := Detail{CPUPressure: t.pressure(cg, "cpu"), MemoryPressure: t.pressure(cg, "memory"), IOPressure: t.pressure(cg, "io")}
	if t.hier.v2 {
		dir := filepath.Join(t.hier.unified, cg)
		cpu, _ := readKeys(dir, "cpu.stat")
		d.Periods, d.Throttled, d.ThrottledNanos = cpu["nr_periods"], cpu["nr_throttled"], cpu["throttled_usec"]*1000
		memory, _ := readKeys(dir, "memory.stat")
		d.Cache = memory["file"]
		d.Swap, _ = readUint(dir, "memory.swap.current")
		events, _ := readKeys(dir, "memory.events")
		d.OOMKills = events["oom_kill"]
		d.ReadBytes, d.WriteBytes = ioStat(filepath.Join(dir, "io.stat"), "bytes")
		d.Reads, d.Writes = ioStat(filepath.Join(dir, "io.stat"), "ios")
		return d
	}
	cpu, _ := readKeys(filepath.Join(t.hier.v1["cpu"], cg), "cpu.stat")
	d.Periods, d.Throttled, d.ThrottledNanos = cpu["nr_periods"], cpu["nr_throttled"], cpu["throttled_time"]
	memory, _ := readKeys(filepath.Join(t.hier.v1["memory"], cg), "memory.stat")
	d.Cache, d.Swap = memory["total_cache"], memory["total_swap"]
	oom, _ := readKeys(filepath.Join(t.hier.v1["memory"], cg), "memory.oom_control")
	d.OOMKills = oom["oom_kill"]
	if mount := t.hier.v1["blkio"]; mount != "" {
		d.ReadBytes, d.WriteBytes = blkio(filepath.Join(mount, cg, "blkio.throttle.io_service_bytes_recursive"))
		d.Reads, d.Writes = blkio(filepath.Join(mount, cg, "blkio.throttle.io_serviced_recursive"))
	}
	return d
}

// ioStat sums bytes or ios of lines like "8:0 rbytes=1 wbytes=2 rios=3 …".
func ioStat(path, what string) (read, written uint64) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, 0
	}
	for _, f := range strings.Fields(string(b)) {
		if v, ok := strings.CutPrefix(f, "r"+what+"="); ok {
			n, _ := strconv.ParseUint(v, 10, 64)
			read += n
		} else if v, ok := strings.CutPrefix(f, "w"+what+"="); ok {
			n, _ := strconv.ParseUint(v, 10, 64)
			written += n
		}
	}
	return read, written
}

// blkio sums lines like "8:0 Read 1".
func blkio(path string) (read, written uint64) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		n, _ := strconv.ParseUint(f[2], 10, 64)
		switch f[1] {
		case "Read":
			read += n
		case "Write":
			written += n
		}
	}
	return read, written
}
