package image

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// dockerAuth is an entry of a docker config file.
type dockerAuth struct {
	Username, Password, Auth, IdentityToken, RegistryToken string
}

// Credentials returns the logins of the pull secrets that fit the image, the most specific first.
func Credentials(image string, secrets []corev1.Secret) ([]*runtimeapi.AuthConfig, error) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return nil, fmt.Errorf("image name %q: %w", image, err)
	}
	host, repository := reference.Domain(named), reference.Path(named)
	type match struct {
		key  string
		auth *runtimeapi.AuthConfig
	}
	var matches []match
	for _, s := range secrets {
		entries, err := parse(&s)
		if err != nil {
			return nil, err
		}
		for key, a := range entries {
			where, err := a.config()
			if err != nil {
				return nil, fmt.Errorf("pull secret %s/%s, registry %q: %w", s.Namespace, s.Name, key, err)
			}
			if fits(key, host, repository) {
				matches = append(matches, match{key, where})
			}
		}
	}
	slices.SortStableFunc(matches, func(a, b match) int { return strings.Compare(b.key, a.key) })
	var out []*runtimeapi.AuthConfig
	for _, m := range matches {
		out = append(out, m.auth)
	}
	return out, nil
}

func parse(s *corev1.Secret) (map[string]dockerAuth, error) {
	entries := map[string]dockerAuth{}
	var err error
	if data, ok := s.Data[corev1.DockerConfigJsonKey]; ok {
		var file struct {
			Auths map[string]dockerAuth `json:"auths"`
		}
		err = json.Unmarshal(data, &file)
		entries = file.Auths
	} else if data, ok := s.Data[corev1.DockerConfigKey]; ok {
		err = json.Unmarshal(data, &entries)
	}
	if err != nil {
		return nil, fmt.Errorf("pull secret %s/%s isn't a docker config: %w", s.Namespace, s.Name, err)
	}
	return entries, nil
}

func (a dockerAuth) config() (*runtimeapi.AuthConfig, error) {
	out := &runtimeapi.AuthConfig{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken}
	if a.Auth != "" {
		b, err := base64.StdEncoding.DecodeString(strings.TrimRight(a.Auth, "\n\r "))
		if err != nil {
			return nil, fmt.Errorf("auth isn't base64: %w", err)
		}
		user, password, ok := strings.Cut(string(b), ":")
		if !ok {
			return nil, fmt.Errorf("auth isn't user:password in base64")
		}
		out.Username, out.Password = user, password
	}
	return out, nil
}

// fits tells whether an entry's key (host, host/path, *.domain, or an https URL of old) covers the repository.
func fits(key, host, repository string) bool {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	keyHost, keyPath, _ := strings.Cut(key, "/")
	if keyHost == "index.docker.io" {
		keyHost = "docker.io"
	}
	keyPath = strings.Trim(keyPath, "/")
	if keyPath == "v1" || keyPath == "v2" {
		keyPath = "" // an API version, not a repository
	}
	if keyPath != "" && keyPath != repository && !strings.HasPrefix(repository, keyPath+"/") {
		return false
	}
	want, have := strings.Split(keyHost, "."), strings.Split(host, ".")
	if len(want) != len(have) {
		return false
	}
	for i := range want {
		if ok, err := path.Match(want[i], have[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

// fingerprint tells logins apart without keeping them.
func fingerprint(auths []*runtimeapi.AuthConfig) string {
	if len(auths) == 0 {
		return ""
	}
	h := sha256.New()
	for _, a := range auths {
		fmt.Fprintf(h, "%q%q%q%q", a.Username, a.Password, a.IdentityToken, a.RegistryToken)
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:8])
}
