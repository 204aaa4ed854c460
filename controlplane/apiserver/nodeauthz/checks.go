package nodeauthz

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

func checkClaim(ctx context.Context, z *Authorizer, node string, a authorizer.Attributes) (string, error) {
	if a.GetSubresource() == "status" {
		if !slices.Contains([]string{"update", "patch"}, a.GetVerb()) {
			return "can only update or patch the status of a claim", nil
		}
		ok, err := z.anyPod(ctx, node, func(p *corev1.Pod) bool { return p.Namespace == a.GetNamespace() && usesClaim(p, a.GetName()) })
		if err != nil || ok {
			return "", err
		}
		return noRelation(node, a.GetResource(), a.GetNamespace(), a.GetName()), nil
	}
	return reads(usesClaim)(ctx, z, node, a)
}

func checkVolume(ctx context.Context, z *Authorizer, node string, a authorizer.Attributes) (string, error) {
	if a.GetVerb() != "get" || a.GetSubresource() != "" || a.GetName() == "" {
		return "can only get individual resources of this type", nil
	}
	pv, err := z.objects.Volume(ctx, a.GetName())
	if err != nil {
		return "", err
	}
	if ref := pv.Spec.ClaimRef; ref != nil {
		ok, err := z.anyPod(ctx, node, func(p *corev1.Pod) bool { return p.Namespace == ref.Namespace && usesClaim(p, ref.Name) })
		if err != nil || ok {
			return "", err
		}
	}
	return noRelation(node, a.GetResource(), "", a.GetName()), nil
}

// checkServiceAccount lets a node ask for tokens of the service accounts that its pods run as, and read those.
func checkServiceAccount(ctx context.Context, z *Authorizer, node string, a authorizer.Attributes) (string, error) {
	if a.GetSubresource() != "token" {
		return reads(usesServiceAccount)(ctx, z, node, a)
	}
	if a.GetVerb() != "create" {
		return "can only create tokens", nil
	}
	ok, err := z.anyPod(ctx, node, func(p *corev1.Pod) bool {
		return p.Namespace == a.GetNamespace() && p.Spec.ServiceAccountName == a.GetName()
	})
	if err != nil || ok {
		return "", err
	}
	return noRelation(node, "serviceaccount", a.GetNamespace(), a.GetName()), nil
}

// checkPods lets a node read its own pods. Writes are checked by the NodeRestriction admission plugin, which sees the object.
func checkPods(ctx context.Context, z *Authorizer, node string, a authorizer.Attributes) (string, error) {
	switch a.GetVerb() {
	case "get":
		if a.GetSubresource() != "" && a.GetSubresource() != "status" {
			return "cannot read subresource", nil
		}
		ok, err := z.anyPod(ctx, node, func(p *corev1.Pod) bool { return p.Namespace == a.GetNamespace() && p.Name == a.GetName() })
		if err != nil || ok {
			return "", err
		}
		return noRelation(node, "pods", a.GetNamespace(), a.GetName()), nil
	case "list", "watch":
		if a.GetSubresource() != "" {
			return "cannot read subresource", nil
		}
		reqs, err := a.GetFieldSelector()
		if err != nil {
			return "can only list/watch pods with spec.nodeName field selector", nil //nolint:nilerr // the reason says it
		}
		for _, r := range reqs {
			if r.Field == "spec.nodeName" && r.Value == node && (r.Operator == "=" || r.Operator == "==" || r.Operator == "in") {
				return "", nil
			}
		}
		return "can only list/watch pods with spec.nodeName field selector", nil
	}
	return z.byRules(a)
}

