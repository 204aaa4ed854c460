package volume

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// CertificateAPI asks signers for certificates of pods.
type CertificateAPI interface {
	// RequestPodCertificate creates a request; it fills in the node and the UID of the service account.
	RequestPodCertificate(ctx context.Context, r *certificatesv1.PodCertificateRequest) (*certificatesv1.PodCertificateRequest, error)
	// WatchPodCertificate follows a request from its present state on.
	WatchPodCertificate(ctx context.Context, namespace, name string) (watch.Interface, error)
}

// podCerts holds the keys and certificates of the pods' volumes, in memory only, and has them signed in the background.
type podCerts struct {
	api    CertificateAPI
	now    func() time.Time
	notify func([]types.UID)

	mu   sync.Mutex
	held map[tokenKey]*podCert
}

// podCert is one key pair of one pod.
type podCert struct {
	key, chain       []byte // PEM; empty until issued
	refresh, expires time.Time
	cancel           context.CancelFunc // of the request on its way; nil if there is none
	refused          error              // by the signer, for good
	last             error              // why the last request came to nothing
}

// issueWithin bounds how long one request is waited for; then another is made.
const issueWithin = 10 * time.Minute

var errNotIssued = errors.New("credential bundle is not issued yet")

// get returns the key and the chain, and when to ask again. What isn't there is asked for; the pod's volumes are made
// again when the answer comes.
func (c *podCerts) get(pod *corev1.Pod, name string, s *corev1.PodCertificateProjection) (key, chain []byte, refresh time.Time, err error) {
	if c.api == nil {
		return nil, nil, time.Time{}, fmt.Errorf("pod certificate: %w", errNoAPI)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	at, now := tokenKey{pod.UID, name}, c.now()
	held := c.held[at]
	if held == nil {
		held = &podCert{}
		c.held[at] = held
	}
	if held.chain != nil && held.refresh.After(now) {
		return held.key, held.chain, held.refresh, nil
	}
	if held.cancel == nil && held.refused == nil {
		ctx, cancel := context.WithTimeout(context.Background(), issueWithin)
		held.cancel = cancel
		go c.issue(ctx, pod, held, s)
	}
	switch {
	case held.chain != nil && held.expires.After(now):
		return held.key, held.chain, now.Add(time.Minute), nil
	case held.refused != nil:
		return nil, nil, time.Time{}, held.refused
	case held.last != nil:
		return nil, nil, time.Time{}, fmt.Errorf("%w: %w", errNotIssued, held.last)
	}
	return nil, nil, time.Time{}, errNotIssued
}

// issue has one key pair signed.
func (c *podCerts) issue(ctx context.Context, pod *corev1.Pod, held *podCert, s *corev1.PodCertificateProjection) {
	key, signed, err := c.request(ctx, pod, s)
	c.mu.Lock()
	gone := errors.Is(ctx.Err(), context.Canceled)
	held.cancel()
	held.cancel, held.last = nil, err
	var refused *refusal
	switch {
	case errors.As(err, &refused):
		held.refused = err
	case err == nil:
		held.key, held.chain, held.refresh, held.expires = key, chainOf(signed.CertificateChain), timeOf(signed.BeginRefreshAt), timeOf(signed.NotAfter)
	}
	c.mu.Unlock()
	if !gone && (err == nil || refused != nil) {
		c.notify([]types.UID{pod.UID})
	}
}

// refusal is a signer's no.
type refusal struct{ verdict, reason, message string }

func (r *refusal) Error() string {
	return fmt.Sprintf("PodCertificateRequest was permanently %s: reason=%q message=%q", r.verdict, r.reason, r.message)
}

func (c *podCerts) request(ctx context.Context, pod *corev1.Pod, s *corev1.PodCertificateProjection) ([]byte, *certificatesv1.PodCertificateRequestStatus, error) {
	signer, err := newKey(s.KeyType)
	if err != nil {
		return nil, nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		return nil, nil, err
	}
	// Empty: what the certificate says is the signer's to decide, from what the API server has checked.
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, signer)
	if err != nil {
		return nil, nil, err
	}
	r := &certificatesv1.PodCertificateRequest{ObjectMeta: metav1.ObjectMeta{
		Namespace: pod.Namespace, GenerateName: "req-" + pod.Name[:min(len(pod.Name), 200)] + "-",
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}},
	}}
	lifetime := int32(24 * 60 * 60)
	if s.MaxExpirationSeconds != nil {
		lifetime = *s.MaxExpirationSeconds
	}
	r.Spec = certificatesv1.PodCertificateRequestSpec{
		SignerName: s.SignerName, PodName: pod.Name, PodUID: pod.UID, ServiceAccountName: pod.Spec.ServiceAccountName,
		MaxExpirationSeconds: &lifetime, StubPKCS10Request: csr, UnverifiedUserAnnotations: s.UserAnnotations,
	}
	if r, err = c.api.RequestPodCertificate(ctx, r); err != nil {
		return nil, nil, fmt.Errorf("create PodCertificateRequest: %w", err)
	}
	status, err := c.await(ctx, r)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), status, err
}

// await follows a request until the signer has answered.
func (c *podCerts) await(ctx context.Context, r *certificatesv1.PodCertificateRequest) (*certificatesv1.PodCertificateRequestStatus, error) {
	for {
		w, err := c.api.WatchPodCertificate(ctx, r.Namespace, r.Name)
		if err == nil {
			for event := range w.ResultChan() {
				now, ok := event.Object.(*certificatesv1.PodCertificateRequest)
				if !ok || now.Name != r.Name {
					continue
				}
				if event.Type == watch.Deleted {
					w.Stop()
					return nil, fmt.Errorf("PodCertificateRequest %s/%s was deleted", r.Namespace, r.Name)
				}
				if status, err := answer(now); status != nil || err != nil {
					w.Stop()
					return status, err
				}
			}
			w.Stop()
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("PodCertificateRequest %s/%s: %w", r.Namespace, r.Name, ctx.Err())
		case <-time.After(2 * time.Second):
		}
	}
}

// answer is the status of a request that was issued, or the signer's refusal.
func answer(r *certificatesv1.PodCertificateRequest) (*certificatesv1.PodCertificateRequestStatus, error) {
	for _, cond := range r.Status.Conditions {
		switch cond.Type {
		case certificatesv1.PodCertificateRequestConditionTypeDenied:
			return nil, &refusal{"denied", cond.Reason, cond.Message}
		case certificatesv1.PodCertificateRequestConditionTypeFailed:
			return nil, &refusal{"failed", cond.Reason, cond.Message}
		case certificatesv1.PodCertificateRequestConditionTypeIssued:
			return &r.Status, nil
		}
	}
	return nil, nil
}

func (c *podCerts) forget(pod types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for at, held := range c.held {
		if pod != "" && at.pod != pod {
			continue
		}
		if held.cancel != nil {
			held.cancel()
		}
		delete(c.held, at)
	}
}

// chainOf writes a chain anew: its certificates, without what stands between or in them.
func chainOf(chain string) []byte {
	var out bytes.Buffer
	for rest := []byte(chain); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return out.Bytes()
		}
		out.Write(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes}))
	}
}

func timeOf(t *metav1.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.Time
}

func newKey(kind string) (crypto.Signer, error) {
	switch kind {
	case "RSA3072":
		return rsa.GenerateKey(rand.Reader, 3072)
	case "RSA4096":
		return rsa.GenerateKey(rand.Reader, 4096)
	case "ECDSAP256":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ECDSAP384":
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ECDSAP521":
		return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "ED25519":
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return nil, fmt.Errorf("unknown key type %q", kind)
}
