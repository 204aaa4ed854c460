package pki

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/mote-edge/mote/internal/kubeclient"
)

// authority is a small working CA.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	life time.Duration
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test-ca"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{key: key, cert: cert, life: time.Hour}
}

func (a *authority) issue(template *x509.Certificate, pub any) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<60))
	if err != nil {
		return nil, err
	}
	template.SerialNumber, template.NotBefore, template.NotAfter = serial, time.Now().Add(-time.Second), time.Now().Add(a.life)
	return x509.CreateCertificate(rand.Reader, template, a.cert, pub, a.key)
}

// signCSR answers a request as a signer would.
func (a *authority) signCSR(csr *certificatesv1.CertificateSigningRequest) error {
	block, _ := pem.Decode(csr.Spec.Request)
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return err
	}
	usage := x509.ExtKeyUsageClientAuth
	if csr.Spec.SignerName == certificatesv1.KubeletServingSignerName {
		usage = x509.ExtKeyUsageServerAuth
	}
	der, err := a.issue(&x509.Certificate{Subject: req.Subject, DNSNames: req.DNSNames, IPAddresses: req.IPAddresses, ExtKeyUsage: []x509.ExtKeyUsage{usage}}, req.PublicKey)
	csr.Status.Certificate = encodeCert(der)
	return err
}

// signer is a small working certificates API.
type signer struct {
	*authority
	mu     sync.Mutex
	deny   bool
	signed []certificatesv1.CertificateSigningRequestSpec
}

func (s *signer) Create(_ context.Context, csr *certificatesv1.CertificateSigningRequest, _ metav1.CreateOptions) (*certificatesv1.CertificateSigningRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.signed = append(s.signed, csr.Spec)
	out := csr.DeepCopy()
	out.Name = "csr-1"
	return out, nil
}

func (s *signer) List(context.Context, metav1.ListOptions) (*certificatesv1.CertificateSigningRequestList, error) {
	return &certificatesv1.CertificateSigningRequestList{}, nil
}

func (s *signer) Watch(context.Context, metav1.ListOptions) (watch.Interface, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	csr := &certificatesv1.CertificateSigningRequest{Spec: s.signed[len(s.signed)-1]}
	w := watch.NewRaceFreeFake()
	w.Modify(csr.DeepCopy()) // nothing yet
	if s.deny {
		csr.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateDenied, Reason: "Policy", Message: "no"}}
	} else if err := s.signCSR(csr); err != nil {
		return nil, err
	}
	w.Modify(csr)
	return w, nil
}

func TestCertificatesAreSignedStoredAndRenewed(t *testing.T) {
	s := &signer{authority: newAuthority(t)}
	cfg := Config{Dir: t.TempDir(), NodeName: "n1", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Client: true, CSRs: s}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Serving(nil); err == nil {
		t.Error("a certificate out of nothing")
	}
	s.life = 2 * time.Second // the first ones are due for renewal soon
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	<-c.Ready()
	first, err := c.Serving(nil)
	if err != nil || first.Leaf.VerifyHostname("192.0.2.1") != nil || first.Leaf.VerifyHostname("n1") != nil || first.Leaf.Subject.CommonName != "system:node:n1" {
		t.Fatalf("serving: %+v, %v", first.Leaf.Subject, err)
	}
	for range 400 {
		if now, _ := c.Serving(nil); now != first {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if now, _ := c.Serving(nil); now == first {
		t.Error("not renewed before its end")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(filepath.Join(cfg.Dir, servingFile)); err != nil || info.Mode() != 0o600 {
		t.Errorf("serving.pem: %v, %v", info, err)
	}
	again, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := again.Serving(nil); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	cfg.Addresses = append(cfg.Addresses, netip.MustParseAddr("192.0.2.2"))
	if moved, err := New(cfg); err != nil {
		t.Error(err)
	} else if _, err := moved.Serving(nil); err == nil {
		t.Error("a certificate without the node's new address is used on")
	}
}

func TestRefusedRequest(t *testing.T) {
	_, err := sign(t.Context(), &signer{authority: newAuthority(t), deny: true}, request{node: "n1", signer: "s"})
	if err == nil || !strings.Contains(err.Error(), "was refused: Policy: no") {
		t.Error(err)
	}
}

func TestParseToken(t *testing.T) {
	good := "mote1." + strings.Repeat("0a", 32) + ".abc123.0123456789abcdef"
	if tok, err := ParseToken(good + "\n"); err != nil || tok.ID != "abc123" || tok.Secret != "0123456789abcdef" || len(tok.CAHash) != 64 {
		t.Errorf("%+v, %v", tok, err)
	}
	for _, bad := range []string{"", "mote1", good[:40], good + "x", strings.Replace(good, "mote1", "mote2", 1), strings.ToUpper(good)} {
		if _, err := ParseToken(bad); !errors.Is(err, ErrToken) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// apiServer is an API server that signs requests for one token, with its CA in the chain.
func apiServer(t *testing.T, ca *authority, token, host string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "apiserver"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{host}
	}
	der, err := ca.issue(template, key.Public())
	if err != nil {
		t.Fatal(err)
	}
	codecs := serializer.NewCodecFactory(kubeclient.NewScheme())
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.Header.Get("Authorization") != "Bearer "+token {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Unauthorized","code":401}`)
			return
		}
		body, _ := io.ReadAll(r.Body)
		csr := &certificatesv1.CertificateSigningRequest{}
		if _, _, err := codecs.UniversalDeserializer().Decode(body, nil, csr); err != nil {
			t.Error(err)
		}
		csr.Name = "csr-1"
		if err := ca.signCSR(csr); err != nil {
			t.Error(err)
		}
		out := &bytes.Buffer{}
		if err := codecs.LegacyCodec(certificatesv1.SchemeGroupVersion).Encode(csr, out); err != nil {
			t.Error(err)
		}
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write(out.Bytes())
	}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der, ca.cert.Raw}, PrivateKey: key}}}
	srv.Config.ErrorLog = nil
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv.URL
}

