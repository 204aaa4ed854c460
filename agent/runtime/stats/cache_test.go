package stats

import (
	"errors"
	"os"
	"testing"
	"time"
)

func TestRate(t *testing.T) {
	var k Cache
	second := int64(time.Second)
	if got := k.rate("a", second, 100); got != nil {
		t.Errorf("a first reading has no rate: %v", got)
	}
	if got := k.rate("a", 2*second, 5e8+100); got.GetValue() != 5e8 {
		t.Errorf("half a core: %v", got)
	}
	if got := k.rate("a", 2*second+1000, 9e8); got.GetValue() != 5e8 {
		t.Errorf("too soon for a new rate: %v", got)
	}
	if got := k.rate("a", 3*second, 10); got != nil {
		t.Errorf("a counter that went back is a new container's: %v", got)
	}
	k.Forget("a")
	if got := k.rate("a", 4*second, 20); got != nil {
		t.Errorf("forgotten: %v", got)
	}
}

func TestDiskIsMeasuredSeldom(t *testing.T) {
	var k Cache
	calls := 0
	measure := func(inodes uint64, age time.Duration) func() (Disk, error) {
		return func() (Disk, error) { calls++; return Disk{At: time.Now().Add(-age), Inodes: inodes}, nil }
	}
	for _, step := range []struct {
		key    string
		inodes uint64
		age    time.Duration
		want   int
	}{
		{"new", 1, 0, 1},
		{"new", 1, 0, 1},
		{"small", 1, 2 * time.Second, 2},
		{"small", 1, 0, 3},
		{"large", 5000, 2 * time.Second, 4},
		{"large", 5000, 0, 4},
		{"old", 5000, time.Minute, 5},
		{"old", 5000, 0, 6},
	} {
		if _, err := k.Disk(step.key, measure(step.inodes, step.age)); err != nil || calls != step.want {
			t.Errorf("%s: %d measurements, want %d (%v)", step.key, calls, step.want, err)
		}
	}
	if _, err := k.Disk("gone", func() (Disk, error) { return Disk{}, os.ErrNotExist }); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

func TestInterfacesOfThisNamespace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to enter a network namespace")
	}
	got := Interfaces("/proc/self/ns/net", "no such interface")
	if got == nil || got.DefaultInterface != nil {
		t.Errorf("%v", got)
	}
	if got := Interfaces("/nowhere", "eth0"); got != nil {
		t.Errorf("%v", got)
	}
}
