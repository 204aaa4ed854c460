package image

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mote-edge/mote/agent/runtime/mounts"
)

// mountSnapshot makes a snapshot with mount points and mounts it; both go with the test.
func mountSnapshot(t *testing.T, s *Store, image, key string, points ...MountPoint) string {
	t.Helper()
	if err := s.Prepare(image, key, points); err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	t.Cleanup(func() {
		if err := mounts.Detach(root); err != nil {
			t.Error(err)
		}
		if err := s.RemoveSnapshot(key); err != nil {
			t.Error(err)
		}
	})
	if err := s.Mount(key, root, ""); err != nil {
		t.Fatal(err)
	}
	return root
}

func importLayers(t *testing.T, s *Store, name string, layers ...[]byte) {
	t.Helper()
	if _, err := s.Import(context.Background(), bytes.NewReader(dockerArchive(t, name, layers...))); err != nil {
		t.Fatal(err)
	}
}

// Points are there, below whatever the image has at their paths, and cost the container's own layer nothing.
func TestMountPointsAreSharedAndLowest(t *testing.T) {
	s := openStore(t)
	importLayers(t, s, "points", makeTar(t,
		entry{name: "etc/", typ: tar.TypeDir, mode: 0o700}, entry{name: "etc/hosts", body: "its own"},
		entry{name: "var/run", typ: tar.TypeSymlink, link: "../run"}, entry{name: "loop", typ: tar.TypeSymlink, link: "/loop"},
		entry{name: "out", typ: tar.TypeSymlink, link: "../../../../etc"}, entry{name: "opt/x", body: "x"}),
		makeTar(t, entry{name: "opt/.wh..wh..opq"}))
	points := []MountPoint{
		{Path: "/proc"},
		{Path: "/etc/hosts", File: true},
		{Path: "/etc/resolv.conf", File: true},
		{Path: "/var/run/secrets/token"},
		{Path: "/out/deep/file", File: true},
		{Path: "/loop/a"},
		{Path: "/opt/hidden"},
		{Path: "/etc/hosts"},
	}
	root := mountSnapshot(t, s, "points", "c1", points...)
	for path, dir := range map[string]bool{
		"proc": true, "etc/resolv.conf": false, "run/secrets/token": true, "etc/deep/file": false,
	} {
		if st, err := os.Stat(filepath.Join(root, path)); err != nil || st.IsDir() != dir || !dir && st.Size() != 0 {
			t.Errorf("%s: %v, %v", path, st, err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(root, "etc/hosts")); err != nil || string(b) != "its own" {
		t.Errorf("the image's file: %q, %v", b, err)
	}
	if st, err := os.Stat(filepath.Join(root, "etc")); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("the image's directory: %v, %v", st.Mode(), err)
	}
	if entries, err := os.ReadDir(filepath.Join(root, "opt")); err != nil || len(entries) != 0 {
		t.Errorf("an opaque directory shows what is below: %v, %v", entries, err)
	}
	if entries, err := os.ReadDir(s.path("snapshots", "c1", "upper")); err != nil || len(entries) != 0 {
		t.Errorf("the container's own layer has %v, %v", entries, err)
	}
	again := mountSnapshot(t, s, "points", "c2", points...)
	var a, b unix.Stat_t
	if err := unix.Stat(filepath.Join(root, "proc"), &a); err != nil {
		t.Fatal(err)
	}
	if err := unix.Stat(filepath.Join(again, "proc"), &b); err != nil || a.Ino != b.Ino {
		t.Errorf("two containers with the same mounts have points of their own: %d, %d, %v", a.Ino, b.Ino, err)
	}
	if sets, err := os.ReadDir(s.path("points")); err != nil || len(sets) != 1 {
		t.Errorf("sets %v, %v", sets, err)
	}
}

// Sets that no container has any more go: at the start, and when there are many.
func TestMountPointSetsAreCollected(t *testing.T) {
	s := openStore(t)
	importLayers(t, s, "points", makeTar(t, entry{name: "f", body: "f"}))
	mountSnapshot(t, s, "points", "kept", MountPoint{Path: "/kept"})
	for i := range 2 * maxPointSets {
		key := fmt.Sprint("c", i)
		if err := s.Prepare("points", key, []MountPoint{{Path: fmt.Sprint("/p", i)}}); err != nil {
			t.Fatal(err)
		}
		if err := s.RemoveSnapshot(key); err != nil {
			t.Fatal(err)
		}
	}
	sets := func() int {
		entries, err := os.ReadDir(s.path("points"))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	if n := sets(); n > maxPointSets+1 {
		t.Errorf("%d sets", n)
	}
	again, err := Open(s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if n := sets(); n != 1 {
		t.Errorf("%d sets after a restart, want the one in use", n)
	}
	mountSnapshot(t, again, "points", "later", MountPoint{Path: "/kept"})
}
