package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	configv1 "k8s.io/kubelet/config/v1"
	providerv1 "k8s.io/kubelet/pkg/apis/credentialprovider/v1"
)

const (
	providerTimeout = time.Minute
	maxAnswer       = 1 << 20 // bytes of a plugin's answer
	wholeNode       = "<global>"
)

// Accounts is what credential providers need of the API server. Both may be called from any goroutine.
type Accounts interface {
	ServiceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error)
	Token(ctx context.Context, namespace, name string, tr *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error)
}

// Providers are the node's credential provider plugins (--image-credential-provider-config and -bin-dir).
type Providers struct {
	list []*provider
	log  *slog.Logger
}

// OpenProviders reads the configuration and looks for the programs. accounts may be nil on a node without an API server;
// plugins that require a service account are then not asked.
func OpenProviders(config, binDir string, accounts Accounts, log *slog.Logger) (*Providers, error) {
	if config == "" || binDir == "" {
		return nil, errors.New("--image-credential-provider-config and --image-credential-provider-bin-dir go together: set both")
	}
	list, err := loadProviderConfig(config)
	if err != nil {
		return nil, err
	}
	out := &Providers{log: log}
	for _, c := range list {
		bin, err := exec.LookPath(filepath.Join(binDir, c.Name))
		if err != nil {
			return nil, fmt.Errorf("credential provider %s: %w: install it there", c.Name, err)
		}
		out.list = append(out.list, &provider{cfg: c, bin: bin, accounts: accounts, now: time.Now, cache: map[string]cached{}, flights: map[string]*answering{}})
	}
	return out, nil
}

// add asks every plugin that matches and takes what it knows. A plugin that fails is logged, and the pull goes on without.
func (p *Providers) add(ctx context.Context, k *keyring, pod *corev1.Pod, repository string) {
	if p == nil {
		return
	}
	for _, pr := range p.list {
		auths, account, err := pr.credentials(ctx, pod, repository)
		if err == nil {
			err = k.add(auths, login{account: account})
		}
		if err != nil {
			p.log.Error("Failed to provide credentials for image", "provider", pr.cfg.Name, "image", repository, "pod", pod.Namespace+"/"+pod.Name, "err", err)
		}
	}
}

// provider is one plugin with what it has answered.
type provider struct {
	cfg      configv1.CredentialProvider
	bin      string
	accounts Accounts
	now      func() time.Time

	mu      sync.Mutex
	cache   map[string]cached
	flights map[string]*answering
}

type cached struct {
	auths map[string]dockerAuth
	until time.Time
}

// answering is a plugin at work; who asks the same waits for it.
type answering struct {
	done chan struct{}
	resp *providerv1.CredentialProviderResponse
	err  error
}

// identity is what a plugin gets of a pod's service account.
type identity struct {
	account     *pullAccount
	token       string
	annotations map[string]string
}

// key tells identities apart in the cache.
func (i identity) key(t *configv1.ServiceAccountTokenAttributes) string {
	if i.account == nil {
		return ""
	}
	out := fmt.Sprintf("%q", []string{i.account.Namespace, i.account.Name, i.account.UID})
	for _, k := range slices.Sorted(maps.Keys(i.annotations)) {
		out += fmt.Sprintf("%q=%q", k, i.annotations[k])
	}
	if t.CacheType == configv1.TokenServiceAccountTokenCacheType {
		sum := sha256.Sum256([]byte(i.token))
		out += "token" + hex.EncodeToString(sum[:])
	}
	return out
}

// credentials returns what the plugin knows for a repository, and whose service account that is for.
func (p *provider) credentials(ctx context.Context, pod *corev1.Pod, repository string) (map[string]dockerAuth, *pullAccount, error) {
	if !slices.ContainsFunc(p.cfg.MatchImages, func(m string) bool { return fits(m, repository) }) {
		return nil, nil, nil
	}
	who, ok, err := p.identify(ctx, pod)
	if err != nil || !ok {
		return nil, nil, err
	}
	key := ""
	if p.cfg.TokenAttributes != nil {
		key = who.key(p.cfg.TokenAttributes)
	}
	registry, _, _ := strings.Cut(repository, "/")
	if auths, ok := p.cached(key, repository, registry, wholeNode); ok {
		return auths, who.account, nil
	}
	resp, err := p.ask(ctx, repository, who)
	if err != nil {
		return nil, nil, err
	}
	auths := map[string]dockerAuth{}
	for match, a := range resp.Auth {
		if who.token != "" && a.Password == who.token && p.cfg.TokenAttributes.CacheType != configv1.TokenServiceAccountTokenCacheType {
			return nil, nil, errors.New("credential provider plugin returned the service account token as the password which is not allowed when service account cache type is not set to 'Token'")
		}
		auths[match] = dockerAuth{Username: a.Username, Password: a.Password}
	}
	scope := ""
	switch resp.CacheKeyType {
	case providerv1.ImagePluginCacheKeyType:
		scope = repository
	case providerv1.RegistryPluginCacheKeyType:
		scope = registry
	case providerv1.GlobalPluginCacheKeyType:
		scope = wholeNode
	default:
		return nil, nil, fmt.Errorf("credential provider plugin did not return a valid cacheKeyType: %q", resp.CacheKeyType)
	}
	lives := p.cfg.DefaultCacheDuration.Duration
	if resp.CacheDuration != nil {
		lives = resp.CacheDuration.Duration
	}
	if lives > 0 {
		p.mu.Lock()
		p.cache[key+"\x00"+scope] = cached{auths, p.now().Add(lives)}
		p.mu.Unlock()
	}
	return auths, who.account, nil
}

