package cgroup

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Link is a network interface with its counters.
type Link struct {
	Name                                    string
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}

// Links are the network interfaces that the processes of a cgroup see, without the loopback; none if nothing runs in it.
func (t *Tree) Links(cg string) []Link {
	dir := filepath.Join(t.hier.unified, cg)
	if !t.hier.v2 {
		dir = filepath.Join(t.hier.v1["memory"], cg)
	}
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil
	}
	for pid := range strings.FieldsSeq(string(b)) { // the first may have ended meanwhile
		if text, err := os.ReadFile(filepath.Join("/proc", pid, "net/dev")); err == nil {
			return ParseLinks(string(text))
		}
	}
	return nil
}

// ParseLinks reads the kernel's net/dev.
func ParseLinks(text string) []Link {
	var out []Link
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(line, ":")
		f := strings.Fields(rest)
		if name = strings.TrimSpace(name); !ok || len(f) < 12 || name == "lo" {
			continue
		}
		var n [12]uint64
		for i := range n {
			n[i], _ = strconv.ParseUint(f[i], 10, 64)
		}
		out = append(out, Link{
			Name: name, RxBytes: n[0], RxPackets: n[1], RxErrors: n[2], RxDropped: n[3], TxBytes: n[8], TxPackets: n[9], TxErrors: n[10], TxDropped: n[11],
		})
	}
	return out
}