// checkNodes: a node reads and writes itself.
func checkNodes(_ context.Context, z *Authorizer, node string, a authorizer.Attributes) (string, error) {
	switch a.GetVerb() {
	case "create":
		if a.GetSubresource() == "" {
			return "", nil // the admission plugin compares the names
		}
	case "get", "update", "patch", "delete":
		if a.GetName() == node {
			return z.byRules(a)
		}
	case "list", "watch":
		reqs, _ := a.GetFieldSelector()
		for _, r := range reqs {
			if r.Field == "metadata.name" && r.Value == node {
				return "", nil
			}
		}
		return "node '" + node + "' can only read itself: list/watch with a metadata.name field selector", nil
	}
	return "node '" + node + "' cannot " + a.GetVerb() + " node '" + a.GetName() + "'", nil
}

func checkAttachment(ctx context.Context, z *Authorizer, node string, a authorizer.Attributes) (string, error) {
	if a.GetVerb() != "get" || a.GetName() == "" || a.GetSubresource() != "" {
		return "can only get individual resources of this type", nil
	}
	va, err := z.objects.Attachment(ctx, a.GetName())
	if err != nil {
		return "", err
	}
	if va.Spec.NodeName == node {
		return "", nil
	}
	return noRelation(node, "volumeattachments", "", a.GetName()), nil
}

func checkCSINode(_ context.Context, _ *Authorizer, node string, a authorizer.Attributes) (string, error) {
	if a.GetSubresource() != "" || !slices.Contains([]string{"get", "create", "update", "patch", "delete"}, a.GetVerb()) {
		return "can only get, create, update, patch, or delete a CSINode", nil
	}
	if a.GetVerb() != "create" && a.GetName() != node {
		return "can only access CSINode with the same name as the requesting node", nil
	}
	return "", nil
}

const leaseNamespace = "kube-node-lease"

func checkLease(_ context.Context, _ *Authorizer, node string, a authorizer.Attributes) (string, error) {
	if a.GetNamespace() != leaseNamespace {
		return "can only access leases in the \"" + leaseNamespace + "\" system namespace", nil
	}
	if a.GetSubresource() != "" || !slices.Contains([]string{"get", "create", "update", "patch", "delete"}, a.GetVerb()) {
		return "can only get, create, update, patch, or delete a node lease", nil
	}
	if a.GetVerb() != "create" && a.GetName() != node {
		return "can only access node lease with the same name as the requesting node", nil
	}
	return "", nil
}

func checkSlices(_ context.Context, _ *Authorizer, node string, a authorizer.Attributes) (string, error) {
	if a.GetSubresource() != "" {
		return "cannot access subresource", nil
	}
	switch a.GetVerb() {
	case "create", "get", "update", "patch", "delete":
		return "", nil // the admission plugin compares the node names
	case "list", "watch", "deletecollection":
		reqs, _ := a.GetFieldSelector()
		for _, r := range reqs {
			if r.Field == "spec.nodeName" && r.Value == node {
				return "", nil
			}
		}
	}
	return "can only list/watch/deletecollection resourceslices with spec.nodeName field selector", nil
}

// checkPodCertificate lets a node ask for certificates of its pods (the NodeRestriction admission plugin sees for whom)
// and follow the requests that are its own.
func checkPodCertificate(ctx context.Context, z *Authorizer, node string, a authorizer.Attributes) (string, error) {
	switch {
	case a.GetSubresource() != "":
		return "nodes may not access the status subresource of PodCertificateRequests", nil
	case a.GetVerb() == "create":
		return "", nil
	case a.GetVerb() != "list" && a.GetVerb() != "watch":
		return fmt.Sprintf("nodes may not %s podcertificaterequests", a.GetVerb()), nil
	}
	reqs, err := a.GetFieldSelector()
	if err == nil {
		for _, r := range reqs {
			if r.Field == "spec.nodeName" && r.Value == node && (r.Operator == "=" || r.Operator == "==" || r.Operator == "in") {
				return "", nil
			}
		}
	}
	return "can only list/watch podcertificaterequests with nodeName field selector", nil
}

func checkCSR(_ context.Context, z *Authorizer, _ string, a authorizer.Attributes) (string, error) {
	return z.byRules(a)
}
