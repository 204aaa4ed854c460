package cgroup

import (
	"os"
	"path/filepath"
	"testing"
)

func TestDetailOfFiles(t *testing.T) {
	put := func(dir, name, text string) {
		t.Helper()
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := Detail{Periods: 10, Throttled: 4, ThrottledNanos: 5000, Cache: 7, Swap: 8, OOMKills: 2, ReadBytes: 3, WriteBytes: 30, Reads: 5, Writes: 6}
	v2 := t.TempDir()
	put(v2+"/x", "cpu.stat", "usage_usec 1\nnr_periods 10\nnr_throttled 4\nthrottled_usec 5\n")
	put(v2+"/x", "memory.stat", "anon 1\nfile 7\n")
	put(v2+"/x", "memory.swap.current", "8\n")
	put(v2+"/x", "memory.events", "oom 9\noom_kill 2\n")
	put(v2+"/x", "io.stat", "8:0 rbytes=1 wbytes=10 rios=5 wios=6\n8:16 rbytes=2 wbytes=20\n")
	if got := (&Tree{hier: hierarchies{v2: true, unified: v2}}).Detail("/x"); got != want {
		t.Errorf("v2: %+v", got)
	}
	v1 := t.TempDir()
	put(v1+"/cpu/x", "cpu.stat", "nr_periods 10\nnr_throttled 4\nthrottled_time 5000\n")
	put(v1+"/memory/x", "memory.stat", "cache 1\ntotal_cache 7\ntotal_swap 8\n")
	put(v1+"/memory/x", "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
	put(v1+"/blkio/x", "blkio.throttle.io_service_bytes_recursive", "8:0 Read 1\n8:0 Write 10\n8:16 Read 2\n8:16 Write 20\n8:0 Total 33\nTotal 33\n")
	put(v1+"/blkio/x", "blkio.throttle.io_serviced_recursive", "8:0 Read 5\n8:0 Write 6\nTotal 11\n")
	tree := &Tree{hier: hierarchies{v1: map[string]string{"cpu": v1 + "/cpu", "memory": v1 + "/memory", "blkio": v1 + "/blkio"}}}
	if got := tree.Detail("/x"); got != want {
		t.Errorf("v1: %+v", got)
	}
	if got := tree.Detail("/gone"); got != (Detail{}) {
		t.Errorf("a cgroup that isn't there: %+v", got)
	}
	if err := tree.Bound("/gone", Limits{Memory: 1}); err == nil {
		t.Error("a cgroup that isn't there is bounded")
	}
}
