package cri

import (
	"encoding/json"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// registry serves images over the distribution protocol, as far as a pull needs it.
type registry struct {
	mu        sync.Mutex
	blobs     map[string][]byte // by digest
	manifests map[string][]byte // by repository:tag and repository@digest
	stall     map[string]bool   // repositories whose blobs never come
}

const (
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	configType   = "application/vnd.oci.image.config.v1+json"
	layerType    = "application/vnd.oci.image.layer.v1.tar"
)

// startRegistry serves in the runtime's network namespace until the test's end.
func startRegistry(t *testing.T) *registry {
	t.Helper()
	if shared.kind == "other" {
		t.Skip("needs a runtime whose mirrors this test may set")
	}
	var listener net.Listener
	if err := shared.inNetns(func() (err error) {
		listener, err = net.Listen("tcp", registryAddress)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	r := &registry{blobs: map[string][]byte{}, manifests: map[string][]byte{}, stall: map[string]bool{}}
	server := &http.Server{Handler: r}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	mirrorAll(t)
	return r
}

// add stores an image of one layer and returns its manifest's digest.
func (r *registry) add(name string, config map[string]any, layer []byte) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	raw := imageConfig(config, layer)
	descriptor := func(kind string, content []byte) map[string]any {
		r.blobs["sha256:"+sum(content)] = content
		return map[string]any{"mediaType": kind, "digest": "sha256:" + sum(content), "size": len(content)}
	}
	manifest, _ := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": manifestType, "config": descriptor(configType, raw), "layers": []any{descriptor(layerType, layer)},
	})
	digest := "sha256:" + sum(manifest)
	repository, _, _ := strings.Cut(name, ":")
	r.manifests[name], r.manifests[repository+"@"+digest] = manifest, manifest
	return digest
}

func (r *registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	path := strings.TrimPrefix(req.URL.Path, "/v2/")
	repository, reference, isManifest := strings.Cut(path, "/manifests/")
	if !isManifest {
		repository, reference, _ = strings.Cut(path, "/blobs/")
	}
	r.mu.Lock()
	content, kind := r.blobs[reference], "application/octet-stream"
	if isManifest {
		separator := ":"
		if strings.HasPrefix(reference, "sha256:") {
			separator = "@"
		}
		content, kind = r.manifests[repository+separator+reference], manifestType
	}
	stall := r.stall[repository] && !isManifest
	r.mu.Unlock()
	switch {
	case path == "" || path == "/v2":
		w.WriteHeader(http.StatusOK)
	case content == nil:
		http.NotFound(w, req)
	case stall:
		<-req.Context().Done()
	default:
		w.Header().Set("Content-Type", kind)
		w.Header().Set("Docker-Content-Digest", "sha256:"+sum(content))
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		if req.Method != http.MethodHead {
			_, _ = w.Write(content)
		}
	}
}
