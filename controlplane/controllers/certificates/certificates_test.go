package certificates

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newCA(t *testing.T) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(10 * 365 * 24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return ca, key
}

func request(t *testing.T, name, signer, username string, template *x509.CertificateRequest, usages ...certificatesv1.KeyUsage) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, template, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	return &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.Now()},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
			SignerName: signer, Usages: usages, Username: username, Groups: []string{"system:nodes"},
		},
	}
}

func TestRequests(t *testing.T) {
	const (
		client  = certificatesv1.KubeAPIServerClientKubeletSignerName
		serving = certificatesv1.KubeletServingSignerName
		person  = certificatesv1.KubeAPIServerClientSignerName
		sig     = certificatesv1.UsageDigitalSignature
		cAuth   = certificatesv1.UsageClientAuth
		sAuth   = certificatesv1.UsageServerAuth
	)
	node := pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:a"}
	approvedBy := func(csr *certificatesv1.CertificateSigningRequest) *certificatesv1.CertificateSigningRequest {
		csr.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue}}
		return csr
	}
	old := func(csr *certificatesv1.CertificateSigningRequest) *certificatesv1.CertificateSigningRequest {
		csr.CreationTimestamp = metav1.NewTime(time.Now().Add(-25 * time.Hour))
		return csr
	}
	for _, c := range []struct {
		name string
		csr  *certificatesv1.CertificateSigningRequest
		want string // issued, pending, failed, gone
	}{
		{"a new node", request(t, "r", client, "system:bootstrap:abc", &x509.CertificateRequest{Subject: node}, sig, cAuth), "issued"},
		{"a node's renewal", request(t, "r", client, "system:node:a", &x509.CertificateRequest{Subject: node}, sig, cAuth), "issued"},
		{"someone who may not", request(t, "r", client, "mallory", &x509.CertificateRequest{Subject: node}, sig, cAuth), "pending"},
		{"not a node's name", request(t, "r", client, "system:bootstrap:abc", &x509.CertificateRequest{Subject: pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}}}, sig, cAuth), "pending"},
		{"a serving certificate", request(t, "r", serving, "system:node:a", &x509.CertificateRequest{Subject: node, DNSNames: []string{"a"}, IPAddresses: []net.IP{net.ParseIP("10.0.0.1")}}, sig, sAuth), "issued"},
		{"a serving certificate for another's address", request(t, "r", serving, "system:node:a", &x509.CertificateRequest{Subject: node, IPAddresses: []net.IP{net.ParseIP("10.0.0.2")}}, sig, sAuth), "pending"},
		{"a serving certificate for another node", request(t, "r", serving, "system:node:b", &x509.CertificateRequest{Subject: node, DNSNames: []string{"a"}}, sig, sAuth), "pending"},
		{"a person's, not approved", request(t, "r", person, "jane", &x509.CertificateRequest{Subject: pkix.Name{CommonName: "jane"}}, sig, cAuth), "pending"},
		{"a person's, approved", approvedBy(request(t, "r", person, "jane", &x509.CertificateRequest{Subject: pkix.Name{CommonName: "jane"}}, sig, cAuth)), "issued"},
		{"approved, but not for serving", approvedBy(request(t, "r", person, "jane", &x509.CertificateRequest{Subject: pkix.Name{CommonName: "jane"}}, sig, sAuth)), "failed"},
		{"another's signer", approvedBy(request(t, "r", "example.com/x", "jane", &x509.CertificateRequest{Subject: pkix.Name{CommonName: "jane"}}, sig, cAuth)), "pending"},
		{"a day old", old(request(t, "r", person, "jane", &x509.CertificateRequest{Subject: pkix.Name{CommonName: "jane"}}, sig, cAuth)), "gone"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ca, key := newCA(t)
			api := fake.NewClientset(c.csr, &corev1.Node{
				ObjectMeta: metav1.ObjectMeta{Name: "a"},
				Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.1"}}},
			})
			api.PrependReactor("create", "subjectaccessreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
				r := a.(clienttesting.CreateAction).GetObject().(*authorizationv1.SubjectAccessReview)
				r.Status.Allowed = r.Spec.User == "system:bootstrap:abc" || r.Spec.User == "system:node:a"
				return true, r, nil
			})
			f := informers.NewSharedInformerFactory(api, 0)
			ctl, err := New(Config{Client: api, Informers: f, Certificate: ca, Key: key, Longest: 365 * 24 * time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			f.Start(ctx.Done())
			go func() { _ = ctl.Run(ctx) }()
			f.WaitForCacheSync(ctx.Done())
			state := func() string {
				csr, err := api.CertificatesV1().CertificateSigningRequests().Get(ctx, "r", metav1.GetOptions{})
				switch {
				case err != nil:
					return "gone"
				case len(csr.Status.Certificate) > 0:
					block, _ := pem.Decode(csr.Status.Certificate)
					cert, err := x509.ParseCertificate(block.Bytes)
					if err != nil {
						t.Fatal(err)
					}
					if err := cert.CheckSignatureFrom(ca); err != nil {
						t.Fatal(err)
					}
					if cert.IsCA {
						t.Fatal("the certificate is a CA's")
					}
					return "issued"
				case conditionsOf(csr).failed:
					return "failed"
				}
				return "pending"
			}
			wait := 3 * time.Second
			if c.want == "pending" {
				wait = 150 * time.Millisecond
			}
			got := ""
			for end := time.Now().Add(wait); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
				if got = state(); got == c.want && c.want != "pending" {
					return
				}
			}
			if got != c.want {
				t.Errorf("state = %s, want %s", got, c.want)
			}
		})
	}
}

func TestLifetime(t *testing.T) {
	year := 365 * 24 * time.Hour
	s := func(v int32) *int32 { return &v }
	for _, c := range []struct {
		asked *int32
		want  time.Duration
	}{{nil, year}, {s(3600), time.Hour}, {s(60), 10 * time.Minute}, {s(1 << 30), year}} {
		if got := lifetime(c.asked, year); got != c.want {
			t.Errorf("lifetime(%v) = %v, want %v", c.asked, got, c.want)
		}
	}
}
