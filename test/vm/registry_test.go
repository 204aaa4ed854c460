package vm

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// registry serves images over the distribution protocol, at the pace of a thin line, so that a power cut finds pulls on
// their way. The guest sees this machine's loopback as 10.0.2.2.
type registry struct {
	mu    sync.Mutex
	files map[string][]byte // by path
	sent  atomic.Int64      // bytes of blobs
	asked sync.Map          // paths of blobs that were asked for with a Range
	port  string
}

const bytesPerSecond = 1 << 20 // a connection

func startRegistry(t *testing.T) *registry {
	t.Helper()
	r := &registry{files: map[string][]byte{}}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	r.port = port
	return r
}

// mirror is the guest's registries.yaml.
func (r *registry) mirror() string {
	return fmt.Sprintf("mirrors: {vm.local: {endpoints: [\"http://10.0.2.2:%s\"]}}", r.port)
}

func (r *registry) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	r.mu.Lock()
	content, found := r.files[q.URL.Path]
	r.mu.Unlock()
	if q.URL.Path == "/v2/" {
		return
	}
	if !found {
		http.Error(w, `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`, http.StatusNotFound)
		return
	}
	w.Header().Set("Docker-Content-Digest", digest(content))
	if !strings.Contains(q.URL.Path, "/blobs/") {
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		_, _ = w.Write(content)
		return
	}
	if q.Header.Get("Range") != "" {
		r.asked.Store(q.URL.Path, true)
	}
	http.ServeContent(paced{w, q, &r.sent}, q, "", time.Time{}, bytes.NewReader(content))
}

// paced writes slowly. That is a line's pace and no wait for an event.
type paced struct {
	http.ResponseWriter
	request *http.Request
	sent    *atomic.Int64
}

func (p paced) Write(data []byte) (int, error) {
	for done := 0; done < len(data); {
		n := min(16<<10, len(data)-done)
		select {
		case <-time.After(time.Second * time.Duration(n) / bytesPerSecond):
		case <-p.request.Context().Done():
			return done, p.request.Context().Err()
		}
		written, err := p.ResponseWriter.Write(data[done : done+n])
		p.sent.Add(int64(written))
		if done += written; err != nil {
			return done, err
		}
		p.ResponseWriter.(http.Flusher).Flush()
	}
	return len(data), nil
}

// ReadFrom keeps io.Copy from going past Write.
func (p paced) ReadFrom(from io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{p}, from)
}

// add makes an image of busybox and layers of files that don't compress, with their sums in /sums, and returns its bytes.
func (r *registry) add(t *testing.T, name, tag string, random *rand.Rand) int64 {
	t.Helper()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	layers := []map[string][]byte{{"busybox": busybox}}
	var sums bytes.Buffer
	for layer := range 4 {
		files := map[string][]byte{}
		for file := range 3 {
			data := make([]byte, 300<<10+random.Intn(200<<10))
			random.Read(data)
			name := fmt.Sprintf("data-%d-%d", layer, file)
			files[name] = data
			fmt.Fprintf(&sums, "%s  /%s\n", strings.TrimPrefix(digest(data), "sha256:"), name)
		}
		layers = append(layers, files)
	}
	layers = append(layers, map[string][]byte{"sums": sums.Bytes()})

	total := int64(0)
	blob := func(kind string, content []byte) map[string]any {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.files["/v2/"+name+"/blobs/"+digest(content)] = content
		total += int64(len(content))
		return map[string]any{"mediaType": "application/vnd.oci.image." + kind, "digest": digest(content), "size": len(content)}
	}
	var descriptors []any
	var ids []string
	for _, files := range layers {
		plain := archive(t, files)
		ids = append(ids, digest(plain))
		descriptors = append(descriptors, blob("layer.v1.tar+gzip", squeeze(t, plain)))
	}
	config := encode(t, map[string]any{
		"architecture": "amd64", "os": "linux", "config": map[string]any{"Entrypoint": []string{"/busybox"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": ids},
	})
	manifest := encode(t, map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": blob("config.v1+json", config), "layers": descriptors,
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.files["/v2/"+name+"/manifests/"+tag], r.files["/v2/"+name+"/manifests/"+digest(manifest)] = manifest, manifest
	return total
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func archive(t *testing.T, files map[string][]byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for name, data := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(data)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func squeeze(t *testing.T, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
