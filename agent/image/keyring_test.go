package image

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func dockerSecret(name, config string) corev1.Secret {
	return corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: "uid-of-" + "s"}, Type: corev1.SecretTypeDockerConfigJson,
		Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(config)},
	}
}

func users(logins []login) string {
	var out []string
	for _, l := range logins {
		out = append(out, l.auth.Username)
	}
	return strings.Join(out, " ")
}

func TestKeyring(t *testing.T) {
	entry := func(key, user string) string {
		return `{"auths":{"` + key + `":{"username":"` + user + `","password":"p"}}}`
	}
	for name, c := range map[string]struct {
		image, config, want, err string
	}{
		"host":                                 {image: "r.io/a/b:1", config: entry("r.io", "u"), want: "u"},
		"host with a port":                     {image: "r.io:5000/a", config: entry("r.io:5000", "u"), want: "u"},
		"another port":                         {image: "r.io:5000/a", config: entry("r.io", "u")},
		"path":                                 {image: "r.io/a/b:1", config: entry("r.io/a", "u"), want: "u"},
		"paths are plain prefixes":             {image: "r.io/ab:1", config: entry("r.io/a", "u"), want: "u"}, // upstream's urlsMatch
		"longer path":                          {image: "r.io/a", config: entry("r.io/a/b", "u")},
		"another host":                         {image: "r.io/a", config: entry("q.io", "u")},
		"docker hub of old":                    {image: "busybox", config: entry("https://index.docker.io/v1/", "u"), want: "u"},
		"docker hub by its name":               {image: "busybox", config: entry("docker.io", "u"), want: "u"},
		"docker hub's login is not for others": {image: "r.io/busybox", config: entry("https://index.docker.io/v1/", "u")},
		"API version":                          {image: "r.io/a", config: entry("https://r.io/v2/", "u"), want: "u"},
		"glob":                                 {image: "x.r.io/a", config: entry("*.r.io", "u"), want: "u"},
		"glob in a part":                       {image: "eu-west.r.io/a", config: entry("eu-*.r.io", "u"), want: "u"},
		"glob's depth":                         {image: "x.y.r.io/a", config: entry("*.r.io", "u")},
		"glob with path":                       {image: "x.r.io/team/a", config: entry("*.r.io/team", "u"), want: "u"},
		"glob doesn't port":                    {image: "x.r.io:5000/a", config: entry("*.r.io:*", "u")},
		"auth":                                 {image: "r.io/a", config: `{"auths":{"r.io":{"auth":"dTpwOnE="}}}`, want: "u"},
		"auth, not padded":                     {image: "r.io/a", config: `{"auths":{"r.io":{"auth":"dTpwOnE"}}}`, want: "u"},
		"not base64":                           {image: "r.io/a", config: `{"auths":{"r.io":{"auth":"%"}}}`, err: `pull secret ns/s: registry "r.io": auth isn't base64`},
		"no colon":                             {image: "r.io/a", config: `{"auths":{"r.io":{"auth":"dQ=="}}}`, err: "base64(username:password)"},
		"not JSON":                             {image: "r.io/a", config: `{"secret`, err: "pull secret ns/s: it isn't a docker config"},
		"specific first":                       {image: "r.io/a/b", config: `{"auths":{"r.io":{"username":"wide"},"r.io/a":{"username":"narrow"}}}`, want: "narrow wide"},
		"not an address":                       {image: "r.io/a", config: `{"auths":{"r.io:%%":{"username":"x"},"r.io":{"username":"u"}}}`, want: "u"},
		"bad glob":                             {image: "r.io/a", config: entry("[.io", "u")},
	} {
		t.Run(name, func(t *testing.T) {
			var k keyring
			err := k.addSecrets([]corev1.Secret{dockerSecret("s", c.config)})
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Fatalf("error %v, want %q", err, c.err)
			}
			if err != nil {
				return
			}
			repo, err := repository(c.image)
			if err != nil {
				t.Fatal(err)
			}
			if got := users(k.lookup(repo)); got != c.want {
				t.Errorf("logins %q, want %q", got, c.want)
			}
		})
	}
}

// A secret counts by its type: .dockercfg is the format of old.
func TestSecretTypes(t *testing.T) {
	old := corev1.Secret{Type: corev1.SecretTypeDockercfg, Data: map[string][]byte{corev1.DockerConfigKey: []byte(`{"r.io":{"username":"old"}}`)}}
	opaque := dockerSecret("s", `{"auths":{"r.io":{"username":"opaque"}}}`)
	opaque.Type = corev1.SecretTypeOpaque
	var k keyring
	if err := k.addSecrets([]corev1.Secret{opaque, old, dockerSecret("s", `{"auths":{"r.io":{"username":"new"}}}`)}); err != nil {
		t.Fatal(err)
	}
	if got := users(k.lookup("r.io/a")); got != "old new" {
		t.Errorf("logins %q", got)
	}
}

func TestDockerConfigFiles(t *testing.T) {
	dir := t.TempDir()
	paths := []string{filepath.Join(dir, "none"), filepath.Join(dir, "a"), filepath.Join(dir, "b")}
	for i, user := range []string{"", "first", "second"} {
		if user != "" {
			if err := os.WriteFile(paths[i], []byte(`{"auths":{"r.io":{"username":"`+user+`"}}}`), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	var k keyring
	if err := k.addFiles(paths); err != nil {
		t.Fatal(err)
	}
	got := k.lookup("r.io/a")
	if users(got) != "first" || got[0].secret != nil || got[0].account != nil {
		t.Errorf("%+v", got)
	}
}

func FuzzDockerConfig(f *testing.F) {
	f.Add([]byte(`{"auths":{"*.r.io:5000/x":{"auth":"dTpwOnE="},"https://index.docker.io/v1/":{"username":"u"}}}`), "r.io/a")
	f.Fuzz(func(t *testing.T, config []byte, image string) {
		var k keyring
		if k.addSecrets([]corev1.Secret{dockerSecret("s", string(config))}) != nil {
			return
		}
		if repo, err := repository(image); err == nil {
			first := k.lookup(repo)
			if second := k.lookup(repo); users(first) != users(second) && len(k.logins) < 2 {
				t.Error("an unstable order")
			}
		}
	})
}

func TestFingerprint(t *testing.T) {
	a, b := login{hash: "x"}, login{hash: "x", secret: &pullSecret{Name: "s"}}
	if fingerprint([]login{a}) == fingerprint([]login{b}) {
		t.Error("whose login it is makes no difference")
	}
	if fingerprint([]login{b}) != fingerprint([]login{{hash: "x", secret: &pullSecret{Name: "s"}}}) {
		t.Error("equal logins differ")
	}
	if !slices.Equal([]string{fingerprint(nil)}, []string{fingerprint([]login{})}) {
		t.Error("none and none differ")
	}
}
