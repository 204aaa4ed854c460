package userns

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/apimachinery/pkg/types"
)

// Whatever a pod's file says, no two pods get the same numbers, and none gets the host's.
func FuzzFile(f *testing.F) {
	const one = `[{"hostId":131072,"containerId":0,"length":65536}]`
	f.Add([]byte(`{"uidMappings":`+one+`,"gidMappings":`+one+`}`), []byte(`{"uidMappings":`+one+`,"gidMappings":`+one+`}`))
	f.Add([]byte(`{"uidMappings":[{"hostId":4294901760,"length":65536}],"gidMappings":[{"hostId":4294901760,"length":65536}]}`), []byte(`{`))
	f.Add([]byte(`null`), []byte(`{"uidMappings":[{"hostId":-1}]}`))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		dir := t.TempDir()
		for uid, content := range map[string][]byte{"a": a, "b": b} {
			if err := os.Mkdir(filepath.Join(dir, uid), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, uid, "userns"), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		r, err := New(Config{PodsDir: dir, Owned: few(8), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		given := map[uint32]bool{}
		for _, uid := range []string{"a", "b", "c"} {
			got, err := r.For(types.UID(uid))
			if err != nil {
				continue
			}
			if given[got.First] || got.First < unit || got.Length != unit || uint64(got.First)+uint64(got.Length) > 1<<32 {
				t.Errorf("%s got %+v", uid, got)
			}
			given[got.First] = true
		}
	})
}
