package clientcert

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	stdx509 "crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/http"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/request/x509"
)

type authority struct {
	cert *stdx509.Certificate
	key  *ecdsa.PrivateKey
}

var serial int64

// issue signs a certificate; without a parent it is an authority of its own.
func issue(t *testing.T, parent *authority, name string, until time.Time) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial++
	template := &stdx509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: until,
		ExtKeyUsage: []stdx509.ExtKeyUsage{stdx509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true, IsCA: parent == nil,
	}
	signer := &authority{template, key}
	if parent != nil {
		signer = parent
	}
	der, err := stdx509.CreateCertificate(rand.Reader, template, signer.cert, key.Public(), signer.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := stdx509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}
}

func pool(of *authority) *stdx509.CertPool {
	p := stdx509.NewCertPool()
	p.AddCert(of.cert)
	return p
}

// bed is an authenticator whose roots and clock a test sets, and which counts verifications.
type bed struct {
	*Authenticator
	roots *stdx509.CertPool
	count int
}

func newBed(roots *stdx509.CertPool) *bed {
	b := &bed{roots: roots}
	b.Authenticator = New(
		func() (stdx509.VerifyOptions, bool) {
			o := x509.DefaultVerifyOptions()
			o.Roots = b.roots
			return o, b.roots != nil
		},
		x509.UserConversionFunc(func(chain []*stdx509.Certificate) (*authenticator.Response, bool, error) {
			b.count++
			return x509.CommonNameUserConversion(chain)
		}),
	)
	return b
}

func (b *bed) ask(certs ...*stdx509.Certificate) (string, bool) {
	r, ok, err := b.AuthenticateRequest(&http.Request{TLS: &tls.ConnectionState{PeerCertificates: certs}})
	if !ok || err != nil {
		return "", false
	}
	return r.User.GetName(), true
}

func TestVerifiedOnce(t *testing.T) {
	ca := issue(t, nil, "ca", time.Now().Add(2*time.Hour))
	one, two := issue(t, ca, "one", time.Now().Add(time.Hour)), issue(t, ca, "two", time.Now().Add(time.Hour))
	b := newBed(pool(ca))
	for range 3 {
		for _, c := range []*authority{one, two} {
			if name, ok := b.ask(c.cert); !ok || name != c.cert.Subject.CommonName {
				t.Errorf("%q is taken for %q, %v", c.cert.Subject.CommonName, name, ok)
			}
		}
	}
	if b.count != 2 {
		t.Errorf("verified %d times, want once each", b.count)
	}
	if _, ok, err := b.AuthenticateRequest(&http.Request{}); ok || err != nil {
		t.Errorf("a request without a certificate: %v %v", ok, err)
	}
}

func TestCountsNoLongerThanItsChain(t *testing.T) {
	soon := time.Now().Add(time.Hour)
	for name, b := range map[string]struct{ ca, leaf time.Time }{"leaf": {soon.Add(time.Hour), soon}, "authority": {soon, soon.Add(time.Hour)}} {
		t.Run(name, func(t *testing.T) {
			ca := issue(t, nil, "ca", b.ca)
			leaf := issue(t, ca, "one", b.leaf)
			a := newBed(pool(ca))
			a.ask(leaf.cert)
			for _, c := range []struct {
				at   time.Time
				want int
			}{{soon.Add(-time.Minute), 1}, {soon.Add(time.Minute), 2}, {leaf.cert.NotBefore.Add(-time.Minute), 3}} {
				a.now = func() time.Time { return c.at }
				if a.ask(leaf.cert); a.count != c.want { // the library, whose clock is the real one, takes it still
					t.Errorf("at %v verified %d times, want %d", c.at, a.count, c.want)
				}
			}
		})
	}
}

func TestOtherAuthoritiesForgetAll(t *testing.T) {
	ca, other := issue(t, nil, "ca", time.Now().Add(time.Hour)), issue(t, nil, "ca", time.Now().Add(time.Hour))
	leaf := issue(t, ca, "one", time.Now().Add(time.Hour))
	b := newBed(pool(ca))
	if _, ok := b.ask(leaf.cert); !ok {
		t.Fatal("refused")
	}
	b.roots = pool(other)
	if _, ok := b.ask(leaf.cert); ok {
		t.Error("still accepted after the authority was replaced")
	}
	b.roots = nil
	if _, ok := b.ask(leaf.cert); ok {
		t.Error("accepted without any authority")
	}
}

func TestRefusalIsNotKept(t *testing.T) {
	ca, other := issue(t, nil, "ca", time.Now().Add(time.Hour)), issue(t, nil, "other", time.Now().Add(time.Hour))
	leaf := issue(t, other, "one", time.Now().Add(time.Hour))
	b := newBed(pool(ca))
	for range 2 {
		if _, ok := b.ask(leaf.cert); ok {
			t.Error("a stranger's certificate is accepted")
		}
	}
	if len(b.known) != 0 {
		t.Errorf("%d known", len(b.known))
	}
}

func TestBounded(t *testing.T) {
	b := newBed(nil)
	for i := range 3 * maxKnown {
		b.keep(string(rune(i)), b.roots, verified{})
		if len(b.known) > maxKnown {
			t.Fatalf("%d known", len(b.known))
		}
	}
}
