package device_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/mote-edge/mote/agent/device"
)

// A damaged checkpoint is refused with the remedy, or is whole enough to work with.
func FuzzCheckpoint(f *testing.F) {
	for _, seed := range []string{
		`{"registered":["example.com/thing"],"pods":{"1":{"x":{"example.com/thing":{"devices":{"-1":["a"]},"response":"CgA="}}}}}`,
		`{"registered":["",null,"cpu"],"pods":{"1":{"x":{"example.com/thing":null}},"2":null}}`,
		`{"pods":{"1":{"x":{"example.com/thing":{"devices":{"9999999":null},"response":"////"}}}}}`,
		`{`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "kubelet_internal_checkpoint"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := device.New(device.Config{Dir: dir})
		if err != nil {
			return
		}
		x := pod("1", ctr("x", "1"))
		c := &x.Spec.Containers[0]
		_, _ = p.Capacity()
		_, _, _, _ = p.All(), p.Of("1", "x"), p.Health("1", "x"), p.ContainerHints(x, c)
		_ = p.Allocate(t.Context(), x, c, anywhere)
		_, _ = p.Prepare(t.Context(), x, c)
		for _, uid := range p.Pods() {
			if err := p.Release(uid); err != nil {
				t.Error(err)
			}
		}
	})
}
