package pki

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Kubeconfig returns a kubeconfig file that holds its credentials inside.
func Kubeconfig(server string, ca *Authority, user string, pair KeyPair) []byte {
	b64 := base64.StdEncoding.EncodeToString
	var b bytes.Buffer
	fmt.Fprintf(&b, `apiVersion: v1
kind: Config
clusters:
- name: mote
  cluster:
    server: %s
    certificate-authority-data: %s
users:
- name: %s
  user:
    client-certificate-data: %s
    client-key-data: %s
contexts:
- name: mote
  context:
    cluster: mote
    user: %s
current-context: mote
`, server, b64(ca.CertPEM), user, b64(pair.CertPEM), b64(pair.KeyPEM), user)
	return b.Bytes()
}

// WriteKubeconfig issues a client certificate and writes a kubeconfig for it to path, unless the file there is of this
// authority and server and has more than a third of its life left.
func WriteKubeconfig(path, server string, ca *Authority, s Subject) error {
	s.Client = true
	if old, err := os.ReadFile(path); err == nil && stillGood(old, server, ca, time.Now()) {
		return os.Chmod(path, 0o600)
	}
	pair, err := ca.Issue(s, time.Now())
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make the configuration directory: %w", err)
	}
	return WriteFile(path, Kubeconfig(server, ca, s.Name, pair))
}

// stillGood reads only files that Kubeconfig wrote: of any other one it says no, and it is written anew.
func stillGood(file []byte, server string, ca *Authority, now time.Time) bool {
	if field(file, "server") != server {
		return false
	}
	caPEM, err := base64.StdEncoding.DecodeString(field(file, "certificate-authority-data"))
	if err != nil || !bytes.Equal(caPEM, ca.CertPEM) {
		return false
	}
	certPEM, err1 := base64.StdEncoding.DecodeString(field(file, "client-certificate-data"))
	keyPEM, err2 := base64.StdEncoding.DecodeString(field(file, "client-key-data"))
	if err1 != nil || err2 != nil {
		return false
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil || pair.Leaf == nil {
		return false
	}
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: ca.Pool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return false
	}
	return now.Before(renewAt(pair.Leaf.NotAfter))
}

func field(file []byte, name string) string {
	for _, line := range bytes.Split(file, []byte("\n")) {
		if v, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte(name+": ")); ok {
			return string(v)
		}
	}
	return ""
}

// NodeSubject is the identity of a node's kubelet towards the API server.
func NodeSubject(node string) Subject {
	return Subject{Name: "system:node:" + node, Groups: []string{"system:nodes"}, Client: true}
}

// KubeletServingSubject is what a kubelet shows to the API server, with the node's names and addresses.
func KubeletServingSubject(node string, hosts []string) Subject {
	return Subject{Name: "system:node:" + node, Groups: []string{"system:nodes"}, Hosts: hosts}
}

// AdminSubject is the administrator: a member of system:masters passes every authorization.
func AdminSubject() Subject {
	return Subject{Name: "mote:admin", Groups: []string{"system:masters"}, Client: true}
}
