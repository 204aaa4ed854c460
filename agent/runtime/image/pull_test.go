package image

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mote-edge/mote/agent/runtime/mounts"
)

func registriesYAML(t *testing.T, s *Store, text string) {
	t.Helper()
	if err := os.WriteFile(s.cfg.Registries, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Docker's and OCI's manifests, gzip, zstd and no compression all make the same root.
func TestFormats(t *testing.T) {
	layer := makeTar(t, entry{name: "f", body: "content"})
	plain := func(_ testing.TB, b []byte) []byte { return b }
	for name, b := range map[string]builtImage{
		"docker schema 2": {docker: true}, "OCI gzip": {}, "OCI zstd": {compress: zstded, kind: ocispec.MediaTypeImageLayerZstd},
		"OCI plain": {compress: plain, kind: ocispec.MediaTypeImageLayer}, "the media type lies": {compress: zstded, kind: ocispec.MediaTypeImageLayerGzip},
	} {
		t.Run(name, func(t *testing.T) {
			s, g := openStore(t), newRegistry(t)
			b.layers = [][]byte{layer, layer} // twice the same, as some builders do
			desc, _ := b.push(t, g, "app", "1")
			id, err := s.Pull(t.Context(), g.host+"/app:1", Auth{})
			if err != nil {
				t.Fatal(err)
			}
			img, err := s.Get(g.host + "/app:1")
			if err != nil || img.ID != id || !slices.Equal(img.RepoDigests, []string{g.host + "/app@" + desc.Digest.String()}) {
				t.Errorf("%+v, %v", img, err)
			}
			if b, err := os.ReadFile(filepath.Join(s.layerDir(sha(layer)), "fs", "f")); err != nil || string(b) != "content" {
				t.Errorf("%q, %v", b, err)
			}
			// The same by its digest alone: nothing is fetched twice, and no tag appears.
			if _, err := s.Pull(t.Context(), g.host+"/app@"+desc.Digest.String(), Auth{}); err != nil || len(s.List()) != 1 {
				t.Errorf("by digest: %v, %d images", err, len(s.List()))
			}
		})
	}
}

// What this runtime can't run is refused with the reason.
func TestRefusedManifests(t *testing.T) {
	layer := makeTar(t, entry{name: "f", body: "content"})
	one := func(f func(*ocispec.Manifest)) builtImage { return builtImage{layers: [][]byte{layer}, manifest: f} }
	for name, c := range map[string]struct {
		b      builtImage
		err    error
		reason string
	}{
		"foreign layer": {one(func(m *ocispec.Manifest) {
			m.Layers[0].MediaType = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
		}), ErrUnsupported, "a foreign layer"},
		"nondistributable": {one(func(m *ocispec.Manifest) {
			m.Layers[0].MediaType = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
		}), ErrUnsupported, "a foreign layer"},
		"encrypted":           {one(func(m *ocispec.Manifest) { m.Layers[0].MediaType += "+encrypted" }), ErrUnsupported, "an encrypted layer"},
		"unknown layer":       {one(func(m *ocispec.Manifest) { m.Layers[0].MediaType = "application/x-cpio" }), ErrUnsupported, `layer type "application/x-cpio"`},
		"artifact":            {one(func(m *ocispec.Manifest) { m.Config.MediaType = "application/vnd.cncf.helm.config.v1+json" }), ErrUnsupported, "not a container image but an artifact"},
		"a layer too few":     {one(func(m *ocispec.Manifest) { m.Layers = nil }), ErrBadArchive, "the manifest has 0 layers and the config 1"},
		"not a digest":        {one(func(m *ocispec.Manifest) { m.Layers[0].Digest = "sha256:../../etc/passwd" }), ErrBadArchive, "digest"},
		"unknown digest":      {one(func(m *ocispec.Manifest) { m.Layers[0].Digest = "md5:d41d8cd98f00b204e9800998ecf8427e" }), ErrBadArchive, "digest"},
		"negative size":       {one(func(m *ocispec.Manifest) { m.Layers[0].Size = -1 }), ErrBadArchive, "negative size"},
		"absurd size":         {one(func(m *ocispec.Manifest) { m.Layers[0].Size = 1 << 60 }), ErrTooBig, "bytes"},
		"absurd config":       {one(func(m *ocispec.Manifest) { m.Config.Size = 1 << 40 }), ErrTooBig, "config"},
		"wrong config size":   {one(func(m *ocispec.Manifest) { m.Config.Size += 5 }), errMismatch, "config"},
		"wrong layer size":    {one(func(m *ocispec.Manifest) { m.Layers[0].Size += 5 }), errMismatch, "blob"},
		"too many layers":     {one(func(m *ocispec.Manifest) { m.Layers = slices.Repeat(m.Layers, 257) }), ErrTooBig, "257 layers, 256 are allowed"},
		"another machine":     {builtImage{layers: [][]byte{layer}, config: func(i *ocispec.Image) { i.Architecture = "s390x" }}, ErrUnsupported, "it is built for s390x"},
		"another system":      {builtImage{layers: [][]byte{layer}, config: func(i *ocispec.Image) { i.OS = "windows" }}, ErrUnsupported, `built for "windows"`},
		"wrong diff ID":       {builtImage{layers: [][]byte{layer}, config: func(i *ocispec.Image) { i.RootFS.DiffIDs[0] = digest.FromString("x") }}, nil, "does not match its digest"},
		"hostile diff ID":     {builtImage{layers: [][]byte{layer}, config: func(i *ocispec.Image) { i.RootFS.DiffIDs[0] = "sha256:../../../etc" }}, ErrBadArchive, "digest"},
		"not a tar archive":   {builtImage{layers: [][]byte{[]byte(noise(5000, 9))}}, nil, "truncated or damaged archive"},
		"truncated archive":   {builtImage{layers: [][]byte{makeTar(t, entry{name: "f", body: noise(5000, 9)})[:3000]}}, nil, "truncated or damaged archive"},
		"truncated gzip":      {builtImage{layers: [][]byte{layer}, compress: func(t testing.TB, b []byte) []byte { z := gzipped(t, b); return z[:len(z)-12] }}, nil, "truncated or damaged archive"},
		"more than ever fits": {builtImage{layers: [][]byte{layer}, compress: func(testing.TB, []byte) []byte { return []byte("\x28\xb5\x2f\xfd\x00\xf8" + noise(100, 5)) }}, nil, "layer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, g := openStore(t), newRegistry(t)
			if strings.Contains(name, "digest") && c.b.manifest != nil || name == "absurd size" {
				// ggcr's registry refuses these itself: one that doesn't check stands in front of it.
				g = lenient(t, c.b)
			} else {
				c.b.push(t, g, "app", "1")
			}
			_, err := s.Pull(t.Context(), g.host+"/app:1", Auth{})
			if err == nil || c.err != nil && !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.reason) {
				t.Errorf("error %v, want %v: %s", err, c.err, c.reason)
			}
			if strings.ContainsRune(fmt.Sprint(err), '\n') {
				t.Errorf("more than one line: %q", err)
			}
			if len(s.List()) != 0 {
				t.Errorf("images %v", s.List())
			}
		})
	}
}

