// Package certificates looks after CertificateSigningRequests: it approves those by which nodes get their client and
// serving certificates, signs what is approved, and deletes what is old.
//
// A client certificate of a node is approved if the requester may create the subresource nodeclient (a bootstrap token
// may) or, for its own renewal, selfnodeclient. A serving certificate is approved if a node asks for itself and for
// addresses that are its own; upstream leaves that to the administrator, which would leave `kubectl logs` without TLS.
// Requests for kubernetes.io/kube-apiserver-client are signed once someone has approved them.
//
// Reads: CertificateSigningRequests, Nodes. Writes: their approval, certificate and Failed condition; deletes old ones.
package certificates

import (
	"context"
	"crypto"
	"crypto/x509"
	"fmt"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	certificateslisters "k8s.io/client-go/listers/certificates/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/mote-edge/mote/controlplane/controllers/keyqueue"
)

// Config is what the controller is given.
type Config struct {
	Client      kubernetes.Interface
	Informers   informers.SharedInformerFactory
	Certificate *x509.Certificate // the CA
	Key         crypto.Signer
	Longest     time.Duration // of a certificate's life
}

// Controller takes each request one step further whenever it changes.
type Controller struct {
	cfg      Config
	requests certificateslisters.CertificateSigningRequestLister
	nodes    corelisters.NodeLister
	queue    *keyqueue.Queue[string]
	synced   []cache.InformerSynced
}

// New registers with the informers and starts nothing.
func New(cfg Config) (*Controller, error) {
	requests, nodes := cfg.Informers.Certificates().V1().CertificateSigningRequests(), cfg.Informers.Core().V1().Nodes()
	c := &Controller{cfg: cfg, requests: requests.Lister(), nodes: nodes.Lister()}
	c.queue = keyqueue.New("certificates", 4, c.reconcile)
	synced, err := keyqueue.Watch(requests.Informer(), func(r *certificatesv1.CertificateSigningRequest) { c.queue.Add(r.Name) })
	c.synced = []cache.InformerSynced{synced, nodes.Informer().HasSynced}
	return c, err
}

// Run works until ctx is done.
func (c *Controller) Run(ctx context.Context) error { return c.queue.RunWhenSynced(ctx, c.synced...) }

func (c *Controller) reconcile(ctx context.Context, name string) error {
	csr, err := c.requests.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if after := time.Until(expiry(csr)); after > 0 {
		c.queue.AddAfter(name, after)
	} else {
		err := c.cfg.Client.CertificatesV1().CertificateSigningRequests().Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &csr.UID}})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("deleting old certificate signing request %s: %w", name, err)
		}
		return nil
	}
	state := conditionsOf(csr)
	switch {
	case len(csr.Status.Certificate) > 0 || state.denied || state.failed:
		return nil
	case state.approved:
		return c.sign(ctx, csr.DeepCopy())
	default:
		return c.approve(ctx, csr.DeepCopy())
	}
}

type conditions struct{ approved, denied, failed bool }

func conditionsOf(csr *certificatesv1.CertificateSigningRequest) (s conditions) {
	for _, c := range csr.Status.Conditions {
		switch {
		case c.Type == certificatesv1.CertificateApproved:
			s.approved = true
		case c.Type == certificatesv1.CertificateDenied:
			s.denied = true
		case c.Type == certificatesv1.CertificateFailed && c.Status == corev1.ConditionTrue:
			s.failed = true
		}
	}
	return s
}

// How long a request is kept, as upstream.
const (
	keepPending = 24 * time.Hour
	keepDone    = time.Hour
)

// expiry is when a request may go: an hour after its decision, at the latest a day after its creation.
func expiry(csr *certificatesv1.CertificateSigningRequest) time.Time {
	end := csr.CreationTimestamp.Add(keepPending)
	for _, c := range csr.Status.Conditions {
		done := c.Type == certificatesv1.CertificateDenied || c.Type == certificatesv1.CertificateFailed ||
			(c.Type == certificatesv1.CertificateApproved && len(csr.Status.Certificate) > 0)
		if !done {
			continue
		}
		since := csr.CreationTimestamp.Time
		if !c.LastUpdateTime.IsZero() {
			since = c.LastUpdateTime.Time
		}
		if t := since.Add(keepDone); t.Before(end) {
			end = t
		}
	}
	return end
}
