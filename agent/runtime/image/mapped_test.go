package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mote-edge/mote/agent/runtime/mounts"
	"github.com/mote-edge/mote/agent/runtime/namespace"
)

const mappedRoot = 7 << 16

func mapping(t *testing.T) Mapping {
	t.Helper()
	users, err := namespace.NewUsers(namespace.Users{UID: mappedRoot, GID: mappedRoot, Length: 1 << 16})
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { _ = users.Close() })
	return Mapping{Namespace: fmt.Sprintf("/proc/self/fd/%d", users.Fd()), UID: mappedRoot, GID: mappedRoot}
}

func uidOf(t *testing.T, path string) uint32 {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Uid
}

func TestMountMapped(t *testing.T) {
	s := openStore(t)
	to := mapping(t)
	if err := s.TryMapped(to); err != nil {
		t.Skip("this kernel or filesystem doesn't id-map: ", err)
	}
	layer := makeTar(t, entry{name: "etc/", typ: tar.TypeDir}, entry{name: "etc/a", body: "base"})
	if _, err := s.Import(context.Background(), bytes.NewReader(dockerArchive(t, "example/mapped:1", layer))); err != nil {
		t.Fatal(err)
	}
	if err := s.Prepare("example/mapped:1", "m1", nil); err != nil {
		t.Fatal(err)
	}
	target := t.TempDir()
	t.Cleanup(func() {
		if err := errors.Join(mounts.Detach(target), s.RemoveSnapshot("m1")); err != nil {
			t.Error(err)
		}
	})
	for range 2 { // the second time is success as well
		if err := s.MountMapped("m1", target, "", to); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"", "etc", "etc/a"} {
		if uid := uidOf(t, filepath.Join(target, path)); uid != mappedRoot {
			t.Errorf("/%s belongs to %d, not to the namespace's root", path, uid)
		}
	}
	img, err := s.Get("example/mapped:1")
	if err != nil {
		t.Fatal(err)
	}
	shared := filepath.Join(s.layerDir(img.DiffIDs[0]), "fs", "etc", "a")
	if err := os.WriteFile(filepath.Join(target, "etc/a"), []byte("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	if raw, err := os.ReadFile(shared); err != nil || string(raw) != "base" || uidOf(t, shared) != 0 {
		t.Errorf("the layer, which others use, has changed: %q, %v", raw, err)
	}
	if left, err := os.ReadDir(s.path("tmp")); err != nil || len(left) != 0 {
		t.Errorf("left in tmp: %v, %v", left, err)
	}

	// What a killed process leaves, a view of all layers, costs none of them when the store is opened again.
	view := s.path("tmp", "mapped-left")
	if err := os.Mkdir(view, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := bindMapped(s.path("layers"), view, to.Namespace); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(view, "x"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("a view can be written to: %v", err)
	}
	if _, err := Open(s.cfg); err != nil {
		t.Fatal(err)
	}
	if raw, err := os.ReadFile(shared); err != nil || string(raw) != "base" {
		t.Errorf("the layer after the next start: %q, %v", raw, err)
	}
	if _, err := os.Lstat(view); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the view is still there: %v", err)
	}
}
