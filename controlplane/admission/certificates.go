package admission

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// certificateVerb asks for the right to approve, or to sign, for one signer: the verbs on the virtual resource
// "signers" that the certificates API documents.
type certificateVerb struct {
	verb, subresource string
	authz             authorizer.UnconditionalAuthorizer
}

var _ admission.ValidationInterface = (*certificateVerb)(nil)

func (*certificateVerb) Handles(op admission.Operation) bool { return op == admission.Update }

func (c *certificateVerb) SetUnconditionalAuthorizer(a authorizer.UnconditionalAuthorizer) {
	c.authz = a
}

func (c *certificateVerb) ValidateInitialization() error {
	if c.authz == nil {
		return errors.New("the authorizer is not set")
	}
	return nil
}

func (c *certificateVerb) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if !on(a, certificatesv1.GroupName, "certificatesigningrequests", c.subresource) {
		return nil
	}
	old, ok := a.GetOldObject().(*certificatesv1.CertificateSigningRequest)
	csr, ok2 := a.GetObject().(*certificatesv1.CertificateSigningRequest)
	if !ok || !ok2 {
		return nil
	}
	if c.verb == "sign" && string(old.Status.Certificate) == string(csr.Status.Certificate) && !newlyFailed(old, csr) {
		return nil // only issuing or failing needs the right
	}
	signer := old.Spec.SignerName
	names := []string{signer}
	if domain, _, ok := strings.Cut(signer, "/"); ok {
		names = append(names, domain+"/*")
	}
	for _, name := range names {
		decision, _, err := c.authz.Authorize(ctx, authorizer.AttributesRecord{
			User: a.GetUserInfo(), Verb: c.verb, Name: name, APIGroup: certificatesv1.GroupName, APIVersion: "*", Resource: "signers", ResourceRequest: true,
		})
		if err == nil && decision == authorizer.DecisionAllow {
			return nil
		}
	}
	return admission.NewForbidden(a, fmt.Errorf("user not permitted to %s requests with signerName %q", c.verb, signer))
}

func newlyFailed(old, csr *certificatesv1.CertificateSigningRequest) bool {
	count := func(c *certificatesv1.CertificateSigningRequest) (n int) {
		for _, cond := range c.Status.Conditions {
			if cond.Type == certificatesv1.CertificateFailed {
				n++
			}
		}
		return n
	}
	return count(csr) > count(old)
}

// subjectRestriction keeps clients from asking for the group that may do everything.
type subjectRestriction struct{}

var _ admission.ValidationInterface = subjectRestriction{}

func (subjectRestriction) Handles(op admission.Operation) bool { return op == admission.Create }

func (subjectRestriction) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	csr, ok := a.GetObject().(*certificatesv1.CertificateSigningRequest)
	if !ok || !on(a, certificatesv1.GroupName, "certificatesigningrequests", "") || csr.Spec.SignerName != certificatesv1.KubeAPIServerClientSignerName {
		return nil
	}
	block, _ := pem.Decode(csr.Spec.Request)
	if block == nil {
		return admission.NewForbidden(a, errors.New("unable to parse PEM block from spec.request"))
	}
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return admission.NewForbidden(a, fmt.Errorf("unable to parse spec.request: %w", err))
	}
	for _, o := range req.Subject.Organization {
		if o == user.SystemPrivilegedGroup {
			return admission.NewForbidden(a, fmt.Errorf("use of %s signer with %s group is not allowed", certificatesv1.KubeAPIServerClientSignerName, user.SystemPrivilegedGroup))
		}
	}
	return nil
}