// lenient is a registry that serves any manifest.
func lenient(t *testing.T, b builtImage) *testRegistry {
	t.Helper()
	var manifest []byte
	g := newRegistry(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/manifests/") && manifest != nil {
				w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
				_, _ = w.Write(manifest)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	change := b.manifest
	b.manifest = nil
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest}
	m.SchemaVersion = 2
	b.manifest = func(pushed *ocispec.Manifest) { m.Config, m.Layers = pushed.Config, slices.Clone(pushed.Layers) }
	b.push(t, g, "app", "1")
	change(&m)
	var err error
	if manifest, err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	return g
}

// Schema 1 and other answers that are no manifests; a tag whose registry says one digest and sends another.
func TestStrangeManifests(t *testing.T) {
	for name, c := range map[string]struct{ kind, digest, body, reason string }{
		"schema 1":            {"application/vnd.docker.distribution.manifest.v1+prettyjws", "", `{"schemaVersion":1,"name":"app","fsLayers":[{"blobSum":"sha256:x"}]}`, "schema version 1"},
		"schema 1, not said":  {"application/json", "", `{"schemaVersion":1,"fsLayers":[]}`, "schema version 1"},
		"a web page":          {"text/html", "", "<html>Login</html>", `manifest type "text/html"`},
		"nothing":             {"", "", "", "manifest type"},
		"another digest":      {ocispec.MediaTypeImageManifest, string(digest.FromString("x")), `{"schemaVersion":2,"layers":[]}`, "does not match its digest"},
		"an empty index":      {ocispec.MediaTypeImageIndex, "", `{"schemaVersion":2,"manifests":[]}`, "no match for platform"},
		"an endless manifest": {ocispec.MediaTypeImageManifest, "", strings.Repeat(" ", 5<<20), "more than 4194304 bytes"},
		"an index of itself":  {"", "", "loop", "nested more than"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openStore(t)
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body := c.body
				if body == "loop" { // each index names the next: the depth of the path makes its digest
					at := filepath.Base(r.URL.Path)
					next := loop(at)
					w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
					_, _ = w.Write(next)
					return
				}
				if c.kind != "" {
					w.Header().Set("Content-Type", c.kind)
				}
				if c.digest != "" {
					w.Header().Set("Docker-Content-Digest", c.digest)
				}
				_, _ = w.Write([]byte(body))
			}))
			defer srv.Close()
			_, err := s.Pull(t.Context(), strings.TrimPrefix(srv.URL, "http://")+"/app:1", Auth{})
			if err == nil || !strings.Contains(err.Error(), c.reason) {
				t.Errorf("error %v, want %s", err, c.reason)
			}
		})
	}
}

