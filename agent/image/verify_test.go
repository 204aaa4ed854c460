package image

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/cri"
	"github.com/mote-edge/mote/agent/cri/fakecri"
)

// node is a puller over a fake runtime whose registry lets user "u" in.
type node struct {
	t     *testing.T
	p     *Puller
	pulls int
	dir   string
	rt    *fakecri.Runtime
}

func newNode(t *testing.T, cfg Config, images ...string) *node {
	n := &node{t: t, dir: cfg.Dir, rt: fakecri.New(images...)}
	if n.dir == "" {
		n.dir = t.TempDir()
	}
	n.rt.OnPull = func(r *runtimeapi.PullImageRequest) error {
		n.pulls++
		if strings.Contains(r.Image.Image, "private") && r.Auth.GetUsername() != "u" {
			return status.Error(codes.PermissionDenied, "pull access denied")
		}
		return nil
	}
	n.open(cfg)
	return n
}

// open starts the agent's puller, again after a restart.
func (n *node) open(cfg Config) {
	n.t.Helper()
	c, err := cri.Dial(n.rt.Serve(n.t))
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = c.Close() })
	cfg.Images, cfg.Parallel, cfg.Dir = c.Images, 2, n.dir
	if n.p, err = New(cfg); err != nil {
		n.t.Fatal(err)
	}
}

// ensure asks for a pod and returns the reason of the error and how many pulls that took.
func (n *node) ensure(image string, policy corev1.PullPolicy, secrets ...corev1.Secret) (reason string, pulls int) {
	n.t.Helper()
	before := n.pulls
	_, err := n.p.Ensure(n.t.Context(), Request{
		Pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(time.Now().String())}}, Image: image, Policy: policy,
		Secrets: secrets, Record: func(_, _, _ string) {},
	})
	var e *Error
	if errors.As(err, &e) {
		reason = e.Reason
	} else if err != nil {
		n.t.Fatal(err)
	}
	return reason, n.pulls - before
}

func loginSecret(uid, name, password string) corev1.Secret {
	return corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(uid)}, Type: corev1.SecretTypeDockerConfigJson,
		Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(`{"auths":{"r.io":{"username":"u","password":"` + password + `"}}}`)},
	}
}

