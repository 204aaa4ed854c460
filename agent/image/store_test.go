package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/cri"
	"github.com/mote-edge/mote/agent/runtime/image"
)

// A pull secret's way: from the pod through CRI and the real image store to a registry that asks for it; and a pod
// without it, which gets the image neither from the registry nor from the node.
func TestPullSecretReachesTheRegistry(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("unpacking layers with their owners needs root")
	}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "u" || password != "p" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	ref := host + "/private/app:1"
	pushImage(t, ref)

	dir := t.TempDir()
	store, err := image.Open(image.Config{Dir: filepath.Join(dir, "store")})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	runtimeapi.RegisterImageServiceServer(server, image.NewService(store))
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	c, err := cri.Dial("unix://" + l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	p, err := New(Config{Images: c.Images, Parallel: 2, Dir: filepath.Join(dir, "records")})
	if err != nil {
		t.Fatal(err)
	}
	ensure := func(secrets ...corev1.Secret) (*runtimeapi.Image, string, string) {
		var events []string
		img, err := p.Ensure(t.Context(), Request{
			Pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "1"}}, Image: ref, Policy: corev1.PullIfNotPresent, Secrets: secrets,
			Record: func(_, reason, _ string) { events = append(events, reason) },
		})
		p.Forget("1")
		var e *Error
		if errors.As(err, &e) {
			return nil, e.Message, strings.Join(events, " ")
		} else if err != nil {
			t.Fatal(err)
		}
		return img, "", strings.Join(events, " ")
	}
	secret := func(password string) corev1.Secret {
		return corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s", UID: "s"}, Type: corev1.SecretTypeDockerConfigJson,
			Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(`{"auths":{"` + host + `":{"username":"u","password":"` + password + `"}}}`)},
		}
	}
	if img, msg, events := ensure(); img != nil || !strings.Contains(msg, "pull access denied") || events != "Pulling Failed" {
		t.Errorf("without a secret: %v, %s, %s", img, msg, events)
	}
	if img, msg, _ := ensure(secret("wrong")); img != nil || !strings.Contains(msg, "pull access denied") {
		t.Errorf("with a wrong secret: %v, %s", img, msg)
	}
	if img, msg, events := ensure(secret("p")); img == nil || events != "Pulling Pulled" || len(img.RepoDigests) != 1 {
		t.Errorf("with the secret: %v, %s, %s", img, msg, events)
	}
	if img, msg, events := ensure(secret("p")); img == nil || events != "Pulled" {
		t.Errorf("again: %v, %s, %s", img, msg, events)
	}
	if img, msg, _ := ensure(); img != nil || !strings.Contains(msg, "pull access denied") {
		t.Errorf("another pod without a secret gets the image from the node: %v, %s", img, msg)
	}
}

func pushImage(t *testing.T, ref string) {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.WriteHeader(&tar.Header{Name: "f", Typeflag: tar.TypeReg, Size: 1, Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	dst, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(dst, img, remote.WithAuth(&authn.Basic{Username: "u", Password: "p"})); err != nil {
		t.Fatal(err)
	}
}
