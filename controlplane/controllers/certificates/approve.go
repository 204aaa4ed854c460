package certificates

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
)

// approve decides about a pending request. Requests of other kinds are left to people.
func (c *Controller) approve(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) error {
	req, err := parse(csr.Spec.Request)
	if err != nil {
		return nil //nolint:nilerr // the API server validates requests; there is nothing to approve here
	}
	switch csr.Spec.SignerName {
	case certificatesv1.KubeAPIServerClientKubeletSignerName:
		if checkNodeClient(req, csr.Spec.Usages) != nil {
			return nil
		}
		if csr.Spec.Username == req.Subject.CommonName {
			ok, err := c.allowed(ctx, csr, "selfnodeclient")
			if err != nil {
				return err
			}
			if ok {
				return c.setApproved(ctx, csr, "Auto approving self kubelet client certificate after SubjectAccessReview.")
			}
		}
		ok, err := c.allowed(ctx, csr, "nodeclient")
		if err != nil {
			return err
		}
		if ok {
			return c.setApproved(ctx, csr, "Auto approving kubelet client certificate after SubjectAccessReview.")
		}
	case certificatesv1.KubeletServingSignerName:
		if checkNodeServing(req, csr.Spec.Usages) != nil || csr.Spec.Username != req.Subject.CommonName || !slices.Contains(csr.Spec.Groups, user.NodesGroup) {
			return nil
		}
		node, err := c.nodes.Get(req.Subject.CommonName[len(nodePrefix):])
		if apierrors.IsNotFound(err) {
			return fmt.Errorf("certificate signing request %s: node %s isn't registered yet", csr.Name, req.Subject.CommonName)
		}
		if err != nil {
			return err
		}
		if name := foreignName(req, node); name != "" {
			return fmt.Errorf("certificate signing request %s: %s is no address of node %s (yet)", csr.Name, name, node.Name)
		}
		return c.setApproved(ctx, csr, "Auto approving kubelet serving certificate for the node's own addresses.")
	}
	return nil
}

// foreignName returns a name or address in the request that the node doesn't report as its own.
func foreignName(req *x509.CertificateRequest, node *corev1.Node) string {
	own := map[string]bool{node.Name: true}
	for _, a := range node.Status.Addresses {
		own[a.Address] = true
	}
	for _, name := range req.DNSNames {
		if !own[name] {
			return name
		}
	}
	for _, ip := range req.IPAddresses {
		if !own[ip.String()] {
			return ip.String()
		}
	}
	return ""
}

func (c *Controller) allowed(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, subresource string) (bool, error) {
	extra := map[string]authorizationv1.ExtraValue{}
	for k, v := range csr.Spec.Extra {
		extra[k] = authorizationv1.ExtraValue(v)
	}
	review, err := c.cfg.Client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: csr.Spec.Username, UID: csr.Spec.UID, Groups: csr.Spec.Groups, Extra: extra,
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Group: certificatesv1.GroupName, Version: "*", Resource: "certificatesigningrequests", Verb: "create", Subresource: subresource,
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("certificate signing request %s: %w", csr.Name, err)
	}
	return review.Status.Allowed, nil
}

func (c *Controller) setApproved(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, message string) error {
	csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "AutoApproved", Message: message,
	})
	_, err := c.cfg.Client.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, csr.Name, csr, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("approving certificate signing request %s: %w", csr.Name, err)
	}
	return nil
}
