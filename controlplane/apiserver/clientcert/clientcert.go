// Package clientcert tells who a request's client certificate belongs to. The library verifies the certificate on every
// request of a connection, an ECDSA signature each time; here a chain that was verified once counts until one of its
// certificates ends or the authorities change.
//
// Reads:  nothing.
// Writes: nothing.
package clientcert

import (
	stdx509 "crypto/x509"
	"net/http"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/request/x509"
)

// maxKnown bounds the cache: nodes and administrators of a cluster that fits on small machines. It is cleared when full.
const maxKnown = 512

// Authenticator is an authenticator.Request.
type Authenticator struct {
	options x509.VerifyOptionFunc
	user    x509.UserConversion
	now     func() time.Time

	mu    sync.Mutex
	roots *stdx509.CertPool // by which the known ones were verified
	known map[string]verified
}

type verified struct {
	response    *authenticator.Response
	from, until time.Time
}

var _ authenticator.Request = (*Authenticator)(nil)

// New verifies with the options as they are at the time of the request. They must name roots, and another pool when the
// authorities are others.
func New(options x509.VerifyOptionFunc, user x509.UserConversion) *Authenticator {
	return &Authenticator{options: options, user: user, now: time.Now, known: map[string]verified{}}
}

// AuthenticateRequest implements authenticator.Request. Only what succeeded is remembered.
func (a *Authenticator) AuthenticateRequest(req *http.Request) (*authenticator.Response, bool, error) {
	if req.TLS == nil || len(req.TLS.PeerCertificates) == 0 {
		return nil, false, nil
	}
	options, ok := a.options()
	if !ok {
		return nil, false, nil
	}
	key, now := presented(req.TLS.PeerCertificates), a.now()
	if v, ok := a.look(key, options.Roots); ok && !now.Before(v.from) && now.Before(v.until) {
		return v.response, true, nil
	}
	var v verified
	library := x509.NewDynamic(func() (stdx509.VerifyOptions, bool) { return options, true },
		x509.UserConversionFunc(func(chain []*stdx509.Certificate) (*authenticator.Response, bool, error) {
			v.from, v.until = span(chain)
			return a.user.User(chain)
		}))
	response, ok, err := library.AuthenticateRequest(req)
	if ok && err == nil {
		v.response = response
		a.keep(key, options.Roots, v)
	}
	return response, ok, err
}

// presented is all that the client showed: the intermediate certificates decide with the leaf whether there is a chain.
func presented(certs []*stdx509.Certificate) string {
	if len(certs) == 1 {
		return string(certs[0].Raw)
	}
	var all []byte
	for _, c := range certs {
		all = append(all, c.Raw...)
	}
	return string(all)
}

// span is when all certificates of a chain are valid.
func span(chain []*stdx509.Certificate) (from, until time.Time) {
	for i, c := range chain {
		if i == 0 || c.NotBefore.After(from) {
			from = c.NotBefore
		}
		if i == 0 || c.NotAfter.Before(until) {
			until = c.NotAfter
		}
	}
	return from, until
}

func (a *Authenticator) look(key string, roots *stdx509.CertPool) (verified, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.roots != roots || roots == nil {
		return verified{}, false
	}
	v, ok := a.known[key]
	return v, ok
}

func (a *Authenticator) keep(key string, roots *stdx509.CertPool, v verified) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.roots != roots || len(a.known) >= maxKnown {
		clear(a.known)
		a.roots = roots
	}
	a.known[key] = v
}