func (p *provider) cached(key string, scopes ...string) (map[string]dockerAuth, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	maps.DeleteFunc(p.cache, func(_ string, c cached) bool { return now.After(c.until) })
	for _, s := range scopes {
		if c, ok := p.cache[key+"\x00"+s]; ok {
			return c.auths, true
		}
	}
	return nil, false
}

// identify gets a token of the pod's service account, if the plugin works with one. False means that the plugin is not
// for this pod.
func (p *provider) identify(ctx context.Context, pod *corev1.Pod) (identity, bool, error) {
	t := p.cfg.TokenAttributes
	if t == nil {
		return identity{}, true, nil
	}
	name := pod.Spec.ServiceAccountName
	if name == "" || p.accounts == nil {
		return identity{}, !*t.RequireServiceAccount, nil // a static pod
	}
	sa, err := p.accounts.ServiceAccount(ctx, pod.Namespace, name)
	if err != nil {
		return identity{}, false, fmt.Errorf("failed to get service account: %w", err)
	}
	who := identity{account: &pullAccount{UID: string(sa.UID), Namespace: pod.Namespace, Name: name}, annotations: map[string]string{}}
	for _, k := range t.RequiredServiceAccountAnnotationKeys {
		v, ok := sa.Annotations[k]
		if !ok {
			return identity{}, false, nil // the annotation is how an account asks for it
		}
		who.annotations[k] = v
	}
	for _, k := range t.OptionalServiceAccountAnnotationKeys {
		if v, ok := sa.Annotations[k]; ok {
			who.annotations[k] = v
		}
	}
	tr, err := p.accounts.Token(ctx, pod.Namespace, name, &authenticationv1.TokenRequest{
		ObjectMeta: metav1.ObjectMeta{UID: sa.UID},
		Spec: authenticationv1.TokenRequestSpec{
			Audiences:      []string{t.ServiceAccountTokenAudience},
			BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
		},
	})
	if err != nil {
		return identity{}, false, fmt.Errorf("failed to get service account token: %w", err)
	}
	who.token = tr.Status.Token
	return who, true, nil
}

// ask runs the plugin, once for all who ask the same at the same time.
func (p *provider) ask(ctx context.Context, repository string, who identity) (*providerv1.CredentialProviderResponse, error) {
	req := providerv1.CredentialProviderRequest{
		TypeMeta: metav1.TypeMeta{Kind: "CredentialProviderRequest", APIVersion: p.cfg.APIVersion},
		Image:    repository, ServiceAccountToken: who.token, ServiceAccountAnnotations: who.annotations,
	}
	data, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	f := p.flights[string(data)]
	if f == nil {
		f = &answering{done: make(chan struct{})}
		p.flights[string(data)] = f
		go func() { // its own time: who began may give up while others wait
			f.resp, f.err = p.run(context.WithoutCancel(ctx), data)
			p.mu.Lock()
			delete(p.flights, string(data))
			p.mu.Unlock()
			close(f.done)
		}()
	}
	p.mu.Unlock()
	select {
	case <-f.done:
		return f.resp, f.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *provider) run(ctx context.Context, request []byte) (*providerv1.CredentialProviderResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, providerTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.bin, p.cfg.Args...)
	cmd.Env = os.Environ()
	for _, e := range p.cfg.Env {
		cmd.Env = append(cmd.Env, e.Name+"="+e.Value)
	}
	stdout, stderr := &bounded{}, &bounded{}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(request), stdout, stderr
	cmd.WaitDelay = time.Second // a child of the plugin may hold its output open
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("error execing credential provider plugin %s: %w: %.1000s", p.cfg.Name, err, stderr.data)
	}
	return parseAnswer(stdout.data, p.cfg.APIVersion)
}

// parseAnswer doesn't say what it can't read: that may be a password.
func parseAnswer(data []byte, version string) (*providerv1.CredentialProviderResponse, error) {
	var resp providerv1.CredentialProviderResponse
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&resp); err != nil {
		return nil, errors.New("error decoding credential provider plugin response from stdout")
	}
	if resp.APIVersion != version {
		return nil, fmt.Errorf("apiVersion from credential plugin response did not match expected apiVersion:%s, actual apiVersion:%.100s", version, resp.APIVersion)
	}
	if resp.Kind != "CredentialProviderResponse" {
		return nil, fmt.Errorf("failed to decode CredentialProviderResponse, unexpected Kind: %.100q", resp.Kind)
	}
	return &resp, nil
}

// bounded keeps what a plugin writes, and makes it fail when that is too much.
type bounded struct{ data []byte }

func (b *bounded) Write(p []byte) (int, error) {
	if len(b.data)+len(p) > maxAnswer {
		return 0, fmt.Errorf("it writes more than %d bytes", maxAnswer)
	}
	b.data = append(b.data, p...)
	return len(p), nil
}
