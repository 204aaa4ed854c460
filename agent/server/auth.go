package server

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
)

// Reviews asks the API server who somebody is and what they may do.
type Reviews interface {
	ReviewToken(ctx context.Context, tr *authenticationv1.TokenReview) (*authenticationv1.TokenReview, error)
	ReviewAccess(ctx context.Context, sar *authorizationv1.SubjectAccessReview) (*authorizationv1.SubjectAccessReview, error)
}

const maxCached = 1024

// user is who makes a request.
type user struct {
	name, uid string
	groups    []string
	extra     map[string]authorizationv1.ExtraValue
}

// guard lets requests in.
type guard struct {
	node    string
	cas     *x509.CertPool
	reviews Reviews
	now     func() time.Time

	anonymous, tokensToo, allowAll  bool
	tokenFor, allowedFor, deniedFor time.Duration

	mu     sync.Mutex
	tokens map[[32]byte]cached[user]
	access map[string]cached[bool]
}

type cached[T any] struct {
	value T
	until time.Time
}

func newGuard(cfg *Config) *guard {
	hold := func(d, otherwise time.Duration) time.Duration {
		if d == 0 {
			return otherwise
		}
		return d
	}
	return &guard{
		node: cfg.NodeName, cas: cfg.ClientCAs, reviews: cfg.Reviews, now: time.Now,
		anonymous: cfg.Anonymous, tokensToo: !cfg.NoTokens, allowAll: cfg.AllowAll,
		tokenFor: hold(cfg.TokenTTL, 2*time.Minute), allowedFor: hold(cfg.AllowedTTL, 5*time.Minute), deniedFor: hold(cfg.DeniedTTL, 30*time.Second),
		tokens: map[[32]byte]cached[user]{}, access: map[string]cached[bool]{},
	}
}

var errUnauthenticated = errors.New("Unauthorized")

func (g *guard) protect(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, err := g.authenticate(r)
		if err != nil {
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		verb := verbOf(r.Method)
		var reasons []string
		for _, sub := range subresources(r.URL.Path) {
			ok, err := g.authorize(r.Context(), u, verb, sub)
			if err != nil {
				http.Error(w, fmt.Sprintf("Authorization error (user=%s, verb=%s, resource=nodes, subresource(s)=[%s]): %v", u.name, verb, sub, err), http.StatusInternalServerError)
				return
			}
			if ok {
				next.ServeHTTP(w, r)
				return
			}
			reasons = append(reasons, sub)
		}
		http.Error(w, fmt.Sprintf("Forbidden (user=%s, verb=%s, resource=nodes, subresource(s)=[%s])", u.name, verb, strings.Join(reasons, " ")), http.StatusForbidden)
	})
}

// authenticate knows client certificates of the cluster's CA and bearer tokens. Nobody is anonymous unless the
// configuration says so.
func (g *guard) authenticate(r *http.Request) (user, error) {
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 && g.cas != nil {
		leaf := r.TLS.PeerCertificates[0]
		between := x509.NewCertPool()
		for _, c := range r.TLS.PeerCertificates[1:] {
			between.AddCert(c)
		}
		_, err := leaf.Verify(x509.VerifyOptions{Roots: g.cas, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		if err == nil && leaf.Subject.CommonName != "" {
			return user{name: leaf.Subject.CommonName, groups: append(slices.Clone(leaf.Subject.Organization), "system:authenticated")}, nil
		}
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if token = strings.TrimSpace(token); !ok || token == "" || g.reviews == nil || !g.tokensToo {
		if g.anonymous && r.Header.Get("Authorization") == "" {
			return user{name: "system:anonymous", groups: []string{"system:unauthenticated"}}, nil
		}
		return user{}, errUnauthenticated
	}
	key := sha256.Sum256([]byte(token))
	g.mu.Lock()
	known, ok := g.tokens[key]
	g.mu.Unlock()
	if ok && g.now().Before(known.until) {
		return known.value, nil
	}
	review, err := g.reviews.ReviewToken(r.Context(), &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}})
	if err != nil {
		return user{}, fmt.Errorf("review token: %w", err)
	}
	if !review.Status.Authenticated {
		return user{}, errUnauthenticated
	}
	u := user{name: review.Status.User.Username, uid: review.Status.User.UID, groups: review.Status.User.Groups}
	for k, v := range review.Status.User.Extra {
		if u.extra == nil {
			u.extra = map[string]authorizationv1.ExtraValue{}
		}
		u.extra[k] = authorizationv1.ExtraValue(v)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.tokens) >= maxCached {
		clear(g.tokens)
	}
	g.tokens[key] = cached[user]{u, g.now().Add(g.tokenFor)}
	return u, nil
}

// authorize asks whether a user may reach a subresource of this node.
func (g *guard) authorize(ctx context.Context, u user, verb, subresource string) (bool, error) {
	if g.allowAll || slices.Contains(u.groups, "system:masters") {
		return true, nil // as the API server itself would answer, whatever its rules
	}
	if g.reviews == nil {
		return false, nil
	}
	key := fmt.Sprintf("%q %q %q %q %q %q", u.name, u.uid, u.groups, u.extra, verb, subresource)
	g.mu.Lock()
	known, ok := g.access[key]
	g.mu.Unlock()
	if ok && g.now().Before(known.until) {
		return known.value, nil
	}
	review, err := g.reviews.ReviewAccess(ctx, &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: u.name, UID: u.uid, Groups: u.groups, Extra: u.extra,
		ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: verb, Version: "v1", Resource: "nodes", Subresource: subresource, Name: g.node},
	}})
	if err != nil {
		return false, fmt.Errorf("review access: %w", err)
	}
	hold := g.deniedFor
	if review.Status.Allowed {
		hold = g.allowedFor
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.access) >= maxCached {
		clear(g.access)
	}
	g.access[key] = cached[bool]{review.Status.Allowed, g.now().Add(hold)}
	return review.Status.Allowed, nil
}

func verbOf(method string) string {
	switch method {
	case http.MethodPost:
		return "create"
	case http.MethodGet, http.MethodHead:
		return "get"
	case http.MethodPut:
		return "update"
	case http.MethodPatch:
		return "patch"
	case http.MethodDelete:
		return "delete"
	}
	return ""
}

// subresources are the ways to be allowed to a path, the narrowest first, as kubelets of 1.37 have them.
func subresources(path string) []string {
	under := func(root string) bool { return path == root || strings.HasPrefix(path, root+"/") }
	switch {
	case under("/stats"):
		return []string{"stats"}
	case under("/metrics"):
		return []string{"metrics"}
	case under("/logs"):
		return []string{"log"}
	case under("/statusz"):
		return []string{"statusz", "proxy"} // the second is what the API server's own role has
	case under("/pods"), under("/runningpods"):
		return []string{"pods", "proxy"}
	case under("/healthz"):
		return []string{"healthz", "proxy"}
	case under("/configz"):
		return []string{"configz", "proxy"}
	}
	return []string{"proxy"}
}
