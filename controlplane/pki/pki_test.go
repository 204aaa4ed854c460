package pki

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStoreOutlivesRestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tls")
	first, second := open(t, dir), open(t, dir)
	if first.CA.Hash() != second.CA.Hash() || first.FrontProxy.Hash() != second.FrontProxy.Hash() {
		t.Error("an authority changed over a restart")
	}
	if !first.ServiceAccountKey.Equal(second.ServiceAccountKey) {
		t.Error("the service-account key changed over a restart")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 5 {
		t.Errorf("%d files, want 5", len(entries))
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, want 0600 (%v)", e.Name(), info.Mode(), err)
		}
	}
}

func TestStoreRefusesDamage(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, dir string){
		"key gone": func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "ca.key")); err != nil {
				t.Fatal(err)
			}
		},
		"key of another": func(t *testing.T, dir string) {
			data, err := os.ReadFile(filepath.Join(dir, "front-proxy-ca.key"))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "ca.key"), data, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"certificate cut off": func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(dir, "ca.crt"), 40); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			open(t, dir)
			damage(t, dir)
			if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "restore") {
				t.Errorf("error %v, want one that says what to restore", err)
			}
		})
	}
}

func TestStoreFinishesWhatWasCutOff(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	if err := os.Remove(filepath.Join(dir, "ca.crt")); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
}

func TestIssueVerifies(t *testing.T) {
	s := open(t, t.TempDir())
	pair, err := s.CA.Issue(Subject{Name: "kube-apiserver", Hosts: []string{"kubernetes", "10.43.0.1"}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(pair.CertPEM, pair.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	if len(cert.Certificate) != 2 {
		t.Fatalf("the chain has %d certificates, want the leaf and the authority", len(cert.Certificate))
	}
	for host, ok := range map[string]bool{"kubernetes": true, "10.43.0.1": true, "other": false} {
		_, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: s.CA.Pool(), DNSName: host})
		if (err == nil) != ok {
			t.Errorf("%s: %v", host, err)
		}
	}
	if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: s.CA.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err == nil {
		t.Error("a serving certificate passes as a client's")
	}
	if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: s.FrontProxy.Pool()}); err == nil {
		t.Error("the front proxy's authority vouches for the other one's certificate")
	}
}

func TestKubeconfigIsKeptAndRenewed(t *testing.T) {
	s := open(t, t.TempDir())
	path := filepath.Join(t.TempDir(), "etc", "admin.kubeconfig")
	read := func() []byte {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	write := func(server string, ca *Authority) []byte {
		if err := WriteKubeconfig(path, server, ca, AdminSubject()); err != nil {
			t.Fatal(err)
		}
		return read()
	}
	first := write("https://127.0.0.1:6443", s.CA)
	if !bytes.Equal(first, write("https://127.0.0.1:6443", s.CA)) {
		t.Error("a good kubeconfig was replaced")
	}
	if stillGood(first, "https://127.0.0.1:6443", s.CA, time.Now().Add(leafLife*3/4)) {
		t.Error("a certificate in its last third counts as good")
	}
	if bytes.Equal(first, write("https://10.0.0.1:6443", s.CA)) {
		t.Error("the server's address changed and the file did not")
	}
	second := read()
	if bytes.Equal(second, write("https://10.0.0.1:6443", open(t, t.TempDir()).CA)) {
		t.Error("the authority changed and the file did not")
	}
}

type counter struct{ n int }

func (c *counter) Enqueue() { c.n++ }

func TestLeafTellsListeners(t *testing.T) {
	s := open(t, t.TempDir())
	l, err := NewLeaf("x", s.CA, AdminSubject())
	if err != nil {
		t.Fatal(err)
	}
	var c counter
	l.NotifyOnChange(&c)
	before, _ := l.CurrentCertKeyContent()
	if err := l.renew(time.Now()); err != nil {
		t.Fatal(err)
	}
	after, _ := l.CurrentCertKeyContent()
	if c.n != 1 || bytes.Equal(before, after) {
		t.Errorf("told %d times, want once, with a new certificate", c.n)
	}
}
