package cgroup

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

func TestPressureOfACgroup(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "kubepods")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"cpu.pressure":        "some avg10=1.50 avg60=2.00 avg300=0.25 total=3000000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n",
		"memory.swap.current": "4096\n", "memory.swap.max": "8192\n", "memory.current": "1\n", "memory.stat": "anon 1\n", "cpu.stat": "usage_usec 1\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tree := &Tree{hier: hierarchies{v2: true, unified: root}}
	d := tree.Detail("/kubepods")
	want := Pressure{Some: Stall{1.5, 2, 0.25, 3 * time.Second}, Full: Stall{Total: 7 * time.Microsecond}}
	if d.CPUPressure == nil || *d.CPUPressure != want {
		t.Errorf("cpu: %+v", d.CPUPressure)
	}
	if d.IOPressure != nil {
		t.Errorf("io without a file: %+v", d.IOPressure)
	}
	u, err := tree.Usage("/kubepods")
	if err != nil || u.Swap == nil || *u.Swap != 4096 || u.SwapLimit == nil || *u.SwapLimit != 8192 {
		t.Errorf("swap: %+v, %v", u, err)
	}
}

func TestSwapOfTheMachine(t *testing.T) {
	used, total, ok := parseSwap("MemTotal: 10 kB\nSwapTotal:      100 kB\nSwapFree:        40 kB\n")
	if used != 60<<10 || total != 100<<10 || !ok {
		t.Errorf("%d of %d, %t", used, total, ok)
	}
	if _, _, ok := parseSwap("MemTotal: 10 kB\n"); ok {
		t.Error("swap without a line about it")
	}
}

func TestLinksOfAProcess(t *testing.T) {
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("/proc/self/net/dev")
	if err != nil {
		t.Fatal(err)
	}
	tree := &Tree{hier: hierarchies{v2: true, unified: root}}
	if got, want := tree.Links("/"), ParseLinks(string(b)); len(got) != len(want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := tree.Links("/gone"); got != nil {
		t.Errorf("%+v", got)
	}
	got := ParseLinks("face |bytes\n  lo: 1 1 1 1 1 1 1 1 1 1 1 1\neth0: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n")
	if len(got) != 1 || got[0] != (Link{"eth0", 1, 2, 3, 4, 5, 6, 7, 8}) {
		t.Errorf("%+v", got)
	}
}
