package pki

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/transport"

	"github.com/mote-edge/mote/internal/kubeclient"
)

// Both certificates change several times while a client and a server use them, and nobody notices: no request fails, none
// is made with a certificate that is over, and every new connection sees the newest one. client-go's own reload of
// client certificates is part of what is tested.
func TestRotationWhileInUse(t *testing.T) {
	before := transport.CertCallbackRefreshDuration
	transport.CertCallbackRefreshDuration = 100 * time.Millisecond
	t.Cleanup(func() { transport.CertCallbackRefreshDuration = before })
	s := &signer{authority: newAuthority(t)}
	s.life = 6 * time.Second
	dir := t.TempDir()
	c, err := New(Config{Dir: dir, NodeName: "n1", Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Client: true, CSRs: s})
	if err != nil {
		t.Fatal(err)
	}
	// After two seconds: client-go looks at its files once a second at most, and what is left of a real certificate's life
	// when it is renewed, days, would here be less than that.
	c.due = func(leaf *x509.Certificate) time.Time { return leaf.NotAfter.Add(-4 * time.Second) }
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	<-c.Ready()
	for c.ClientUntil().IsZero() {
		time.Sleep(5 * time.Millisecond)
	}

	roots := x509.NewCertPool()
	roots.AddCert(s.cert)
	var mu sync.Mutex
	clients, servers := map[string]bool{}, map[string]bool{}
	api := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		leaf := r.TLS.PeerCertificates[0]
		mu.Lock()
		clients[leaf.SerialNumber.String()] = true
		mu.Unlock()
		if time.Now().After(leaf.NotAfter) { // as the API server looks at every request
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"kind":"NodeList","apiVersion":"v1","items":[{"metadata":{"name":"n1"}}]}`))
	}))
	api.TLS = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.Serving, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots}
	api.StartTLS()
	t.Cleanup(api.Close)
	// httptest puts a certificate of its own first: ours is asked for through GetCertificate alone.
	api.TLS.Certificates = nil

	if err := errors.Join(os.WriteFile(filepath.Join(dir, caFile), encodeCert(s.cert.Raw), 0o600), os.WriteFile(filepath.Join(dir, serverFile), []byte(api.URL), 0o600)); err != nil {
		t.Fatal(err)
	}
	cfg, err := Load(dir, "n1")
	if err != nil {
		t.Fatal(err)
	}
	cfg.QPS = -1
	client, err := kubeclient.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		var list *corev1.NodeList
		if list, err = client.Nodes().List(t.Context(), metav1.ListOptions{}); err != nil || len(list.Items) != 1 {
			t.Fatalf("a request failed: %+v, %v", list, err)
		}
		conn, err := tls.Dial("tcp", api.Listener.Addr().String(), &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return load(filepath.Join(dir, clientFile))
		}})
		if err != nil {
			t.Fatalf("a connection failed: %v", err)
		}
		servers[conn.ConnectionState().PeerCertificates[0].SerialNumber.String()] = true
		_ = conn.Close()
		mu.Lock()
		n := len(clients)
		mu.Unlock()
		if n >= 3 && len(servers) >= 3 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d client and %d serving certificates were seen", n, len(servers))
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// The administrator's own serving certificate is read again when it changes, and held on to while it is half replaced.
func TestServingCertificateOfFiles(t *testing.T) {
	a := newAuthority(t)
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	if _, err := New(Config{Dir: dir, NodeName: "n1", CertFile: cert, KeyFile: key}); err == nil {
		t.Error("files that aren't there are fine")
	}
	put := func(at time.Time) {
		t.Helper()
		certPEM, keyPEM := a.pair(t)
		if err := errors.Join(os.WriteFile(cert, certPEM, 0o600), os.WriteFile(key, keyPEM, 0o600), os.Chtimes(cert, at, at), os.Chtimes(key, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	put(time.Unix(1000, 0))
	c, err := New(Config{Dir: dir, NodeName: "n1", CertFile: cert, KeyFile: key})
	if err != nil {
		t.Fatal(err)
	}
	first, err := c.Serving(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cert, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if again, err := c.Serving(nil); err != nil || again != first {
		t.Errorf("%v", err)
	}
	put(time.Unix(2000, 0))
	if again, err := c.Serving(nil); err != nil || again == first {
		t.Errorf("the new one isn't used: %v", err)
	}
}

// pair issues a serving certificate and its key as PEM.
func (a *authority) pair(t *testing.T) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := a.issue(&x509.Certificate{DNSNames: []string{"n1"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, k.Public())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return encodeCert(der), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw})
}
