package image

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// testRegistry is a real registry with faults in front of it.
type testRegistry struct {
	*httptest.Server
	host string

	mu sync.Mutex
	// fault sees each request for the blob faulty; true means that it has answered.
	fault  func(w http.ResponseWriter, r *http.Request, n int) bool
	faulty string
	gets   map[string][]string // of blobs: path to the Range headers of its requests
}

func newRegistry(t testing.TB, wrap ...func(http.Handler) http.Handler) *testRegistry {
	reg := &testRegistry{gets: map[string][]string{}}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	var h http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/sha256:") {
			reg.mu.Lock()
			reg.gets[r.URL.Path] = append(reg.gets[r.URL.Path], r.Header.Get("Range"))
			n, fault := len(reg.gets[r.URL.Path]), reg.fault
			ours := strings.HasSuffix(r.URL.Path, reg.faulty)
			reg.mu.Unlock()
			if fault != nil && ours && fault(w, r, n) {
				return
			}
		}
		inner.ServeHTTP(w, r)
	})
	for _, f := range wrap {
		h = f(h)
	}
	reg.Server = httptest.NewServer(h)
	t.Cleanup(reg.Close)
	reg.host = strings.TrimPrefix(reg.URL, "http://")
	return reg
}

// ranges returns the Range headers with which a blob was asked for.
func (g *testRegistry) ranges(d digest.Digest) []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	for path, r := range g.gets {
		if strings.HasSuffix(path, d.String()) {
			return r
		}
	}
	return nil
}

func (g *testRegistry) reset(blob string, fault func(http.ResponseWriter, *http.Request, int) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gets, g.fault, g.faulty = map[string][]string{}, fault, blob
}

func (g *testRegistry) send(t testing.TB, method, path, kind string, body []byte) {
	t.Helper()
	req, err := http.NewRequest(method, g.URL+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", kind)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode >= 300 {
		t.Fatalf("%s %s: %s", method, path, resp.Status)
	}
}

func (g *testRegistry) pushBlob(t testing.TB, repo, kind string, data []byte) ocispec.Descriptor {
	t.Helper()
	d := digest.FromBytes(data)
	g.send(t, http.MethodPost, fmt.Sprintf("/v2/%s/blobs/uploads/?digest=%s", repo, d), "application/octet-stream", data)
	return ocispec.Descriptor{MediaType: kind, Digest: d, Size: int64(len(data))}
}

func (g *testRegistry) pushManifest(t testing.TB, repo, tag, kind string, m any) ocispec.Descriptor {
	t.Helper()
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	g.send(t, http.MethodPut, fmt.Sprintf("/v2/%s/manifests/%s", repo, tag), kind, data)
	return ocispec.Descriptor{MediaType: kind, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

// builtImage is an image under test: layers as plain tar archives.
type builtImage struct {
	layers   [][]byte
	compress func(testing.TB, []byte) []byte
	kind     string // layer media type
	docker   bool
	config   func(*ocispec.Image)
	manifest func(*ocispec.Manifest)
}

// push uploads the image and returns its manifest's descriptor and its layers'.
func (b builtImage) push(t testing.TB, g *testRegistry, repo, tag string) (ocispec.Descriptor, []ocispec.Descriptor) {
	t.Helper()
	if b.compress == nil {
		b.compress = gzipped
	}
	configType, manifestType := ocispec.MediaTypeImageConfig, ocispec.MediaTypeImageManifest
	if b.kind == "" {
		b.kind = ocispec.MediaTypeImageLayerGzip
	}
	if b.docker {
		configType, manifestType, b.kind = dockerConfigType, dockerManifestType, "application/vnd.docker.image.rootfs.diff.tar.gzip"
	}
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}}
	m := ocispec.Manifest{MediaType: manifestType}
	m.SchemaVersion = 2
	for _, l := range b.layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(l))
		m.Layers = append(m.Layers, g.pushBlob(t, repo, b.kind, b.compress(t, l)))
	}
	if b.config != nil {
		b.config(&config)
	}
	data, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	m.Config = g.pushBlob(t, repo, configType, data)
	if b.manifest != nil {
		b.manifest(&m)
	}
	return g.pushManifest(t, repo, tag, manifestType, m), m.Layers
}

func gzipped(t testing.TB, data []byte) []byte {
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	if _, err := z.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func zstded(t testing.TB, data []byte) []byte {
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	return z.EncodeAll(data, nil)
}

// noise is data that compression leaves about as large as it is.
func noise(n int, seed uint64) string {
	out := make([]byte, n)
	for i := range out {
		seed = seed*6364136223846793005 + 1442695040888963407
		out[i] = byte(seed >> 56)
	}
	return string(out)
}
