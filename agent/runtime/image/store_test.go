package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"

	"github.com/mote-edge/mote/agent/runtime/mounts"
)

// entry is one line of a layer under test.
type entry struct {
	name string
	body string
	typ  byte
	link string
	mode int64
}

func makeTar(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Typeflag: e.typ, Linkname: e.link, Mode: e.mode, Size: int64(len(e.body))}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func sha(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// dockerArchive packs layers as `docker save` does.
func dockerArchive(t *testing.T, ref string, layers ...[]byte) []byte {
	t.Helper()
	var ids, files []string
	entries := []entry{}
	for i, l := range layers {
		ids = append(ids, sha(l))
		f := fmt.Sprintf("%d/layer.tar", i)
		files = append(files, f)
		entries = append(entries, entry{name: f, body: string(l)})
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "config": map[string]any{"User": "1000:1000", "Cmd": []string{"sh"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": ids},
	})
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{ref}, "Layers": files}})
	if err != nil {
		t.Fatal(err)
	}
	entries = append(entries, entry{name: "config.json", body: string(config)}, entry{name: "manifest.json", body: string(manifest)})
	return makeTar(t, entries...)
}

func openStore(t *testing.T) *Store {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("unpacking layers with their owners needs root")
	}
	s, err := Open(Config{Dir: t.TempDir(), Registries: filepath.Join(t.TempDir(), "registries.yaml")})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestImportDockerArchiveAndMount(t *testing.T) {
	s := openStore(t)
	base := makeTar(t, entry{name: "etc/", typ: tar.TypeDir}, entry{name: "etc/a", body: "base"}, entry{name: "etc/b", body: "gone"},
		entry{name: "opt/", typ: tar.TypeDir}, entry{name: "opt/old", body: "old"}, entry{name: "suid", body: "x", mode: 0o4755},
		entry{name: "abs", typ: tar.TypeSymlink, link: "/etc/a"}, entry{name: "hard", typ: tar.TypeLink, link: "etc/a"})
	top := makeTar(t, entry{name: "etc/.wh.b"}, entry{name: "opt/.wh..wh..opq"}, entry{name: "opt/new", body: "new"})
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write(dockerArchive(t, "example/app:1", base, top)); err != nil {
		t.Fatal(err)
	}
	z.Close()
	refs, err := s.Import(context.Background(), &zipped)
	if err != nil {
		t.Fatal(err)
	}
	if len(refs) != 1 || refs[0] != "docker.io/example/app:1" {
		t.Fatalf("refs %v", refs)
	}
	root := mountSnapshot(t, s, "example/app:1", "c1")
	if err := s.Mount("c1", root, ""); err != nil {
		t.Fatalf("second mount: %v", err)
	}
	for path, want := range map[string]string{"etc/a": "base", "hard": "base", "opt/new": "new"} {
		if got, err := os.ReadFile(filepath.Join(root, path)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", path, got, err, want)
		}
	}
	for _, path := range []string{"etc/b", "opt/old", "etc/.wh.b"} {
		if _, err := os.Lstat(filepath.Join(root, path)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s should be hidden: %v", path, err)
		}
	}
	if st, err := os.Stat(filepath.Join(root, "suid")); err != nil || st.Mode()&os.ModeSetuid == 0 {
		t.Errorf("suid: %v, %v", st, err)
	}
	if err := os.WriteFile(filepath.Join(root, "written"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if u, err := s.Usage("c1"); err != nil || u.Inodes != 2 { // the directory and the file
		t.Errorf("usage %+v, %v", u, err)
	}
	// The image goes while the snapshot lives: its layers must stay until the snapshot goes too.
	if err := s.Remove("example/app:1"); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(root, "etc/a")); err != nil || string(got) != "base" {
		t.Errorf("after removing the image: %q, %v", got, err)
	}
	if _, err := s.Get("example/app:1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("get: %v", err)
	}
}

func TestReopenKeepsImagesAndDropsHalfDoneWork(t *testing.T) {
	s := openStore(t)
	if _, err := s.Import(context.Background(), bytes.NewReader(dockerArchive(t, "app", makeTar(t, entry{name: "f", body: "1"})))); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(s.path("tmp", "layer-half"), 0o700); err != nil {
		t.Fatal(err)
	}
	half := []string{s.path(".tmp-1"), s.path("images", ".tmp-2")}
	for _, path := range half {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	again, err := Open(s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	img, err := again.Get("app")
	if err != nil || img.Config.Config.User != "1000:1000" {
		t.Fatalf("%+v, %v", img, err)
	}
	if left, _ := os.ReadDir(s.path("tmp")); len(left) != 0 {
		t.Errorf("left in tmp: %v", left)
	}
	for _, path := range half {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("half-written %s: %v", path, err)
		}
	}
	// A record whose layer has gone is set aside, and the store still opens.
	if err := os.RemoveAll(s.layerDir(img.DiffIDs[0])); err != nil {
		t.Fatal(err)
	}
	if again, err = Open(s.cfg); err != nil {
		t.Fatal(err)
	}
	if got := again.List(); len(got) != 0 {
		t.Errorf("an image without its layers is listed: %+v", got)
	}
}

func TestHostileLayersAreRefused(t *testing.T) {
	outside := t.TempDir()
	for title, entries := range map[string][]entry{
		"parent path":          {{name: "../evil", body: "x"}},
		"hard link outside":    {{name: "l", typ: tar.TypeLink, link: "../../etc/passwd"}},
		"device":               {{name: "sda", typ: tar.TypeBlock}},
		"absolute symlink dir": {{name: "d", typ: tar.TypeSymlink, link: outside}, {name: "d/evil", body: "x"}},
		"too big":              {{name: "big", body: strings.Repeat("x", 2048)}},
	} {
		t.Run(title, func(t *testing.T) {
			s := openStore(t)
			s.cfg.Limits.LayerBytes = 1024
			_, err := s.Import(context.Background(), bytes.NewReader(dockerArchive(t, "evil", makeTar(t, entries...))))
			if title == "absolute symlink dir" {
				// Resolved inside the layer, where it points nowhere: made there or refused, but never outside.
				if _, serr := os.Stat(filepath.Join(outside, "evil")); !errors.Is(serr, os.ErrNotExist) {
					t.Fatalf("wrote outside the layer: %v", serr)
				}
				return
			}
			if !errors.Is(err, ErrUnsafeLayer) && title != "too big" {
				t.Fatalf("accepted, or refused without saying why: %v", err)
			}
			if err == nil || len(s.List()) != 0 {
				t.Fatalf("err %v, images %v", err, s.List())
			}
			if left, _ := os.ReadDir(s.path("layers")); len(left) != 0 {
				t.Errorf("layers left: %v", left)
			}
			if left, _ := os.ReadDir(s.path("tmp")); len(left) != 0 {
				t.Errorf("temporary files left: %v", left)
			}
		})
	}
}

func TestBadArchives(t *testing.T) {
	good := dockerArchive(t, "app", makeTar(t, entry{name: "f", body: strings.Repeat("1", 4096)}))
	for title, data := range map[string][]byte{
		"empty": {}, "text": []byte("hello, world"), "truncated": good[:1500],
		"no manifest": makeTar(t, entry{name: "x", body: "y"}),
		"wrong layer": bytes.Replace(good, []byte("1111"), []byte("1112"), 1),
	} {
		s := openStore(t)
		if _, err := s.Import(context.Background(), bytes.NewReader(data)); err == nil || len(s.List()) != 0 {
			t.Errorf("%s: err %v, images %v", title, err, s.List())
		}
	}
}

func TestPullThroughMirror(t *testing.T) {
	s := openStore(t)
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	data := dockerArchive(t, "team/app:2", makeTar(t, entry{name: "f", body: "pulled"}))
	tag, err := name.NewTag("team/app:2")
	if err != nil {
		t.Fatal(err)
	}
	img, err := tarball.Image(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }, &tag)
	if err != nil {
		t.Fatal(err)
	}
	dst, err := name.ParseReference(host+"/team/app:2", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(dst, img); err != nil {
		t.Fatal(err)
	}
	conf := "mirrors:\n  registry.test:\n    endpoints: [http://127.0.0.1:1, " + srv.URL + "]\n" // the first one is dead
	if err := os.WriteFile(s.cfg.Registries, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	id, err := s.Pull(context.Background(), "registry.test/team/app:2", Auth{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Get("registry.test/team/app:2")
	if err != nil || got.ID != id || len(got.RepoDigests) != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	if _, err := s.Get(got.RepoDigests[0]); err != nil {
		t.Errorf("by digest: %v", err)
	}
	if _, err := s.Pull(context.Background(), "registry.test/team/none:2", Auth{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("missing image: %v", err)
	}
}

func TestManyLayersMount(t *testing.T) {
	s := openStore(t)
	var layers [][]byte
	for i := range 60 { // too many for the one page of mount(2)
		layers = append(layers, makeTar(t, entry{name: fmt.Sprintf("f%d", i), body: "x"}))
	}
	if _, err := s.Import(context.Background(), bytes.NewReader(dockerArchive(t, "deep", layers...))); err != nil {
		t.Fatal(err)
	}
	if err := s.Prepare("deep", "deep", nil); err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	t.Cleanup(func() { mounts.Detach(root); s.RemoveSnapshot("deep") })
	err := s.Mount("deep", root, "")
	if errors.Is(err, unix.EINVAL) {
		t.Skip("this kernel is older than 6.5")
	}
	if err != nil {
		t.Fatal(err)
	}
	for i := range 60 {
		if _, err := os.Stat(filepath.Join(root, fmt.Sprintf("f%d", i))); err != nil {
			t.Error(err)
		}
	}
}

func TestRetagMovesTheName(t *testing.T) {
	s := openStore(t)
	for _, body := range []string{"one", "two"} {
		if _, err := s.Import(context.Background(), bytes.NewReader(dockerArchive(t, "app:latest", makeTar(t, entry{name: "f", body: body})))); err != nil {
			t.Fatal(err)
		}
	}
	tagged := 0
	for _, img := range s.List() {
		tagged += len(img.RepoTags)
	}
	if tagged != 1 || len(s.List()) != 2 {
		t.Fatalf("%+v", s.List())
	}
}

func TestPullWaitsForTheImportAtTheStart(t *testing.T) {
	s := openStore(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.tar"), dockerArchive(t, "nowhere.test/app:1", makeTar(t, entry{name: "f", body: "1"})), 0o600); err != nil {
		t.Fatal(err)
	}
	s.ImportAtStart(context.Background(), dir)
	id, err := s.Pull(context.Background(), "nowhere.test/app:1", Auth{}) // there is no such registry
	if img, gerr := s.Get("nowhere.test/app:1"); gerr != nil || (err == nil && img.ID != id) {
		t.Fatalf("%q, %v, %v", id, err, gerr)
	}
}
