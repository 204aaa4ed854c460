package memory

import (
	"os"
	"testing"
)

// A damaged checkpoint is refused with its name, or is whole enough to work with.
func FuzzState(f *testing.F) {
	cfg := config(f)
	m, err := New(cfg)
	if err != nil {
		f.Fatal(err)
	}
	allocate(m, pod("1", ctr("x", "1Gi")), anywhere)
	good, err := os.ReadFile(cfg.File)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte(`{"policyName":"Static","entries":{"1":{"x":[{"numaAffinity":[-1,99],"type":"memory","size":-1,"taken":{"-5":7}}]}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		cfg := config(t)
		if err := os.WriteFile(cfg.File, b, 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := New(cfg)
		if err != nil {
			return
		}
		p := pod("2", ctr("y", "1Gi"))
		_ = m.ContainerHints(p, &p.Spec.Containers[0])
		_ = allocate(m, p, anywhere)
		for _, uid := range m.Pods() {
			_, _ = m.Of(uid, "x"), m.Nodes(uid, "x")
			if err := m.Release(uid); err != nil {
				t.Error(err)
			}
		}
		if left := m.Pods(); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})
}
