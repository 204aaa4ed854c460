package image

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// Fuzz targets: go test -fuzz FuzzX ./agent/runtime/image. What they found is kept under testdata/fuzz and runs with the
// tests.

var fuzzLimits = Limits{LayerBytes: 1 << 20, ImageBytes: 1 << 20, FileBytes: 1 << 20, LayerEntries: 200, Layers: 8, ConfigBytes: 64 << 10}.withDefaults()

func FuzzManifest(f *testing.F) {
	f.Add("application/vnd.oci.image.manifest.v1+json", []byte(`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":2},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":1}]}`))
	f.Add("", []byte(`{"schemaVersion":1,"fsLayers":[]}`))
	f.Add("application/vnd.oci.image.index.v1+json", []byte(`{"manifests":[{"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","platform":{"os":"linux","architecture":"arm","variant":"v7"}}]}`))
	f.Fuzz(func(t *testing.T, header string, data []byte) {
		kind := mediaType(header, data)
		if m, err := parseManifest(kind, data, fuzzLimits); err == nil {
			if len(m.Layers) > fuzzLimits.Layers {
				t.Error("too many layers were taken")
			}
			for _, l := range append(m.Layers, m.Config) {
				if l.Size < 0 || l.Digest.Validate() != nil || strings.ContainsAny(l.Digest.Encoded(), "/.") {
					t.Errorf("taken: %+v", l)
				}
			}
		}
		for _, arch := range []string{"amd64", "arm", "arm64", "riscv64"} {
			if d, err := choosePlatform(data, platformOf(arch)); err == nil && (d.Digest.Validate() != nil || d.Platform != nil && d.Platform.Architecture != arch) {
				t.Errorf("chosen: %+v", d)
			}
		}
		if c, err := parseConfig(data, 1); err == nil && len(c.RootFS.DiffIDs) != 1 {
			t.Error("a config of another number of layers was taken")
		}
	})
}

func FuzzContentRange(f *testing.F) {
	f.Add("bytes 5-9/10", int64(5), int64(10))
	f.Add("bytes 5-9/*", int64(5), int64(10))
	f.Fuzz(func(t *testing.T, header string, from, size int64) {
		if checkRange(header, from, size) == nil && !strings.HasPrefix(header, "bytes ") {
			t.Errorf("%q was taken for %d of %d", header, from, size)
		}
	})
}

// FuzzReference: what is no reference names no image. The grammar is FuzzParse's, in internal/imageref.
func FuzzReference(f *testing.F) {
	const sum = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for _, s := range []string{"busybox", "r.io:5000/a/b:1", "a:1@" + sum, "[::1]:5000/a", "../etc", sum[7:], sum, "Host", "a/B", "", ":1", "a@sha256:00", "\xff"} {
		f.Add(s)
	}
	s := &Store{images: map[string]*Image{"sha256:x": {ID: "sha256:x", RepoTags: []string{"docker.io/library/busybox:latest"}}}}
	f.Fuzz(func(t *testing.T, ref string) {
		name, err := Normalize(ref)
		if _, gerr := s.Get(ref); err != nil && gerr == nil {
			t.Errorf("%q is no reference and names an image", ref)
		}
		if err != nil {
			return
		}
		if again, err := Normalize(name); err != nil || again != name {
			t.Errorf("%q: %q, then %q, %v", ref, name, again, err)
		}
		named, err := parseReference(ref)
		if err != nil {
			t.Fatal(err)
		}
		(&Registries{}).endpoints(named.Domain)
	})
}

// tarOf reads fuzzed text as lines "type name link body" and packs them: mutations then reach past the header's checksum.
func tarOf(text string) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for line := range strings.Lines(text) {
		part := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(part) < 4 || part[0] == "" {
			continue
		}
		h := &tar.Header{Typeflag: part[0][0], Name: part[1], Linkname: part[2], Mode: 0o755, Uid: len(part[3]), ModTime: time.Unix(int64(len(text)), 0)}
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(part[3]))
		}
		if w.WriteHeader(h) == nil && h.Typeflag == tar.TypeReg {
			_, _ = io.WriteString(w, part[3])
		}
	}
	_ = w.Close()
	return buf.Bytes()
}