// loop serves a chain of indexes, built from its end so that the digests are right.
func loop(asked string) []byte {
	d := digest.FromString("the end")
	var chain [][]byte
	for range 6 {
		idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{{
			MediaType: ocispec.MediaTypeImageIndex, Digest: d, Size: 1, Platform: &ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
		}}}
		data, err := json.Marshal(idx)
		if err != nil {
			panic(err)
		}
		d = digest.FromBytes(data)
		chain = append(chain, data)
	}
	for _, c := range chain {
		if digest.FromBytes(c).String() == asked {
			return c
		}
	}
	return chain[len(chain)-1]
}

// An index leads to this machine's image, and its own digest is what the image is known by.
func TestIndex(t *testing.T) {
	s, g := openStore(t), newRegistry(t)
	wrong, _ := builtImage{layers: [][]byte{makeTar(t, entry{name: "wrong"})}, config: func(i *ocispec.Image) { i.Architecture = "s390x" }}.push(t, g, "app", "w")
	right, _ := builtImage{layers: [][]byte{makeTar(t, entry{name: "right"})}}.push(t, g, "app", "r")
	wrong.Platform = &ocispec.Platform{OS: "linux", Architecture: "s390x"}
	right.Platform = &ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}
	attestation := wrong
	attestation.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{attestation, wrong, right}}
	idx.SchemaVersion = 2
	top := g.pushManifest(t, "app", "1", ocispec.MediaTypeImageIndex, idx)
	if _, err := s.Pull(t.Context(), g.host+"/app:1", Auth{}); err != nil {
		t.Fatal(err)
	}
	if img, err := s.Get(g.host + "/app@" + top.Digest.String()); err != nil || img.Config.Architecture != runtime.GOARCH {
		t.Errorf("%+v, %v", img, err)
	}
	idx.Manifests = idx.Manifests[:2]
	g.pushManifest(t, "app", "2", ocispec.MediaTypeImageIndex, idx)
	if _, err := s.Pull(t.Context(), g.host+"/app:2", Auth{}); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "but for linux/s390x") || strings.Contains(err.Error(), "unknown") {
		t.Errorf("error %v", err)
	}
}

