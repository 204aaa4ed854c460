package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mote-edge/mote/agent/runtime/mounts"
)

// After the machine went down without notice, a damaged layer is dropped and its image comes again; the others stay.
func TestRecheckAfterPowerCut(t *testing.T) {
	g := newRegistry(t)
	good := makeTar(t, entry{name: "good", body: noise(10_000, 1)})
	bad := makeTar(t, entry{name: "d/" + "f", body: noise(10_000, 2)}, entry{name: "l", typ: '2', link: "d/f"})
	builtImage{layers: [][]byte{good}}.push(t, g, "good", "1")
	builtImage{layers: [][]byte{good, bad}}.push(t, g, "bad", "1")
	for name, c := range map[string]struct {
		damage func(t *testing.T, dir string)
		same   bool // the layer was unpacked in the boot that crashed
		kept   bool
	}{
		"nothing":                      {func(*testing.T, string) {}, true, true},
		"content lost":                 {zero("fs/d/f"), true, false},
		"content lost, an older layer": {zero("fs/d/f"), false, true}, // it was durable before that boot: not read
		"a file cut off":               {func(t *testing.T, dir string) { must(t, os.Truncate(filepath.Join(dir, "fs/d/f"), 0)) }, false, false},
		"a file gone":                  {func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, "fs/d/f"))) }, false, false},
		"a mode changed":               {func(t *testing.T, dir string) { must(t, os.Chmod(filepath.Join(dir, "fs/d/f"), 0)) }, false, false},
		"a link changed": {func(t *testing.T, dir string) {
			must(t, os.Remove(filepath.Join(dir, "fs/l")))
			must(t, os.Symlink("x", filepath.Join(dir, "fs/l")))
		}, false, false},
		"its record gone":       {func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, "layer.json"))) }, false, false},
		"its record empty":      {func(t *testing.T, dir string) { must(t, os.Truncate(filepath.Join(dir, "layer.json"), 0)) }, false, false},
		"its checksums cut off": {func(t *testing.T, dir string) { must(t, os.Truncate(filepath.Join(dir, "sums"), 7)) }, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openStore(t)
			s.cfg.BootID = "old"
			if c.same {
				s.cfg.BootID = "crashed"
			}
			for _, n := range []string{"good", "bad"} {
				if _, err := s.Pull(t.Context(), g.host+"/"+n+":1", Auth{}); err != nil {
					t.Fatal(err)
				}
			}
			s.cfg.BootID = "crashed"
			must(t, s.mark(false))
			c.damage(t, s.layerDir(sha(bad)))

			s.cfg.BootID = "crashed" // the same boot: a runtime that starts again trusts its kernel
			again, err := Open(s.cfg)
			if err != nil {
				t.Fatal(err)
			}
			if name != "its record gone" && name != "its record empty" && len(again.List()) != 2 {
				t.Fatalf("checked without a reason: %v", again.List())
			}
			s.cfg.BootID = "next"
			must(t, again.mark(false))
			if again, err = Open(s.cfg); err != nil {
				t.Fatal(err)
			}
			if _, err := again.Get(g.host + "/good:1"); err != nil {
				t.Errorf("the undamaged image: %v", err)
			}
			if _, err := again.Get(g.host + "/bad:1"); (err == nil) != c.kept {
				t.Errorf("the damaged image: %v", err)
			}
			g.reset("", nil)
			if _, err := again.Pull(t.Context(), g.host+"/bad:1", Auth{}); err != nil {
				t.Fatal(err)
			}
			if b, err := os.ReadFile(filepath.Join(again.layerDir(sha(bad)), "fs/d/f")); !c.kept && (err != nil || string(b) != noise(10_000, 2)) {
				t.Errorf("pulled again, and not whole: %v", err)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// zero is what a disk does that lost the data and kept the size.
func zero(name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		path := filepath.Join(dir, name)
		st, err := os.Stat(path)
		must(t, err)
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		must(t, err)
		defer f.Close()
		_, err = f.Write(make([]byte, st.Size()))
		must(t, err)
	}
}

// A clean end saves the check.
func TestCleanShutdown(t *testing.T) {
	s := openStore(t)
	s.cfg.BootID = "1"
	must(t, s.mark(false))
	must(t, s.Close())
	s.cfg.BootID = "2"
	again := &Store{cfg: s.cfg}
	if b := again.lastBoot(); b != "" {
		t.Errorf("after a clean end the last boot is %q", b)
	}
	if _, err := Open(s.cfg); err != nil {
		t.Fatal(err)
	}
	s.cfg.BootID = "3"
	if b := (&Store{cfg: s.cfg}).lastBoot(); b != "2" {
		t.Errorf("after no clean end the last boot is %q", b)
	}
	must(t, os.WriteFile(s.path("boot.json"), nil, 0o600)) // cut off
	if b := (&Store{cfg: s.cfg}).lastBoot(); b != "unknown" {
		t.Errorf("with a damaged mark the last boot is %q", b)
	}
}

// A runtime that died with a view of the layers mounted in its work directory must not empty that view.
func TestOpenSparesWhatIsMountedInTmp(t *testing.T) {
	s := openStore(t)
	if _, err := s.Import(t.Context(), strings.NewReader(string(dockerArchive(t, "app", makeTar(t, entry{name: "f", body: "1"}))))); err != nil {
		t.Fatal(err)
	}
	view := s.path("tmp", "mapped-1")
	must(t, os.Mkdir(view, 0o700))
	if err := unix.Mount(s.path("layers"), view, "", unix.MS_BIND, ""); err != nil {
		t.Skip("no mounts here:", err)
	}
	t.Cleanup(func() { _ = mounts.Detach(view) })
	again, err := Open(s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	img, err := again.Get("app")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(again.layerDir(img.DiffIDs[0]), "fs", "f")); err != nil {
		t.Errorf("a layer was emptied: %v", err)
	}
}

// fullDisk is a store on a small file system of its own.
func fullDisk(t *testing.T, size int) *Store {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Skip("no mounts here:", err)
	}
	t.Cleanup(func() { _ = mounts.Detach(dir) })
	s, err := Open(Config{Dir: filepath.Join(dir, "store"), Registries: filepath.Join(dir, "none")})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A disk that fills up in a download or while unpacking gives a clear error, leaves nothing behind, and what is there
// goes on; once there is space the same pull succeeds.
func TestDiskFull(t *testing.T) {
	g := newRegistry(t)
	zeros := makeTar(t, entry{name: "zeros", body: strings.Repeat("\x00", 24<<20)}) // small on its way
	small := makeTar(t, entry{name: "f", body: "small"})
	builtImage{layers: [][]byte{small, zeros}}.push(t, g, "unpack", "1")
	builtImage{layers: [][]byte{small, makeTar(t, entry{name: "n", body: noise(24<<20, 3)})}}.push(t, g, "download", "1")
	builtImage{layers: [][]byte{small}}.push(t, g, "small", "1")
	for _, name := range []string{"unpack", "download"} {
		t.Run(name, func(t *testing.T) {
			s := fullDisk(t, 60<<20)
			if _, err := s.Pull(t.Context(), g.host+"/small:1", Auth{}); err != nil {
				t.Fatal(err)
			}
			ballast := filepath.Join(s.cfg.Dir, "..", "ballast")
			must(t, os.WriteFile(ballast, make([]byte, 50<<20), 0o600))
			_, err := s.Pull(t.Context(), g.host+"/"+name+":1", Auth{})
			if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "no space left on device") {
				t.Fatalf("error %v", err)
			}
			if left := leftBlobs(t, s); len(left) != 0 {
				t.Errorf("blobs left: %v", left)
			}
			if left, _ := os.ReadDir(s.path("tmp")); len(left) != 0 {
				t.Errorf("left in tmp: %v", left)
			}
			if n := len(s.List()); n != 1 {
				t.Errorf("%d images", n)
			}
			root := mountSnapshot(t, s, g.host+"/small:1", "c")
			if b, err := os.ReadFile(filepath.Join(root, "f")); err != nil || string(b) != "small" {
				t.Errorf("the image that was there: %q, %v", b, err)
			}
			must(t, errors.Join(mounts.Detach(root), s.RemoveSnapshot("c")))
			must(t, os.Remove(ballast))
			if name == "download" {
				return // its blob and its files need 48 MiB at once
			}
			if _, err := s.Pull(t.Context(), g.host+"/"+name+":1", Auth{}); err != nil {
				t.Errorf("with space again: %v", err)
			}
		})
	}
}

// What the whole disk can't hold is refused before it is fetched.
func TestTooLargeForTheDisk(t *testing.T) {
	s := fullDisk(t, 8<<20)
	g := newRegistry(t)
	_, layers := builtImage{layers: [][]byte{makeTar(t, entry{name: "n", body: noise(16<<20, 3)})}}.push(t, g, "big", "1")
	if _, err := s.Pull(t.Context(), g.host+"/big:1", Auth{}); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("error %v", err)
	}
	if got := g.ranges(layers[0].Digest); !slices.Equal(got, nil) {
		t.Errorf("it was asked for: %q", got)
	}
}
