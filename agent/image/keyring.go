package image

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/internal/imageref"
)

// login is one set of credentials and where it is from.
type login struct {
	auth *runtimeapi.AuthConfig
	hash string
	// At most one is set; none means that every pod of the node may use it.
	secret  *pullSecret
	account *pullAccount
}

// keyring holds credentials by the registry or repository that they are for.
type keyring struct {
	logins map[string][]login // host[:port][/path], the host perhaps with globs
}

// dockerAuth is an entry of a docker config file.
type dockerAuth struct {
	Username      string `json:"username,omitempty"`
	Password      string `json:"password,omitempty"`
	Auth          string `json:"auth,omitempty"`
	IdentityToken string `json:"identitytoken,omitempty"`
	RegistryToken string `json:"registrytoken,omitempty"`
}

// addSecrets takes what pull secrets hold. Secrets of other types are left out, as are entries for what is no address.
func (k *keyring) addSecrets(secrets []corev1.Secret) error {
	for i := range secrets {
		s := &secrets[i]
		entries, err := parseSecret(s)
		if err == nil {
			err = k.add(entries, login{secret: &pullSecret{UID: string(s.UID), Namespace: s.Namespace, Name: s.Name}})
		}
		if err != nil {
			return fmt.Errorf("pull secret %s/%s: %w", s.Namespace, s.Name, err)
		}
	}
	return nil
}

func parseSecret(s *corev1.Secret) (entries map[string]dockerAuth, err error) {
	switch s.Type {
	case corev1.SecretTypeDockerConfigJson:
		if data := s.Data[corev1.DockerConfigJsonKey]; len(data) > 0 {
			entries, err = parseDockerConfig(data)
		}
	case corev1.SecretTypeDockercfg:
		if data := s.Data[corev1.DockerConfigKey]; len(data) > 0 && json.Unmarshal(data, &entries) != nil {
			err = errNotDockerConfig
		}
	}
	return entries, err
}

// errNotDockerConfig doesn't say what the parser found: that may be a password.
var errNotDockerConfig = errors.New("it isn't a docker config")

func parseDockerConfig(data []byte) (map[string]dockerAuth, error) {
	var file struct {
		Auths map[string]dockerAuth `json:"auths"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, errNotDockerConfig
	}
	return file.Auths, nil
}

// addFiles takes the node's docker config files, as far as they are there.
func (k *keyring) addFiles(paths []string) error {
	for _, p := range paths {
		data, err := os.ReadFile(p)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("registry credentials of the node: %w", err)
		}
		entries, err := parseDockerConfig(data)
		if err == nil {
			err = k.add(entries, login{})
		}
		if err != nil {
			return fmt.Errorf("registry credentials of the node in %s: %w", p, err)
		}
		return nil // the first that there is, as upstream has it
	}
	return nil
}

// add takes entries; of is the login that they all have in common.
func (k *keyring) add(entries map[string]dockerAuth, of login) error {
	if k.logins == nil {
		k.logins = map[string][]login{}
	}
	for address, a := range entries {
		key, ok := addressKey(address)
		if !ok {
			continue
		}
		auth, err := a.config()
		if err != nil {
			return fmt.Errorf("registry %q: %w", address, err)
		}
		l := of
		l.auth, l.hash = auth, hashOf(auth)
		k.logins[key] = append(k.logins[key], l)
	}
	return nil
}

// addressKey strips the scheme, and an API version that docker of old wrote into addresses.
func addressKey(address string) (string, bool) {
	if !strings.HasPrefix(address, "https://") && !strings.HasPrefix(address, "http://") {
		address = "https://" + address
	}
	u, err := url.Parse(address)
	if err != nil {
		return "", false
	}
	at := u.Path
	if strings.HasPrefix(at, "/v1/") || strings.HasPrefix(at, "/v2/") {
		at = at[3:]
	}
	if at == "/" {
		at = ""
	}
	return u.Host + at, true
}

func (a dockerAuth) config() (*runtimeapi.AuthConfig, error) {
	out := &runtimeapi.AuthConfig{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken}
	if a.Auth == "" {
		return out, nil
	}
	b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(strings.TrimSpace(a.Auth), "="))
	if err != nil {
		return nil, errors.New("auth isn't base64")
	}
	user, password, ok := strings.Cut(string(b), ":")
	if !ok {
		return nil, errors.New("unable to parse auth field, must be formatted as base64(username:password)")
	}
	out.Username, out.Password = user, password
	return out, nil
}

func hashOf(a *runtimeapi.AuthConfig) string {
	data, err := json.Marshal(dockerAuth{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken})
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// dockerHub is the key under which docker's clients keep credentials for images without a registry in their name.
const dockerHub = "index.docker.io"

// lookup returns the logins that fit a repository, the most specific first.
func (k *keyring) lookup(repository string) []login {
	keys := make([]string, 0, len(k.logins))
	for key := range k.logins {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b string) int { return strings.Compare(b, a) })
	var out []login
	for _, key := range keys {
		if fits(key, repository) {
			out = append(out, k.logins[key]...)
		}
	}
	if len(out) == 0 && strings.HasPrefix(repository, "docker.io/") {
		out = k.logins[dockerHub]
	}
	return out
}

// repository spells an image's name without tag and digest, with its registry.
func repository(image string) (string, error) {
	named, err := imageref.Parse(image)
	if err != nil {
		return "", fmt.Errorf("couldn't parse image name %q: %w", image, err)
	}
	return named.Repository(), nil
}

// fits tells whether a key covers a repository: the same number of host parts, each matching as a glob, the same port,
// and a path that begins alike. Upstream's rules, to the letter.
func fits(key, repository string) bool {
	want, err := url.Parse("https://" + key)
	if err != nil {
		return false
	}
	have, err := url.Parse("https://" + repository)
	if err != nil {
		return false
	}
	wantParts, wantPort := splitHost(want.Host)
	haveParts, havePort := splitHost(have.Host)
	if wantPort != havePort || len(wantParts) != len(haveParts) || !strings.HasPrefix(have.Path, want.Path) {
		return false
	}
	for i := range wantParts {
		if ok, err := path.Match(wantParts[i], haveParts[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

func splitHost(host string) (parts []string, port string) {
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		name, port = host, ""
	}
	return strings.Split(name, "."), port
}

// fingerprint tells logins apart without keeping them.
func fingerprint(logins []login) string {
	h := sha256.New()
	for _, l := range logins {
		fmt.Fprintf(h, "%s %+v %+v\n", l.hash, deref(l.secret), deref(l.account))
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

func deref[T any](p *T) any {
	if p == nil {
		return nil
	}
	return *p
}