func TestJoin(t *testing.T) {
	ca := newAuthority(t)
	url := apiServer(t, ca, "abc123.0123456789abcdef", "127.0.0.1")
	token := "mote1." + HashOf(ca.cert) + ".abc123.0123456789abcdef"
	cfg := JoinConfig{Server: url, Token: token, NodeName: "n1", Dir: t.TempDir()}
	got, err := Join(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if got.Host != url || !bytes.Equal(got.CAData, encodeCert(ca.cert.Raw)) {
		t.Errorf("config: %+v", got)
	}
	cert, err := tls.LoadX509KeyPair(got.CertFile, got.KeyFile)
	if err != nil || cert.Leaf.Subject.CommonName != "system:node:n1" || cert.Leaf.Subject.Organization[0] != "system:nodes" {
		t.Errorf("certificate: %v", err)
	}
	if _, err := Join(t.Context(), JoinConfig{NodeName: "n1", Dir: cfg.Dir}); err != nil {
		t.Errorf("a restart without a token: %v", err)
	}
	if _, err := Join(t.Context(), JoinConfig{NodeName: "n2", Dir: cfg.Dir}); !errors.Is(err, ErrToken) {
		t.Errorf("another node's identity is taken: %v", err)
	}
}

func TestJoinSaysWhatIsWrong(t *testing.T) {
	ca := newAuthority(t)
	url := apiServer(t, ca, "abc123.0123456789abcdef", "127.0.0.1")
	misnamed := apiServer(t, ca, "x", "elsewhere.example")
	hash := HashOf(ca.cert)
	for name, tc := range map[string]struct {
		server, token, want string
		is                  error
	}{
		"wrong hash":    {url, "mote1." + strings.Repeat("0", 64) + ".abc123.0123456789abcdef", "another cluster", ErrServer},
		"unknown token": {url, "mote1." + hash + ".zzz999.0123456789abcdef", "`mote token create`", ErrToken},
		"bad token":     {url, "secret", "mote1.<64 hex", ErrToken},
		"no server":     {"https://127.0.0.1:1", "mote1." + hash + ".abc123.0123456789abcdef", "`mote server`", ErrServer},
		"bad url":       {"http://x", "mote1." + hash + ".abc123.0123456789abcdef", "https://<host>:6443", ErrServer},
		"wrong name":    {misnamed, "mote1." + hash + ".abc123.0123456789abcdef", "--advertise-address", ErrServer},
		"nothing given": {"", "", "--server", ErrToken},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "pki")
			_, err := Join(t.Context(), JoinConfig{Server: tc.server, Token: tc.token, NodeName: "n1", Dir: dir})
			if !errors.Is(err, tc.is) || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v, want %q", err, tc.want)
			}
			if _, err := os.Stat(dir); err == nil {
				t.Error("a failed join left files")
			}
		})
	}
}
