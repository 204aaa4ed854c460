package certificates

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apiserver/pkg/authentication/user"
)

const nodePrefix = "system:node:"

func parse(data []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	return req, req.CheckSignature()
}

// check says whether a signer may sign a request, and whether it is one of ours at all.
func check(signer string, req *x509.CertificateRequest, usages []certificatesv1.KeyUsage) (ours bool, err error) {
	switch signer {
	case certificatesv1.KubeAPIServerClientSignerName:
		return true, checkClient(usages)
	case certificatesv1.KubeAPIServerClientKubeletSignerName:
		return true, checkNodeClient(req, usages)
	case certificatesv1.KubeletServingSignerName:
		return true, checkNodeServing(req, usages)
	}
	return false, nil
}

func checkClient(usages []certificatesv1.KeyUsage) error {
	if !slices.Contains(usages, certificatesv1.UsageClientAuth) {
		return errors.New("usages must include client auth")
	}
	for _, u := range usages {
		switch u {
		case certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment, certificatesv1.UsageClientAuth:
		default:
			return fmt.Errorf("invalid usage for client certificate: %s", u)
		}
	}
	return nil
}

func checkNodeClient(req *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	if err := checkNodeSubject(req); err != nil {
		return err
	}
	switch {
	case len(req.DNSNames) > 0:
		return errors.New("DNS subjectAltNames are not allowed")
	case len(req.IPAddresses) > 0:
		return errors.New("IP subjectAltNames are not allowed")
	}
	return checkUsages(usages, certificatesv1.UsageClientAuth)
}

func checkNodeServing(req *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	if err := checkNodeSubject(req); err != nil {
		return err
	}
	if len(req.DNSNames) == 0 && len(req.IPAddresses) == 0 {
		return errors.New("DNS or IP subjectAltName is required")
	}
	return checkUsages(usages, certificatesv1.UsageServerAuth)
}

func checkNodeSubject(req *x509.CertificateRequest) error {
	switch {
	case !slices.Equal(req.Subject.Organization, []string{user.NodesGroup}):
		return errors.New("subject organization is not system:nodes")
	case !strings.HasPrefix(req.Subject.CommonName, nodePrefix) || len(req.Subject.CommonName) == len(nodePrefix):
		return errors.New("subject common name does not begin with system:node:")
	case len(req.EmailAddresses) > 0:
		return errors.New("Email subjectAltNames are not allowed")
	case len(req.URIs) > 0:
		return errors.New("URI subjectAltNames are not allowed")
	}
	return nil
}

// checkUsages wants exactly a digital signature and one purpose; key encipherment may be added, for RSA keys.
func checkUsages(usages []certificatesv1.KeyUsage, purpose certificatesv1.KeyUsage) error {
	seen := map[certificatesv1.KeyUsage]bool{}
	for _, u := range usages {
		seen[u] = true
	}
	delete(seen, certificatesv1.UsageKeyEncipherment)
	if len(seen) != 2 || !seen[certificatesv1.UsageDigitalSignature] || !seen[purpose] {
		return fmt.Errorf("usages did not match [digital signature key encipherment %s]", purpose)
	}
	return nil
}