// FuzzLayer unpacks archives and looks that nothing appears outside, that what a layer may not hold isn't there, and that
// it can be taken away again.
func FuzzLayer(f *testing.F) {
	f.Add("5 d/ - -\n0 d/f - body\n1 l d/f -\n2 s /etc -\n0 s/passwd - evil\n0 .wh.x - -\n0 d/.wh..wh..opq - -\n0 .wh.d - -\n0 d/e/f - x\n", true)
	f.Add("2 a b -\n2 b a -\n0 a/x - -\n1 y ../../etc/passwd -\n6 p - -\n", true)
	f.Add(string(tarOf("0 f - body\n5 d - -\n")), false)
	f.Fuzz(func(t *testing.T, text string, packed bool) {
		if os.Getuid() != 0 {
			t.Skip("needs root")
		}
		data := []byte(text)
		if packed {
			data = tarOf(text)
		}
		top := t.TempDir()
		dir, lower := filepath.Join(top, "in"), filepath.Join(top, "lower")
		for _, d := range []string{dir, lower, filepath.Join(lower, "d")} {
			if err := os.Mkdir(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(lower, "d", "f"), []byte("lower"), 0o644); err != nil {
			t.Fatal(err)
		}
		var sums bytes.Buffer
		info, err := unpack(bytes.NewReader(data), dir, unpackOptions{limits: fuzzLimits, lower: []string{lower}, sums: &sums})
		if info.Bytes > fuzzLimits.LayerBytes+64<<10 {
			t.Errorf("%d bytes unpacked", info.Bytes)
		}
		if err == nil {
			if _, err := fingerprint(dir, nil); err != nil {
				t.Errorf("what was unpacked can't be read: %v", err)
			}
		}
		err = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.Type()&fs.ModeDevice != 0 {
				if st, err := d.Info(); err != nil || st.Mode()&fs.ModeCharDevice == 0 {
					t.Errorf("a device: %s, %v", path, err)
				}
			}
			rel, err := filepath.Rel(top, path)
			if err != nil {
				return err
			}
			if first, _, _ := strings.Cut(rel, "/"); rel != "." && first != "in" && first != "lower" {
				t.Errorf("outside of the layer: %s", rel)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		if b, err := os.ReadFile(filepath.Join(lower, "d", "f")); err != nil || string(b) != "lower" {
			t.Errorf("the layer below: %q, %v", b, err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("it can't be removed: %v", err)
		}
	})
}

func FuzzDecompress(f *testing.F) {
	f.Add(gzipped(f, []byte("hello")))
	f.Add(zstded(f, []byte("hello")))
	f.Fuzz(func(t *testing.T, data []byte) {
		z, err := decompress(bytes.NewReader(data), &sync.Pool{})
		if err != nil {
			return
		}
		defer z.Close()
		_, _ = io.Copy(io.Discard, io.LimitReader(z, 1<<20))
	})
}

// FuzzArchive imports damaged archives into a real store: nothing half done may stay. Either the archive itself is
// fuzzed, or what docker's format has in it; DIFF stands for the layer's digest.
func FuzzArchive(f *testing.F) {
	const manifest, config = `[{"Config":"c.json","RepoTags":["a:1"],"Layers":["l.tar"]}]`, `{"os":"linux","rootfs":{"diff_ids":["DIFF"]},"config":{"User":"1:1"}}`
	f.Add([]byte{}, manifest, config, "0 f - body\n5 d - -\n0 d/.wh.x - -\n")
	f.Add([]byte{}, `[{"Config":"manifest.json","RepoTags":null,"Layers":["l.tar","l.tar"]},{"Config":"../c.json"}]`, config, "2 l /etc -\n")
	f.Add(ociArchive(f, "r.io/a:1", nil, tarOf("0 f - body\n")), "", "", "")
	f.Add([]byte("hello"), "", "", "")
	f.Fuzz(func(t *testing.T, data []byte, manifest, config, layer string) {
		if os.Getuid() != 0 {
			t.Skip("needs root")
		}
		if len(data) == 0 {
			l := tarOf(layer)
			var buf bytes.Buffer
			w := tar.NewWriter(&buf)
			for name, text := range map[string]string{"manifest.json": manifest, "c.json": strings.ReplaceAll(config, "DIFF", digest.FromBytes(l).String()), "l.tar": string(l)} {
				if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Size: int64(len(text))}); err != nil {
					t.Fatal(err)
				}
				if _, err := io.WriteString(w, text); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			data = buf.Bytes()
		}
		s := &Store{
			cfg: Config{Dir: t.TempDir(), Limits: fuzzLimits, BootID: "b"}, log: slog.New(slog.DiscardHandler), images: map[string]*Image{}, busy: map[string]int{},
			downloads: make(chan struct{}, 1), unpacks: make(chan struct{}, 1),
		}
		for _, d := range []string{"images", "layers", "blobs", "snapshots", "tmp"} {
			if err := os.Mkdir(s.path(d), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		refs, err := s.Import(context.Background(), bytes.NewReader(data))
		if (err == nil) != (len(refs) > 0) {
			t.Errorf("%v, %v", refs, err)
		}
		if left, _ := os.ReadDir(s.path("tmp")); len(left) != 0 {
			t.Errorf("left in tmp: %v", left)
		}
		for _, img := range s.List() {
			if err := s.complete(&img); err != nil {
				t.Error(err)
			}
			if n := len(img.DiffIDs); n > fuzzLimits.Layers {
				t.Errorf("%d layers", n)
			}
		}
	})
}

// answers plays a registry out of fuzzed bytes: each request takes the next answer.
type answers struct {
	list []string
}

func (a *answers) RoundTrip(r *http.Request) (*http.Response, error) {
	if len(a.list) == 0 {
		return nil, io.ErrClosedPipe
	}
	head, body, _ := strings.Cut(a.list[0], "\n\n")
	a.list = a.list[1:]
	resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, ContentLength: -1, Request: r, ProtoMajor: 1, ProtoMinor: 1}
	for i, line := range strings.Split(head, "\n") {
		if i == 0 {
			for _, code := range []int{206, 301, 401, 403, 404, 416, 429, 500} {
				if strings.HasPrefix(line, http.StatusText(code)) || line == string(rune('0'+code%10)) {
					resp.StatusCode = code
				}
			}
			continue
		}
		if k, v, ok := strings.Cut(line, ": "); ok {
			resp.Header.Add(k, v)
		}
	}
	resp.Body = io.NopCloser(strings.NewReader(body))
	return resp, nil
}

// FuzzRegistry answers requests for a manifest, a config and a blob with anything: statuses, challenges, tokens, ranges.
func FuzzRegistry(f *testing.F) {
	f.Add("Unauthorized\nWww-Authenticate: Bearer realm=\"https://r.test/token\",service=\"s\",scope=\"repository:a:pull\"\n\n\x00\n\n{\"token\":\"t\"}\x00\nContent-Type: application/vnd.oci.image.manifest.v1+json\n\n{\"schemaVersion\":2}")
	f.Add("Partial Content\nContent-Range: bytes 3-9/10\n\nabcdefg\x00Forbidden\n\n{\"errors\":[{\"code\":\"DENIED\",\"message\":\"no\"}]}")
	f.Add("Moved Permanently\nLocation: http://169.254.169.254/\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		list := strings.SplitN(text, "\x00", 12)
		r := &repository{
			base: "https://r.test/v2/a", scope: "repository:a:pull", limit: 64 << 10,
			client: &auth.Client{
				Client: &http.Client{Transport: &answers{list: list}}, Cache: auth.NewSingleContextCache(),
				Credential: func(context.Context, string) (auth.Credential, error) {
					return auth.Credential{Username: "u", Password: "hunter2"}, nil
				},
			},
		}
		want := digest.FromString("abcdefghij")
		if desc, data, err := r.manifest(context.Background(), want.String()); err == nil && digest.FromBytes(data) != want {
			t.Errorf("taken: %v", desc)
		} else if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the password in an error: %v", err)
		}
		if data, err := r.config(context.Background(), ocispec.Descriptor{Digest: want, Size: 10}); err == nil && string(data) != "abcdefghij" {
			t.Errorf("taken: %q", data)
		}
		dir := t.TempDir()
		s := &Store{cfg: Config{Dir: dir}, log: slog.New(slog.DiscardHandler)}
		file, err := os.Create(filepath.Join(dir, "blob"))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if _, err := file.WriteString("abc"); err != nil {
			t.Fatal(err)
		}
		d := &download{store: s, from: r, desc: ocispec.Descriptor{Digest: want, Size: 10}, f: file}
		if err := d.begin(context.Background(), 3); err != nil {
			t.Fatal(err)
		}
		if err := d.attempt(context.Background()); err == nil && d.size == 10 && d.hash.Digest() == want {
			if b, err := os.ReadFile(file.Name()); err != nil || string(b) != "abcdefghij" {
				t.Errorf("the file holds %q, %v", b, err)
			}
		}
		if st, err := file.Stat(); err != nil || st.Size() > 10 {
			t.Errorf("the file has %d bytes, %v", st.Size(), err)
		}
	})
}
