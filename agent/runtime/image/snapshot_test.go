package image

import (
	"archive/tar"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/mote-edge/mote/agent/runtime/mounts"
)

// Records of snapshots that are alike share one file; what becomes of one of them is nothing to the others.
func TestSnapshotRecordsAreShared(t *testing.T) {
	s := openStore(t)
	for _, name := range []string{"one", "two"} {
		importLayers(t, s, name, makeTar(t, entry{name: "which", body: name}, entry{name: "etc/", typ: tar.TypeDir, mode: 0o755}))
	}
	record := func(key string) string { return s.path("snapshots", key, "snapshot.json") }
	prepare := func(image, key string) {
		t.Helper()
		if err := s.Prepare(image, key, nil); err != nil {
			t.Fatal(err)
		}
	}
	same := func(a, b string) bool {
		t.Helper()
		one, err := os.Stat(record(a))
		two, err2 := os.Stat(record(b))
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		return os.SameFile(one, two)
	}
	for i := range 3 {
		prepare("one", fmt.Sprint("a", i))
	}
	prepare("two", "b0")
	if !same("a0", "a1") || !same("a1", "a2") || same("a0", "b0") {
		t.Error("records of one image are one file, those of another aren't")
	}
	// Another image under a key that is there: a record in place of the shared one.
	prepare("two", "a0")
	if !same("a0", "b0") || same("a0", "a1") {
		t.Error("the record wasn't replaced")
	}
	// The one that the next would be linked to goes first.
	if err := s.RemoveSnapshot("a2"); err != nil {
		t.Fatal(err)
	}
	prepare("one", "a3")
	// Half a record, as a power cut leaves it.
	if err := os.Remove(record("a3")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(record("a3"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	prepare("one", "a3")
	for key, want := range map[string]string{"a0": "two", "a1": "one", "a3": "one", "b0": "two"} {
		root := t.TempDir()
		if err := s.Mount(key, root, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := mounts.Detach(root); err != nil {
				t.Error(err)
			}
		})
		if got, err := os.ReadFile(filepath.Join(root, "which")); err != nil || string(got) != want {
			t.Errorf("%s is %q, %v; want %q", key, got, err, want)
		}
	}
}
