package numa_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/mote-edge/mote/agent/numa"
	"github.com/mote-edge/mote/agent/numa/numatest"
)

// What WriteTree writes the way the kernel does, Read reads back.
func TestReadFakeTrees(t *testing.T) {
	for name, s := range map[string]numatest.Shape{
		"laptop":               {Sockets: 1, NodesPerSocket: 1, CachesPerNode: 1, CoresPerCache: 4, ThreadsPerCore: 2, Memory: 8 << 30},
		"board without SMT":    {Sockets: 1, NodesPerSocket: 1, CachesPerNode: 1, CoresPerCache: 4, ThreadsPerCore: 1, Memory: 1 << 30},
		"two sockets":          {Sockets: 2, NodesPerSocket: 1, CachesPerNode: 1, CoresPerCache: 6, ThreadsPerCore: 2, Memory: 64 << 30, HugePages: map[int64]int{2 << 20: 512, 1 << 30: 2}},
		"split caches":         {Sockets: 1, NodesPerSocket: 1, CachesPerNode: 4, CoresPerCache: 4, ThreadsPerCore: 2, Memory: 64 << 30},
		"two nodes a socket":   {Sockets: 2, NodesPerSocket: 2, CachesPerNode: 2, CoresPerCache: 2, ThreadsPerCore: 2, Memory: 16 << 30},
		"eight nodes a socket": {Sockets: 1, NodesPerSocket: 8, CachesPerNode: 1, CoresPerCache: 2, ThreadsPerCore: 1, Memory: 1 << 30},
	} {
		t.Run(name, func(t *testing.T) {
			dir, want := t.TempDir(), s.Machine()
			if err := numatest.WriteTree(dir, want); err != nil {
				t.Fatal(err)
			}
			got, err := numa.Read(dir)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("Read =\n%+v, want\n%+v", got, want)
			}
			if got.ThreadsPerCore() != s.ThreadsPerCore {
				t.Errorf("ThreadsPerCore = %d", got.ThreadsPerCore())
			}
		})
	}
}

func TestReadWithoutNUMA(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "cpu"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cpu", "online"), []byte("0-2\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	m, err := numa.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Nodes) != 1 || m.All().String() != "0-2" || m.In(numa.MaskOf(0)).Size() != 3 || m.ThreadsPerCore() != 1 {
		t.Errorf("machine = %+v", m)
	}
	if _, err := numa.Read(filepath.Join(dir, "none")); err == nil {
		t.Error("a tree that isn't there was read")
	}
}

// The machine under the test: it has CPUs, and they are all somewhere.
func TestReadThisMachine(t *testing.T) {
	m, err := numa.Read(numa.System)
	if err != nil {
		t.Skipf("no /sys here: %v", err)
	}
	if len(m.CPUs) == 0 || !m.In(m.Mask()).Equals(m.All()) || m.Nodes[0].Memory < 1<<20 {
		t.Errorf("machine = %+v", m)
	}
}

func TestMask(t *testing.T) {
	m := numa.MaskOf(0, 2, 5, 64, -1)
	if m.Count() != 3 || !m.Has(5) || m.Has(1) || m.Has(64) || m.String() != "0,2,5" {
		t.Errorf("mask = %s", m)
	}
	var got []string
	m.Subsets(func(s numa.Mask) { got = append(got, s.String()) })
	if want := "[0 2 5 0,2 0,5 2,5 0,2,5]"; fmt.Sprint(got) != want {
		t.Errorf("Subsets = %v, want %s", got, want)
	}
	for _, tc := range []struct {
		a, b numa.Mask
		want bool
	}{
		{numa.MaskOf(3), numa.MaskOf(0, 1), true},
		{numa.MaskOf(0, 1), numa.MaskOf(3), false},
		{numa.MaskOf(0, 1), numa.MaskOf(0, 2), true},
		{numa.MaskOf(1), numa.MaskOf(0), false},
		{numa.MaskOf(1), numa.MaskOf(1), false},
	} {
		if tc.a.Narrower(tc.b) != tc.want {
			t.Errorf("%s narrower than %s = %t", tc.a, tc.b, !tc.want)
		}
	}
}

func TestDistance(t *testing.T) {
	m := numatest.Shape{Sockets: 2, NodesPerSocket: 2, CachesPerNode: 1, CoresPerCache: 1, ThreadsPerCore: 1}.Machine()
	if near, far := m.Distance(numa.MaskOf(0, 1)), m.Distance(numa.MaskOf(0, 2)); near != 11 || far != 15.5 || m.Distance(0) != 0 {
		t.Errorf("distances %v, %v", near, far)
	}
}
