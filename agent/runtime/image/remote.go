package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"
	"oras.land/oras-go/v2/registry/remote/retry"

	"github.com/mote-edge/mote/internal/imageref"
)

// ErrDenied marks a pull that the registry refused for want of credentials.
var ErrDenied = errors.New("pull access denied")

// Auth are the credentials of one pull; all empty means anonymous, or what registries.yaml says.
type Auth struct {
	Username, Password, IdentityToken, RegistryToken string
}

// statusError is a registry's refusal.
type statusError struct {
	code int
	url  string
	text string
}

func (e *statusError) Error() string {
	s := fmt.Sprintf("%s: %d %s", e.url, e.code, http.StatusText(e.code))
	if e.text != "" {
		s += ": " + e.text
	}
	return s
}

// repository is one repository at one endpoint: the pull side of the OCI distribution specification.
type repository struct {
	client *auth.Client
	base   string // https://host/v2/name
	scope  string
	limit  int64 // of a manifest or config
}

// again is when a request is repeated: as the library has it, but for a registry (or name server) that doesn't answer. That takes
// ten seconds a time already, and whoever asked for the image hears of it now and comes again.
var again = &retry.GenericPolicy{
	Retryable: func(resp *http.Response, err error) (bool, error) {
		if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
			return false, err
		}
		return retry.DefaultPredicate(resp, err)
	},
	Backoff: retry.DefaultBackoff, MinWait: 200 * time.Millisecond, MaxWait: 3 * time.Second, MaxRetry: 5,
}

func (s *Store) repository(e endpoint, regs *Registries, named imageref.Reference, creds Auth) (*repository, func(), error) {
	transport, err := regs.transport(e.host)
	if err != nil {
		return nil, nil, err
	}
	scheme := "https"
	if e.plain {
		scheme = "http"
	}
	name := e.prefix + named.Path
	r := &repository{
		base: scheme + "://" + e.host + "/v2/" + name, scope: auth.ScopeRepository(name, auth.ActionPull), limit: s.cfg.Limits.ConfigBytes,
		client: &auth.Client{
			Client: &http.Client{Transport: &retry.Transport{Base: transport, Policy: func() retry.Policy { return again }}},
			Header: http.Header{"User-Agent": {"mote-runtime"}},
			Cache:  auth.NewSingleContextCache(),
			Credential: func(_ context.Context, host string) (auth.Credential, error) {
				if host != e.host {
					return auth.EmptyCredential, nil
				}
				own := regs.config(e.host).Auth
				if e.mirror { // a pull secret is for the registry that the image names
					return credential(Auth{}, own), nil
				}
				return credential(creds, own), nil
			},
		},
	}
	if loopback(e.host) { // its token server may be there, too
		r.client.BlockedRealmPrefixes = []netip.Prefix{}
	}
	return r, transport.CloseIdleConnections, nil
}

// credential prefers what came with the pull (an image pull secret) over the node's own configuration.
func credential(a Auth, c *RegistryAuth) auth.Credential {
	if a == (Auth{}) && c != nil {
		a = Auth{Username: c.Username, Password: c.Password, IdentityToken: c.IdentityToken}
	}
	return auth.Credential{Username: a.Username, Password: a.Password, RefreshToken: a.IdentityToken, AccessToken: a.RegistryToken}
}

// get asks for base/what. Any status but the allowed ones is a *statusError, wrapped in words that people search for.
func (r *repository) get(ctx context.Context, what string, header http.Header, allowed ...int) (*http.Response, error) {
	ctx = auth.WithScopes(ctx, r.scope)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.base+"/"+what, nil)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := r.client.Do(req)
	if err != nil {
		// The token server's refusal, or a challenge to which there is no answer.
		var refused *errcode.ErrorResponse
		if errors.As(err, &refused) && (refused.StatusCode == http.StatusUnauthorized || refused.StatusCode == http.StatusForbidden) ||
			errors.Is(err, auth.ErrBasicCredentialNotFound) || strings.Contains(err.Error(), "missing username or password") {
			return nil, fmt.Errorf("%w, repository does not exist or may require authorization: %w", ErrDenied, err)
		}
		return nil, err
	}
	for _, code := range allowed {
		if resp.StatusCode == code {
			return resp, nil
		}
	}
	defer resp.Body.Close()
	serr := &statusError{code: resp.StatusCode, url: r.base + "/" + what, text: refusal(resp.Body)}
	switch resp.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return nil, fmt.Errorf("%w, repository does not exist or may require authorization: %w", ErrDenied, serr)
	case http.StatusNotFound:
		return nil, fmt.Errorf("%w: %w", ErrNotFound, serr)
	}
	return nil, serr
}

// refusal reads the reasons out of an answer (distribution specification, "Error Codes"), as far as they are printable.
func refusal(body io.Reader) string {
	data, err := io.ReadAll(io.LimitReader(body, 8<<10))
	if err != nil {
		return ""
	}
	var answer struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(data, &answer) != nil {
		return ""
	}
	var out []string
	for _, e := range answer.Errors {
		out = append(out, fmt.Sprintf("%.64s: %.256s", e.Code, e.Message))
		if len(out) == 3 {
			break
		}
	}
	return strings.ToValidUTF8(strings.Map(func(c rune) rune {
		if c < ' ' {
			return ' '
		}
		return c
	}, strings.Join(out, "; ")), "?")
}

// manifest fetches the manifest or index that version, a tag or a digest, names. A digest is checked.
func (r *repository) manifest(ctx context.Context, version string) (ocispec.Descriptor, []byte, error) {
	var desc ocispec.Descriptor
	resp, err := r.get(ctx, "manifests/"+version, http.Header{"Accept": acceptManifests}, http.StatusOK)
	if err != nil {
		return desc, nil, err
	}
	defer resp.Body.Close()
	data, err := readLimited(resp.Body, r.limit)
	if err != nil {
		return desc, nil, fmt.Errorf("manifest %s: %w", version, err)
	}
	desc = ocispec.Descriptor{MediaType: mediaType(resp.Header.Get("Content-Type"), data), Size: int64(len(data)), Digest: digest.FromBytes(data)}
	want, err := digest.Parse(version)
	if err != nil { // a tag: the registry may say the digest, and is then held to it
		want, err = digest.Parse(resp.Header.Get("Docker-Content-Digest"))
	}
	if err == nil {
		if !want.Algorithm().Available() || want.Algorithm().FromBytes(data) != want {
			return desc, nil, fmt.Errorf("manifest %s: %w: the registry sent something else than %s", version, errMismatch, want)
		}
		desc.Digest = want
	}
	return desc, data, nil
}

// config fetches a config, checked.
func (r *repository) config(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	if desc.Size > r.limit {
		return nil, fmt.Errorf("%w: config %s has %d bytes, %d are allowed", ErrTooBig, desc.Digest, desc.Size, r.limit)
	}
	resp, err := r.get(ctx, "blobs/"+desc.Digest.String(), nil, http.StatusOK)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := readLimited(resp.Body, desc.Size)
	if err != nil {
		return nil, fmt.Errorf("config %s: %w", desc.Digest, err)
	}
	if int64(len(data)) != desc.Size || desc.Digest.Algorithm().FromBytes(data) != desc.Digest {
		return nil, fmt.Errorf("config %s: %w", desc.Digest, errMismatch)
	}
	return data, nil
}

func readLimited(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%w: more than %d bytes", ErrTooBig, limit)
	}
	return data, err
}