func TestChoosePlatform(t *testing.T) {
	for name, c := range map[string]struct{ arch, have, want string }{
		"plain":                   {"amd64", "linux/arm64 linux/amd64", "linux/amd64"},
		"the best variant":        {"arm", "linux/arm/v5 linux/arm/v6 linux/arm/v7", "linux/arm/v7"},
		"a lesser variant":        {"arm", "linux/arm/v5 linux/arm/v6", "linux/arm/v6"},
		"no variant is the usual": {"arm", "linux/arm/v5 linux/arm", "linux/arm"},
		"a variant too high":      {"arm", "linux/arm/v8", ""},
		"arm64's variant":         {"arm64", "linux/arm/v8 linux/arm64/v8", "linux/arm64/v8"},
		"a newer amd64":           {"amd64", "linux/amd64/v3", ""},
		"the first of equals":     {"amd64", "linux/amd64 linux/amd64", "linux/amd64"},
		"another system":          {"amd64", "windows/amd64", ""},
		"none is named":           {"amd64", "windows/amd64 -", "-"},
		"named before unnamed":    {"amd64", "- linux/amd64", "linux/amd64"},
	} {
		t.Run(name, func(t *testing.T) {
			var idx ocispec.Index
			for _, p := range strings.Fields(c.have) {
				d := ocispec.Descriptor{Digest: digest.FromString(p)}
				if part := strings.Split(p, "/"); len(part) > 1 {
					d.Platform = &ocispec.Platform{OS: part[0], Architecture: part[1]}
					if len(part) > 2 {
						d.Platform.Variant = part[2]
					}
				}
				idx.Manifests = append(idx.Manifests, d)
			}
			data, err := json.Marshal(idx)
			if err != nil {
				t.Fatal(err)
			}
			got, err := choosePlatform(data, platformOf(c.arch))
			if (err == nil) != (c.want != "") || err == nil && got.Digest != digest.FromString(c.want) {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
}

// guarded is a registry behind basic or token authentication; it notes who came.
type guarded struct {
	mu     sync.Mutex
	came   []string // "user:password" at the token server or the registry
	tokens bool
	self   string
}

func (a *guarded) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, basic := r.BasicAuth()
		if basic {
			a.mu.Lock()
			a.came = append(a.came, user+":"+password)
			a.mu.Unlock()
		}
		ok := basic && user == "u" && password == "p"
		switch {
		case r.Method != http.MethodGet: // pushing isn't under test
			next.ServeHTTP(w, r)
		case r.URL.Path == "/token" && ok && r.URL.Query().Get("scope") == "repository:app:pull" && r.URL.Query().Get("service") == "svc":
			fmt.Fprint(w, `{"token":"secret-token"}`)
		case r.URL.Path == "/token":
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`)
		case a.tokens && r.Header.Get("Authorization") == "Bearer secret-token", !a.tokens && ok:
			next.ServeHTTP(w, r)
		case a.tokens:
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="svc",scope="repository:app:pull"`, a.self))
			w.WriteHeader(http.StatusUnauthorized)
		default:
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
}

func TestAuthentication(t *testing.T) {
	for _, tokens := range []bool{false, true} {
		a := &guarded{tokens: tokens}
		g := newRegistry(t, a.wrap)
		a.self = g.URL
		builtImage{layers: [][]byte{makeTar(t, entry{name: "f", body: "x"})}}.push(t, g, "app", "1")
		for name, c := range map[string]struct {
			creds Auth
			conf  string
			err   error
		}{
			"with the pull":              {creds: Auth{Username: "u", Password: "p"}},
			"wrong":                      {creds: Auth{Username: "u", Password: "q"}, err: ErrDenied},
			"none":                       {err: ErrDenied},
			"the node's":                 {conf: "configs:\n  HOST:\n    auth: {username: u, password: p}\n"},
			"the node's for elsewhere":   {conf: "configs:\n  elsewhere:\n    auth: {username: u, password: p}\n", err: ErrDenied},
			"the pull's over the node's": {creds: Auth{Username: "u", Password: "q"}, conf: "configs:\n  HOST:\n    auth: {username: u, password: p}\n", err: ErrDenied},
			"a registry token":           {creds: Auth{RegistryToken: "secret-token"}, err: map[bool]error{false: ErrDenied}[tokens]},
		} {
			t.Run(fmt.Sprintf("%s, tokens %v", name, tokens), func(t *testing.T) {
				s := openStore(t)
				registriesYAML(t, s, strings.ReplaceAll(c.conf, "HOST", g.host))
				_, err := s.Pull(t.Context(), g.host+"/app:1", c.creds)
				if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
					t.Errorf("error %v, want %v", err, c.err)
				}
				if err != nil && strings.Contains(err.Error(), "secret") {
					t.Errorf("a secret in the error: %v", err)
				}
			})
		}
	}
}

// A pull secret is for the registry that the image names: a mirror doesn't see it.
func TestMirrorsDoNotGetPullSecrets(t *testing.T) {
	a := &guarded{}
	mirror := newRegistry(t, a.wrap)
	b := &guarded{}
	origin := newRegistry(t, b.wrap)
	builtImage{layers: [][]byte{makeTar(t, entry{name: "f", body: "x"})}}.push(t, mirror, "app", "1")
	builtImage{layers: [][]byte{makeTar(t, entry{name: "f", body: "x"})}}.push(t, origin, "app", "1")
	s := openStore(t)
	registriesYAML(t, s, fmt.Sprintf("mirrors:\n  %q:\n    endpoints: [%s]\n", origin.host, mirror.URL))
	if _, err := s.Pull(t.Context(), origin.host+"/app:1", Auth{Username: "u", Password: "p"}); err != nil {
		t.Fatal(err)
	}
	if len(a.came) != 0 || len(b.came) == 0 {
		t.Errorf("the mirror saw %q, the registry %q", a.came, b.came)
	}
	registriesYAML(t, s, fmt.Sprintf("mirrors:\n  %q:\n    endpoints: [%s]\nconfigs:\n  %q:\n    auth: {username: u, password: p}\n", origin.host, mirror.URL, mirror.host))
	b.came = nil
	if _, err := s.Pull(t.Context(), origin.host+"/app:1", Auth{Username: "x", Password: "y"}); err != nil {
		t.Fatal(err) // read anew: the mirror's own credentials
	}
	if slices.Contains(a.came, "x:y") || len(b.came) != 0 {
		t.Errorf("the mirror saw %q, the registry %q", a.came, b.came)
	}
}

func TestEndpoints(t *testing.T) {
	r := &Registries{Mirrors: map[string]Mirror{
		"docker.io": {Endpoints: []string{"http://10.0.0.5:5000", "https://harbor.test/v2/hub/"}}, "*": {Endpoints: []string{"https://all.test"}},
	}, Configs: map[string]RegistryConfig{"127.0.0.1:7": {TLS: &RegistryTLS{InsecureSkipVerify: true}}, "docker.io": {Auth: &RegistryAuth{Username: "u"}}}}
	for registry, want := range map[string][]endpoint{
		"docker.io":      {{host: "10.0.0.5:5000", plain: true, mirror: true}, {host: "harbor.test", prefix: "hub/", mirror: true}, {host: hubHost}},
		"r.io":           {{host: "all.test", mirror: true}, {host: "r.io"}},
		"localhost:5000": {{host: "all.test", mirror: true}, {host: "localhost:5000", plain: true}},
		"127.0.0.1:7":    {{host: "all.test", mirror: true}, {host: "127.0.0.1:7"}},
	} {
		if got := r.endpoints(registry); !slices.Equal(got, want) {
			t.Errorf("%s: %+v, want %+v", registry, got, want)
		}
	}
	if r.config(hubHost).Auth.Username != "u" {
		t.Error("docker.io's credentials aren't found under its API's host")
	}
}

// TLS: an authority of one's own, none at all, and the refusal of what isn't trusted.
func TestTLS(t *testing.T) {
	plain := newRegistry(t)
	builtImage{layers: [][]byte{makeTar(t, entry{name: "f", body: "x"})}}.push(t, plain, "app", "1")
	target, err := url.Parse(plain.URL)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewTLSServer(httputil.NewSingleHostReverseProxy(target))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "https://")
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ tls, err string }{
		"its authority": {"caFile: " + ca, ""}, "anybody": {"insecureSkipVerify: true", ""}, "the system's authorities": {"insecureSkipVerify: false", "certificate"},
		"no such file": {"caFile: /nowhere", "caFile"}, "not a certificate": {"caFile: /etc/hostname", "holds no PEM certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t)
			registriesYAML(t, s, fmt.Sprintf("configs:\n  %q:\n    tls: {%s}\n", host, c.tls))
			_, err := s.Pull(t.Context(), host+"/app:1", Auth{})
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("error %v, want %q", err, c.err)
			}
		})
	}
}

