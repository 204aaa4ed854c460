package cpu

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/mote-edge/mote/agent/numa/numatest"
)

// A damaged checkpoint is refused with its name, or is whole enough to work with: no CPU is given out twice.
func FuzzState(f *testing.F) {
	m := numatest.Shape{Sockets: 1, NodesPerSocket: 1, CachesPerNode: 1, CoresPerCache: 2, ThreadsPerCore: 2}.Machine()
	for _, seed := range []string{
		`{"policyName":"static","defaultCpuSet":"0-2","entries":{"1":{"x":"3"}}}`,
		`{"policyName":"static","defaultCpuSet":"0-3"}`,
		`{"policyName":"static","defaultCpuSet":"0-4294967295"}`,
		`{"policyName":"static","defaultCpuSet":"0","entries":{"1":{"x":"1-3","y":""},"2":null}}`,
		`{"policyName":`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		file := filepath.Join(t.TempDir(), "cpu_manager_state")
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := New(Config{Policy: PolicyStatic, Machine: m, ReservedMilli: 500, File: file})
		if err != nil {
			return
		}
		p := pod("fuzz", ctr("z", "1"))
		_ = c.ContainerHints(p, &p.Spec.Containers[0])
		_ = c.Allocate(p, &p.Spec.Containers[0], anywhere)
		if mine, own := c.Of("fuzz", "z"); own && !mine.Intersection(c.shared).IsEmpty() {
			t.Errorf("%s is given out and shared: %s", mine, c.shared)
		}
		for _, uid := range c.Pods() {
			if _, err := c.Release(uid); err != nil {
				t.Error(err)
			}
		}
		if !c.shared.Equals(m.All()) {
			t.Errorf("with nobody left, %s is shared of %s", c.shared, m.All())
		}
	})
}