// An image that one pod pulled with a secret isn't another's without one (KubeletEnsureSecretPulledImages, on by default
// since 1.35).
func TestSecretPulledImages(t *testing.T) {
	const private, public = "r.io/private/app:1", "r.io/app:1"
	s := loginSecret("1", "s", "p")
	n := newNode(t, Config{}, "r.io/private/preloaded:1")
	check := func(what, image string, policy corev1.PullPolicy, wantReason string, wantPulls int, secrets ...corev1.Secret) {
		t.Helper()
		if reason, pulls := n.ensure(image, policy, secrets...); reason != wantReason || pulls != wantPulls {
			t.Errorf("%s: reason %q after %d pulls, want %q after %d", what, reason, pulls, wantReason, wantPulls)
		}
	}
	check("preloaded, nobody asks", "r.io/private/preloaded:1", corev1.PullIfNotPresent, "", 0)
	check("preloaded, never", "r.io/private/preloaded:1", corev1.PullNever, "", 0)
	check("public, first", public, corev1.PullIfNotPresent, "", 1)
	check("public, there", public, corev1.PullIfNotPresent, "", 0)
	check("private, no secret", private, corev1.PullIfNotPresent, ErrImagePull, 1)
	check("private, first", private, corev1.PullIfNotPresent, "", 1, s)
	check("private, the same secret", private, corev1.PullIfNotPresent, "", 0, s)
	check("private, there, no secret", private, corev1.PullIfNotPresent, ErrImagePull, 1)
	check("private, there, no secret, never", private, corev1.PullNever, ErrImageNeverPull, 0)
	check("private, there, the same secret, never", private, corev1.PullNever, "", 0, s)
	check("another secret with the same login", private, corev1.PullIfNotPresent, "", 0, loginSecret("2", "copy", "p"))
	check("the secret with a new password", private, corev1.PullIfNotPresent, "", 0, loginSecret("1", "s", "new"))
	check("another secret with another login", private, corev1.PullIfNotPresent, "", 1, loginSecret("3", "other", "q"))

	n.open(Config{}) // the records outlive the agent
	check("after a restart, the secret", private, corev1.PullIfNotPresent, "", 0, s)
	check("after a restart, no secret", private, corev1.PullIfNotPresent, ErrImagePull, 1)
	n.open(Config{Verification: NeverVerify})
	check("never verified", private, corev1.PullIfNotPresent, "", 0)
	n.open(Config{Verification: NeverVerifyAllowlisted, Allowlist: []string{"r.io/private/*"}})
	check("allowed", private, corev1.PullIfNotPresent, "", 0)
	n.open(Config{Verification: NeverVerifyAllowlisted, Allowlist: []string{"r.io/private"}})
	check("not allowed", private, corev1.PullIfNotPresent, ErrImagePull, 1)
	n.open(Config{Verification: AlwaysVerify})
	check("preloaded, always verified", "r.io/private/preloaded:1", corev1.PullIfNotPresent, ErrImagePull, 1)

	// A record that can't be read lets nobody in unasked.
	files, err := filepath.Glob(filepath.Join(n.dir, "pulled", "*"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		if err := os.WriteFile(f, []byte(`{"kind`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n.open(Config{})
	check("record damaged, no secret", private, corev1.PullIfNotPresent, ErrImagePull, 1)
	check("record damaged, secret", private, corev1.PullIfNotPresent, "", 1, s)
	check("mended", private, corev1.PullIfNotPresent, "", 0, s)
}

// An agent that died in a pull doesn't take what came meanwhile for preloaded.
func TestUnfinishedPull(t *testing.T) {
	const image = "r.io/private/app:1"
	dir := t.TempDir()
	v, err := newVerifier("", nil, dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.begin(image); err != nil {
		t.Fatal(err)
	}
	n := newNode(t, Config{Dir: dir}, image) // the runtime went on
	if reason, pulls := n.ensure(image, corev1.PullIfNotPresent); reason != ErrImagePull || pulls != 1 {
		t.Errorf("reason %q after %d pulls", reason, pulls)
	}
	if reason, pulls := n.ensure(image, corev1.PullIfNotPresent, loginSecret("1", "s", "p")); reason != "" || pulls != 1 {
		t.Errorf("with the secret: reason %q after %d pulls", reason, pulls)
	}
	if left := n.p.verify.recs.intents(); len(left) != 0 {
		t.Errorf("intents left: %v", left)
	}
	// Records go when their image has gone, and not before.
	n.p.Prune(func(string) bool { return true }, time.Now().Add(time.Hour))
	if files, _ := filepath.Glob(filepath.Join(dir, "pulled", "*")); len(files) != 1 {
		t.Errorf("records: %v", files)
	}
	n.p.Prune(func(string) bool { return false }, time.Now().Add(-time.Hour))
	if files, _ := filepath.Glob(filepath.Join(dir, "pulled", "*")); len(files) != 1 {
		t.Errorf("a record younger than the list has gone")
	}
	n.p.Prune(func(string) bool { return false }, time.Now().Add(time.Hour))
	if files, _ := filepath.Glob(filepath.Join(dir, "pulled", "*")); len(files) != 0 {
		t.Errorf("records left: %v", files)
	}
}

func TestAllowlist(t *testing.T) {
	for pattern, ok := range map[string]bool{
		"r.io/*": true, "r.io/a": true, "r.io/a/*": true, "busybox": true,
		"*": false, "/*": false, " r.io/*": false, "r.*/a": false, "r.io/a:1": false, "r.io/a*": false, "": false, "R.io/A": false,
	} {
		if err := checkAllowed(pattern); (err == nil) != ok {
			t.Errorf("%q: %v", pattern, err)
		}
	}
	if _, err := newVerifier("Sometimes", nil, t.TempDir()); err == nil {
		t.Error("an unknown policy was taken")
	}
}

func TestUntagged(t *testing.T) {
	d := "@sha256:" + strings.Repeat("a", 64)
	for image, want := range map[string]string{
		"busybox": "busybox", "busybox:1": "busybox", "r.io:5000/a": "r.io:5000/a", "r.io:5000/a:1": "r.io:5000/a", "r.io/a:1" + d: "r.io/a", "r.io/a" + d: "r.io/a",
	} {
		if got, err := untagged(image); err != nil || got != want {
			t.Errorf("%s: %q, %v", image, got, err)
		}
	}
}

func TestPullErrorWords(t *testing.T) {
	for text, want := range map[string][2]string{
		"no such host": {ErrImagePull, `failed to pull image "a": no such host`},
		"RegistryUnavailable: a more detailed explanation": {"RegistryUnavailable", "image pull failed for a because the registry is unavailable: a more detailed explanation"},
		"SignatureValidationFailed: no signature":          {"SignatureValidationFailed", "image pull failed for a because the signature validation failed: no signature"},
	} {
		if reason, msg := pullError("a", text); reason != want[0] || msg != want[1] {
			t.Errorf("%q: %s, %s", text, reason, msg)
		}
	}
}

func FuzzRecords(f *testing.F) {
	f.Add([]byte(`{"kind":"ImagePulledRecord","apiVersion":"kubelet.config.k8s.io/v1beta1","imageRef":"id","credentialMapping":{"r.io/a":{"kubernetesSecrets":[{"uid":"1"}]}}}`), "r.io/a:1")
	f.Fuzz(func(t *testing.T, data []byte, image string) {
		v, err := newVerifier("", nil, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(v.recs.path("pulled", "id"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := v.mustPull(image, "id", func() ([]login, error) { return nil, nil }); err != nil {
			t.Error(err)
		}
		if err := v.begin(image); err == nil {
			_ = v.end(image, "id", nil)
		}
	})
}
