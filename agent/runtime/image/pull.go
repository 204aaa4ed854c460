package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

// ErrDenied marks a pull that the registry refused for want of credentials.
var ErrDenied = errors.New("pull access denied")

// Auth are the credentials of one pull; all empty means anonymous, or what registries.yaml says.
type Auth struct {
	Username, Password, IdentityToken, RegistryToken string
}

// Pull fetches an image from its registry or one of its mirrors and returns its ID. Layers that the store has are not
// fetched again. A place that fails is skipped for the next; the error then names them all.
func (s *Store) Pull(ctx context.Context, ref string, creds Auth) (string, error) {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return "", fmt.Errorf("image reference %q: %w", ref, err)
	}
	regs, err := loadRegistries(s.cfg.Registries)
	if err != nil {
		return "", err
	}
	if id, ok := s.arrived(ctx, ref); ok {
		return id, nil
	}
	s.removal.RLock()
	defer s.removal.RUnlock()
	var errs []error
	for _, e := range regs.endpoints(reference.Domain(named)) {
		id, err := s.pullFrom(ctx, named, e, regs, creds)
		if err == nil {
			return id, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", e.host, err))
		if ctx.Err() != nil {
			break
		}
	}
	return "", fmt.Errorf("pull %s: %w", named, errors.Join(errs...))
}

func (s *Store) pullFrom(ctx context.Context, named reference.Named, e endpoint, regs *Registries, creds Auth) (string, error) {
	transport, err := regs.transport(e.host)
	if err != nil {
		return "", err
	}
	defer transport.CloseIdleConnections()
	repo, err := remote.NewRepository(e.host + "/" + reference.Path(named))
	if err != nil {
		return "", err
	}
	repo.PlainHTTP = e.plain
	repo.MaxMetadataBytes = s.cfg.Limits.ConfigBytes
	repo.Client = &auth.Client{
		Client: &http.Client{Transport: transport},
		Header: http.Header{"User-Agent": {"mote-runtime"}},
		Cache:  auth.NewSingleContextCache(),
		Credential: func(context.Context, string) (auth.Credential, error) {
			return credential(creds, regs.Configs[e.host].Auth), nil
		},
	}
	version := "latest"
	switch r := named.(type) {
	case reference.Digested:
		version = r.Digest().String()
	case reference.Tagged:
		version = r.Tag()
	}
	desc, manifest, err := s.fetchManifest(ctx, repo, version)
	if err != nil {
		return "", explain(err)
	}
	config, err := s.fetchSmall(ctx, repo, manifest.Config)
	if err != nil {
		return "", explain(err)
	}
	layers := make([]func(context.Context) (io.ReadCloser, error), len(manifest.Layers))
	for i, l := range manifest.Layers {
		layers[i] = func(ctx context.Context) (io.ReadCloser, error) {
			rc, err := repo.Blobs().Fetch(ctx, l)
			if err != nil {
				return nil, explain(err)
			}
			return &verifiedBlob{r: content.NewVerifyReader(rc, l), c: rc}, nil
		}
	}
	names := []string{reference.TrimNamed(named).String() + "@" + desc.Digest.String()}
	if _, digested := named.(reference.Digested); !digested {
		names = append(names, named.String())
	}
	return s.add(ctx, config, layers, names)
}

// credential prefers what came with the pull (an image pull secret) over the node's own configuration.
func credential(a Auth, c *RegistryAuth) auth.Credential {
	if a == (Auth{}) && c != nil {
		a = Auth{Username: c.Username, Password: c.Password, IdentityToken: c.IdentityToken}
	}
	return auth.Credential{Username: a.Username, Password: a.Password, RefreshToken: a.IdentityToken, AccessToken: a.RegistryToken}
}

// verifiedBlob hands out a layer blob and fails at its end if the bytes don't match the descriptor.
type verifiedBlob struct {
	r *content.VerifyReader
	c io.Closer
}

func (v *verifiedBlob) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	if errors.Is(err, io.EOF) {
		if verr := v.r.Verify(); verr != nil {
			return n, fmt.Errorf("the registry sent a blob that does not match its digest: %w", verr)
		}
	}
	return n, err
}

func (v *verifiedBlob) Close() error { return v.c.Close() }

// fetchManifest resolves a tag or digest to this machine's image manifest. The descriptor is what the tag pointed to:
// the index's when there is one, since that is the digest that users quote.
func (s *Store) fetchManifest(ctx context.Context, repo *remote.Repository, version string) (ocispec.Descriptor, ocispec.Manifest, error) {
	var m ocispec.Manifest
	top, err := repo.Resolve(ctx, version)
	if err != nil {
		return top, m, err
	}
	for desc, depth := top, 0; ; depth++ {
		if depth > 3 {
			return top, m, fmt.Errorf("%w: indexes nested more than three deep", ErrBadArchive)
		}
		data, err := s.fetchSmall(ctx, repo, desc)
		if err != nil {
			return top, m, err
		}
		if !isIndex(desc.MediaType) {
			if err := json.Unmarshal(data, &m); err != nil {
				return top, m, fmt.Errorf("manifest %s: %w", desc.Digest, err)
			}
			return top, m, nil
		}
		if desc, err = choosePlatform(data); err != nil {
			return top, m, err
		}
	}
}

// fetchSmall returns a manifest or config whole, verified.
func (s *Store) fetchSmall(ctx context.Context, repo *remote.Repository, desc ocispec.Descriptor) ([]byte, error) {
	if desc.Size > s.cfg.Limits.ConfigBytes {
		return nil, fmt.Errorf("%s has %d bytes, more than the %d allowed", desc.Digest, desc.Size, s.cfg.Limits.ConfigBytes)
	}
	return content.FetchAll(ctx, repo, desc)
}

// explain turns a registry's answer into words that people search for.
func explain(err error) error {
	var resp *errcode.ErrorResponse
	switch {
	case errors.As(err, &resp) && (resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden):
		return fmt.Errorf("%w, repository does not exist or may require authorization: %w", ErrDenied, err)
	case errors.Is(err, errdef.ErrNotFound):
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	return err
}

// digestReference spells "name@digest" for a name that may carry a tag.
func digestReference(name string, d digest.Digest) string {
	named, err := reference.ParseDockerRef(name)
	if err != nil {
		return path.Clean(name) + "@" + d.String()
	}
	return reference.TrimNamed(named).String() + "@" + d.String()
}
