package runtime

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A runtime that was killed in the middle of a start leaves mounts in the container's run directory. Removing that directory
// must not go on through them: behind one of them is the container's own root filesystem.
func TestRunDirGoesWithoutWhatIsMountedInIt(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounts need root")
	}
	s := &Service{cfg: Config{RunDir: t.TempDir()}}
	behind := t.TempDir()
	file := filepath.Join(behind, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(s.cfg.RunDir, "ctr", "a")
	for _, point := range []string{"rootfs", "check", "volumes/0", "volumes/1"} {
		point = filepath.Join(dir, point)
		if err := os.MkdirAll(point, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(behind, point, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(point, unix.MNT_DETACH) })
	}
	for range 2 { // none is success
		if err := s.removeRunDir("a"); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the directory: %v", err)
		}
	}
	if _, err := os.Lstat(file); err != nil {
		t.Errorf("what was mounted: %v", err)
	}
}