// HTTP_PROXY and NO_PROXY count as they are at the time of the pull.
func TestProxy(t *testing.T) {
	g := newRegistry(t)
	builtImage{layers: [][]byte{makeTar(t, entry{name: "f", body: "x"})}}.push(t, g, "app", "1")
	target, err := url.Parse(g.URL)
	if err != nil {
		t.Fatal(err)
	}
	var through []string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		through = append(through, r.URL.Host)
		httputil.NewSingleHostReverseProxy(target).ServeHTTP(w, r)
	}))
	defer proxy.Close()
	s := openStore(t)
	registriesYAML(t, s, "mirrors:\n  registry.test:\n    endpoints: [http://registry.test]\n")
	t.Setenv("HTTP_PROXY", proxy.URL)
	if _, err := s.Pull(t.Context(), "registry.test/app:1", Auth{}); err != nil || len(through) == 0 || through[0] != "registry.test" {
		t.Fatalf("error %v, through the proxy: %q", err, through)
	}
	through = nil
	t.Setenv("NO_PROXY", "registry.test")
	if _, err := s.Pull(t.Context(), "registry.test/app:1", Auth{}); err == nil || len(through) != 0 {
		t.Errorf("error %v, through the proxy: %q", err, through)
	}
}

func TestRegistriesFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registries.yaml")
	for text, want := range map[string]string{
		"":                                      "",
		"mirrors: {a: {endpoints: [http://x]}}": "",
		"mirrors: {a: {endpoints: [x:5000]}}":   "write it as http://host:port",
		"mirrors: {a: {endpoint: [http://x]}}":  "unknown field",
		"configs: 7":                            "registries.yaml",
		"limits: {layerBytes: 5, layers: 10}":   "",
		"limits: {layerBytes: -5}":              "limits are positive numbers",
		"limits: {layers: 501}":                 "at most 500 layers",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := loadRegistries(path); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// Limits come from the same file, at the start.
func TestConfiguredLimits(t *testing.T) {
	s := openStore(t)
	registriesYAML(t, s, "limits: {fileBytes: 5}")
	s.cfg.Limits = Limits{}
	s, err := Open(s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if s.cfg.Limits.FileBytes != 5 || s.cfg.Limits.LayerBytes != 32<<30 {
		t.Errorf("%+v", s.cfg.Limits)
	}
	if _, err := s.Import(t.Context(), strings.NewReader(string(dockerArchive(t, "a", makeTar(t, entry{name: "f", body: "123456"}))))); !errors.Is(err, ErrTooBig) {
		t.Errorf("error %v", err)
	}
}

// What CRI clients and people call an image by (crictl's semantics).
func TestReferences(t *testing.T) {
	s := openStore(t)
	data := dockerArchive(t, "busybox:1", makeTar(t, entry{name: "f", body: "1"}))
	if _, err := s.Import(t.Context(), strings.NewReader(string(data))); err != nil {
		t.Fatal(err)
	}
	img := s.List()[0]
	if err := s.put(img, "docker.io/library/busybox:2", "docker.io/library/busybox@"+string(digest.FromString("m"))); err != nil {
		t.Fatal(err)
	}
	id := strings.TrimPrefix(img.ID, "sha256:")
	for _, ref := range []string{"busybox:1", "library/busybox:1", "docker.io/busybox:2", "docker.io/library/busybox:1", img.ID, id, "busybox@" + string(digest.FromString("m")), "busybox:9@" + string(digest.FromString("m"))} {
		if got, err := s.Get(ref); err != nil || got.ID != img.ID {
			t.Errorf("%s: %v", ref, err)
		}
	}
	for _, ref := range []string{"busybox", "busybox:3", "other/busybox:1", strings.Repeat("a", 64), "sha256:" + strings.Repeat("a", 64)} {
		if _, err := s.Get(ref); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if _, err := s.Get("Not/A:Name!"); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("not a name: %v", err)
	}
	if err := s.Untag("busybox:1"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get("busybox:1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("untagged: %v", err)
	}
	if err := s.Remove("busybox:2"); err != nil { // with all its names
		t.Fatal(err)
	}
	if len(s.List()) != 0 {
		t.Errorf("left %v", s.List())
	}
	if err := s.Remove("busybox:2"); err != nil {
		t.Errorf("removing what isn't there: %v", err)
	}
}

// The layers of an image that is mounted as a volume stay while it is mounted.
func TestMountedImageKeepsItsLayers(t *testing.T) {
	s := openStore(t)
	if _, err := s.Import(t.Context(), strings.NewReader(string(dockerArchive(t, "vol", makeTar(t, entry{name: "f", body: "1"}))))); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Import(t.Context(), strings.NewReader(string(dockerArchive(t, "other", makeTar(t, entry{name: "g", body: "2"}))))); err != nil {
		t.Fatal(err)
	}
	target := t.TempDir()
	if err := s.MountImage("vol", target, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mounts.Detach(target) })
	if err := s.Remove("vol"); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(target, "f")); err != nil || string(b) != "1" {
		t.Errorf("in the volume: %q, %v", b, err)
	}
	if err := mounts.Detach(target); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove("other"); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(s.path("layers")); len(left) != 0 {
		t.Errorf("layers left: %v", left)
	}
}

func TestDecodeBasic(t *testing.T) {
	if u, p, err := decodeBasic(base64.StdEncoding.EncodeToString([]byte("u:p:q\x00\x00"))); err != nil || u != "u" || p != "p:q" {
		t.Errorf("%q, %q, %v", u, p, err)
	}
	for _, bad := range []string{"%", base64.StdEncoding.EncodeToString([]byte("u"))} {
		if _, _, err := decodeBasic(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
