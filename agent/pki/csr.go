package pki

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
)

// CSRs is the API's certificate signing requests.
type CSRs interface {
	Create(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, o metav1.CreateOptions) (*certificatesv1.CertificateSigningRequest, error)
	List(ctx context.Context, o metav1.ListOptions) (*certificatesv1.CertificateSigningRequestList, error)
	Watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error)
}

// request is a certificate to be asked for, in the name of a node.
type request struct {
	node, signer string
	names        []string
	addresses    []netip.Addr
}

// signWithin bounds how long one request is waited for.
const signWithin = 2 * time.Minute

// sign makes a key, has a certificate for it signed, and returns both as PEM.
func sign(ctx context.Context, api CSRs, r request) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, signWithin)
	defer cancel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	template := &x509.CertificateRequest{
		Subject:  pkix.Name{CommonName: "system:node:" + r.node, Organization: []string{"system:nodes"}},
		DNSNames: r.names,
	}
	for _, a := range r.addresses {
		template.IPAddresses = append(template.IPAddresses, a.AsSlice())
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return nil, err
	}
	csr := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{GenerateName: "csr-"}}
	csr.Spec = certificatesv1.CertificateSigningRequestSpec{
		Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
		SignerName: r.signer,
		Usages:     []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
	}
	if r.signer == certificatesv1.KubeletServingSignerName {
		csr.Spec.Usages[1] = certificatesv1.UsageServerAuth
	}
	created, err := api.Create(ctx, csr, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("request a certificate: %w", err)
	}
	chain, err := await(ctx, api, created)
	if err != nil {
		return nil, err
	}
	return bytes.Join([][]byte{pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}), chain}, nil), nil
}

// await watches one request until it is signed or refused.
func await(ctx context.Context, api CSRs, csr *certificatesv1.CertificateSigningRequest) ([]byte, error) {
	if chain, err := verdict(csr); chain != nil || err != nil {
		return chain, err
	}
	byName := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", csr.Name).String(), ResourceVersion: csr.ResourceVersion}
	for {
		w, err := api.Watch(ctx, byName)
		if err == nil {
			var chain []byte
			chain, err = first(ctx, w)
			w.Stop()
			if chain != nil || err != nil && !errors.Is(err, errWatchEnded) {
				return chain, err
			}
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("certificate request %s has not been signed: is the controller manager running, and does it approve %s? (`kubectl get csr %s`)", csr.Name, csr.Spec.SignerName, csr.Name)
		case <-time.After(time.Second):
		}
		list, err := api.List(ctx, metav1.ListOptions{FieldSelector: byName.FieldSelector})
		if err != nil {
			continue
		}
		byName.ResourceVersion = list.ResourceVersion
		for i := range list.Items {
			if chain, err := verdict(&list.Items[i]); chain != nil || err != nil {
				return chain, err
			}
		}
	}
}

var errWatchEnded = errors.New("watch ended")

func first(ctx context.Context, w watch.Interface) ([]byte, error) {
	for {
		select {
		case <-ctx.Done():
			return nil, errWatchEnded
		case event, ok := <-w.ResultChan():
			csr, isCSR := event.Object.(*certificatesv1.CertificateSigningRequest)
			switch {
			case !ok || event.Type == watch.Error:
				return nil, errWatchEnded
			case event.Type == watch.Deleted:
				return nil, errors.New("the certificate request was deleted before it was signed")
			case isCSR:
				if chain, err := verdict(csr); chain != nil || err != nil {
					return chain, err
				}
			}
		}
	}
}

// verdict is the certificate of a signed request, or the reason of a refused one.
func verdict(csr *certificatesv1.CertificateSigningRequest) ([]byte, error) {
	for _, c := range csr.Status.Conditions {
		if c.Type == certificatesv1.CertificateDenied || c.Type == certificatesv1.CertificateFailed {
			return nil, fmt.Errorf("certificate request %s was refused: %s: %s", csr.Name, c.Reason, c.Message)
		}
	}
	if len(csr.Status.Certificate) > 0 {
		return csr.Status.Certificate, nil
	}
	return nil, nil
}
