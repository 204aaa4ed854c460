package chaos

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand"
	"net/http"
	"os"
	"runtime"
	"testing"
	"time"
)

// registry serves one image over the distribution protocol, at the lab's switch.
type registry map[string][]byte // by path

func (g registry) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	content, found := g[q.URL.Path]
	if !found {
		http.Error(w, `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`, http.StatusNotFound)
		return
	}
	if content == nil { // /v2/
		return
	}
	w.Header().Set("Docker-Content-Digest", digest(content))
	if q.URL.Path == manifestPath {
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
	}
	http.ServeContent(w, q, "", time.Time{}, bytes.NewReader(content))
}

const (
	pulled       = "chaos.local/pulled:1"
	manifestPath = "/v2/pulled/manifests/1"
)

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// startRegistry serves an image with some megabytes that don't compress, and tells the node where.
func startRegistry(t *testing.T) {
	t.Helper()
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	noise := make([]byte, 8<<20)
	_, _ = rand.New(rand.NewSource(1)).Read(noise)
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for name, data := range map[string][]byte{"busybox": program, "noise": noise} {
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
	g := registry{"/v2/": nil}
	blob := func(mediaType string, content []byte) map[string]any {
		g["/v2/pulled/blobs/"+digest(content)] = content
		return map[string]any{"mediaType": mediaType, "digest": digest(content), "size": len(content)}
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "config": map[string]any{"Entrypoint": []string{"/busybox"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digest(layer.Bytes())}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if g[manifestPath], err = json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": blob("application/vnd.oci.image.config.v1+json", config),
		"layers": []any{blob("application/vnd.oci.image.layer.v1.tar", layer.Bytes())},
	}); err != nil {
		t.Fatal(err)
	}
	listener, err := cluster.Listen(subnet + ".1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: g, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	mirror := fmt.Sprintf("mirrors: {chaos.local: {endpoints: [\"http://%s\"]}}\n", listener.Addr())
	if err := os.WriteFile(place().Dirs.Registries(), []byte(mirror), 0o600); err != nil {
		t.Fatal(err)
	}
}
