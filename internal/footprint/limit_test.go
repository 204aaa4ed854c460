package footprint

import (
	"slices"
	"testing"
)

func TestLimitFiles(t *testing.T) {
	for in, want := range map[string][]string{
		"0::/system.slice/mote.service\n": {
			"/sys/fs/cgroup/system.slice/mote.service/memory.max", "/sys/fs/cgroup/unified/system.slice/mote.service/memory.max",
		},
		"9:memory:/mote\n8:cpu,cpuacct:/mote\n": {"/sys/fs/cgroup/memory/mote/memory.limit_in_bytes"},
		"nonsense\n":                            nil,
	} {
		if got := limitFiles(in); !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", in, got, want)
		}
	}
}
