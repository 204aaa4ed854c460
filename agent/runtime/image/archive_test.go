package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// ociArchive packs one image as an OCI layout.
func ociArchive(t testing.TB, name string, change func(blobs map[string][]byte), layers ...[]byte) []byte {
	t.Helper()
	blobs := map[string][]byte{}
	add := func(kind string, data []byte) ocispec.Descriptor {
		d := digest.FromBytes(data)
		blobs[blobPath(d)] = data
		return ocispec.Descriptor{MediaType: kind, Digest: d, Size: int64(len(data))}
	}
	object := func(v any) []byte {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest}
	for _, l := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(l))
		m.Layers = append(m.Layers, add(ocispec.MediaTypeImageLayerGzip, gzipped(t, l)))
	}
	m.Config = add(ocispec.MediaTypeImageConfig, object(config))
	desc := add(ocispec.MediaTypeImageManifest, object(m))
	desc.Annotations = map[string]string{"io.containerd.image.name": name}
	blobs[ocispec.ImageIndexFile] = object(ocispec.Index{Manifests: []ocispec.Descriptor{desc}})
	if change != nil {
		change(blobs)
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for name, data := range blobs {
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(data))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestImportOCI(t *testing.T) {
	layer := makeTar(t, entry{name: "f", body: noise(2000, 1)})
	blob := blobPath(digest.FromBytes(gzipped(t, layer)))
	for name, c := range map[string]struct {
		change func(map[string][]byte)
		err    string
	}{
		"good":           {nil, ""},
		"a wrong blob":   {func(b map[string][]byte) { b[blob] = append(bytes.Clone(b[blob]), 0) }, "digest"},
		"a blob missing": {func(b map[string][]byte) { delete(b, blob) }, "is missing"},
		"a wrong config": {func(b map[string][]byte) {
			for k, v := range b {
				if bytes.Contains(v, []byte("rootfs")) {
					b[k] = append(bytes.Clone(v), ' ')
				}
			}
		}, "does not match its digest"},
		"no index":       {func(b map[string][]byte) { delete(b, "index.json") }, "neither manifest.json"},
		"an empty index": {func(b map[string][]byte) { b["index.json"] = []byte("{}") }, "lists no image"},
		"a digest as a path": {func(b map[string][]byte) {
			b["index.json"] = []byte(`{"manifests":[{"mediaType":"` + ocispec.MediaTypeImageManifest + `","digest":"sha256:../../index.json"}]}`)
		}, "digest"},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t)
			refs, err := s.Import(t.Context(), bytes.NewReader(gzipped(t, ociArchive(t, "r.io/app:1", c.change, layer))))
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Fatalf("error %v, want %q", err, c.err)
			}
			if err == nil && (len(refs) != 1 || refs[0] != "r.io/app:1" || len(s.List()[0].RepoDigests) != 1) {
				t.Errorf("%v: %+v", refs, s.List())
			}
			if left, _ := os.ReadDir(s.path("tmp")); len(left) != 0 {
				t.Errorf("left in tmp: %v", left)
			}
		})
	}
}

// Archives of the node's directory are read once, and their images stay pinned as long as the archives are there.
func TestImportDirPins(t *testing.T) {
	s := openStore(t)
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a.tar"), filepath.Join(dir, "b.tar.gz")
	must(t, os.WriteFile(a, dockerArchive(t, "a:1", makeTar(t, entry{name: "f", body: "a"})), 0o600))
	must(t, os.WriteFile(b, gzipped(t, dockerArchive(t, "b:1", makeTar(t, entry{name: "f", body: "b"}))), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "c.tar"), []byte("nonsense"), 0o600))
	state := func() string {
		out := ""
		for _, n := range []string{"a:1", "b:1"} {
			img, err := s.Get(n)
			out += fmt.Sprintf("%s %v %v; ", n, err == nil, img.Pinned)
		}
		return out
	}
	must(t, s.ImportDir(t.Context(), dir))
	if got := state(); got != "a:1 true true; b:1 true true; " {
		t.Fatal(got)
	}
	// Unchanged archives aren't read again: this one could not be.
	st, err := os.Stat(b)
	must(t, err)
	must(t, os.WriteFile(b, make([]byte, st.Size()), 0o600))
	must(t, os.Chtimes(b, time.Time{}, st.ModTime()))
	again, err := Open(s.cfg)
	must(t, err)
	s = again
	must(t, s.ImportDir(t.Context(), dir))
	if got := state(); got != "a:1 true true; b:1 true true; " {
		t.Error(got)
	}
	// What was removed by hand comes back, as long as its archive is there.
	must(t, s.Remove("a:1"))
	must(t, os.Remove(b))
	must(t, s.ImportDir(t.Context(), dir))
	if got := state(); got != "a:1 true true; b:1 true false; " {
		t.Error(got)
	}
	must(t, s.ImportDir(t.Context(), filepath.Join(dir, "none")))
	if got := state(); got != "a:1 true false; b:1 true false; " {
		t.Error(got)
	}
}

// An archive that the disk can't hold is refused, and leaves nothing.
func TestImportDiskFull(t *testing.T) {
	s := fullDisk(t, 12<<20)
	big := dockerArchive(t, "big", makeTar(t, entry{name: "n", body: noise(16<<20, 4)}))
	for name, data := range map[string][]byte{"plain": big, "compressed": gzipped(t, dockerArchive(t, "big", makeTar(t, entry{name: "z", body: strings.Repeat("\x00", 16<<20)})))} {
		if _, err := s.Import(t.Context(), bytes.NewReader(data)); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%s: %v", name, err)
		}
		if left, _ := os.ReadDir(s.path("tmp")); len(left) != 0 {
			t.Errorf("%s: left in tmp: %v", name, left)
		}
	}
}
