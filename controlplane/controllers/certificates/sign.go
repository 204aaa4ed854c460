package certificates

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// backdate is for clocks that are behind.
const backdate = 5 * time.Minute

// sign issues the certificate of an approved request, or says in its status why not.
func (c *Controller) sign(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) error {
	req, err := parse(csr.Spec.Request)
	if err != nil {
		return nil //nolint:nilerr // the API server validates requests
	}
	ours, err := check(csr.Spec.SignerName, req, csr.Spec.Usages)
	if !ours {
		return nil
	}
	if err == nil {
		csr.Status.Certificate, err = issue(req, csr.Spec.Usages, lifetime(csr.Spec.ExpirationSeconds, c.cfg.Longest), c.cfg.Certificate, c.cfg.Key, time.Now())
		if err != nil {
			return fmt.Errorf("signing certificate signing request %s: %w", csr.Name, err)
		}
	} else {
		csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: "SignerValidationFailure",
			Message: err.Error(), LastUpdateTime: metav1.Now(),
		})
	}
	if _, err := c.cfg.Client.CertificatesV1().CertificateSigningRequests().UpdateStatus(ctx, csr, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("certificate signing request %s: %w", csr.Name, err)
	}
	return nil
}

// lifetime is what was asked for, between ten minutes and the longest that is given.
func lifetime(seconds *int32, longest time.Duration) time.Duration {
	if seconds == nil {
		return longest
	}
	return min(max(time.Duration(*seconds)*time.Second, 10*time.Minute), longest)
}

var usageBits = map[certificatesv1.KeyUsage]x509.KeyUsage{
	certificatesv1.UsageDigitalSignature: x509.KeyUsageDigitalSignature,
	certificatesv1.UsageKeyEncipherment:  x509.KeyUsageKeyEncipherment,
}

var extendedUsages = map[certificatesv1.KeyUsage]x509.ExtKeyUsage{
	certificatesv1.UsageClientAuth: x509.ExtKeyUsageClientAuth,
	certificatesv1.UsageServerAuth: x509.ExtKeyUsageServerAuth,
}

func issue(req *x509.CertificateRequest, usages []certificatesv1.KeyUsage, life time.Duration, ca *x509.Certificate, key crypto.Signer, now time.Time) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	cert := &x509.Certificate{
		SerialNumber: serial, Subject: req.Subject,
		DNSNames: req.DNSNames, IPAddresses: req.IPAddresses, EmailAddresses: req.EmailAddresses, URIs: req.URIs,
		NotBefore: now.Add(-backdate), NotAfter: now.Add(life - backdate), BasicConstraintsValid: true,
	}
	if life < 8*time.Hour {
		cert.NotAfter = now.Add(life) // a short life isn't shortened further
	}
	if cert.NotAfter.After(ca.NotAfter) {
		cert.NotAfter = ca.NotAfter
	}
	if !now.Before(ca.NotAfter) {
		return nil, fmt.Errorf("the signing CA has expired on %v", ca.NotAfter)
	}
	for _, u := range usages {
		cert.KeyUsage |= usageBits[u]
		if e, ok := extendedUsages[u]; ok {
			cert.ExtKeyUsage = append(cert.ExtKeyUsage, e)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, ca, req.PublicKey, key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}
