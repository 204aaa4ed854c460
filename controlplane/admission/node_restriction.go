package admission

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
)

// nodeRestriction keeps a node to its own affairs: its Node object, its lease, the pods bound to it, tokens for them.
// Which node a user is follows from its name, "system:node:<name>" in group system:nodes.
type nodeRestriction struct {
	pods   corelisters.PodLister
	client kubernetes.Interface
}

var _ admission.MutationInterface = (*nodeRestriction)(nil)

func (*nodeRestriction) Handles(admission.Operation) bool { return true }

func (n *nodeRestriction) SetExternalKubeClientSet(c kubernetes.Interface) { n.client = c }

func (n *nodeRestriction) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	n.pods = f.Core().V1().Pods().Lister()
}

func (n *nodeRestriction) ValidateInitialization() error {
	if n.pods == nil || n.client == nil {
		return errors.New("the pod informer and client are not set")
	}
	return nil
}

// nodeOf returns the node that a user is, and whether it is one at all.
func nodeOf(u user.Info) (string, bool) {
	if u == nil {
		return "", false
	}
	name, ok := strings.CutPrefix(u.GetName(), "system:node:")
	if !ok {
		return "", false
	}
	for _, g := range u.GetGroups() {
		if g == user.NodesGroup {
			return name, true
		}
	}
	return "", false
}

// Admit only judges; it is a mutation plugin so that it runs before others see a node's request, as upstream's does.
func (n *nodeRestriction) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	node, ok := nodeOf(a.GetUserInfo())
	if !ok {
		return nil
	}
	deny := func(format string, args ...any) error { return admission.NewForbidden(a, fmt.Errorf(format, args...)) }
	if node == "" {
		return deny("could not determine node from user %q", a.GetUserInfo().GetName())
	}
	switch a.GetResource().GroupResource().String() {
	case "pods":
		switch a.GetSubresource() {
		case "":
			return n.pod(ctx, a, node, deny)
		case "status":
			return podStatus(a, node, deny)
		case "eviction":
			return n.eviction(ctx, a, node, deny)
		default:
			return deny("unexpected pod subresource %q, only 'status' and 'eviction' are allowed", a.GetSubresource())
		}
	case "nodes":
		return ownNode(a, node, deny)
	case "persistentvolumeclaims":
		if a.GetSubresource() != "status" {
			return deny("may only update PVC status")
		}
	case "serviceaccounts":
		if a.GetOperation() == admission.Create && a.GetSubresource() == "token" {
			return n.token(ctx, a, node, deny)
		}
	case "leases." + coordinationv1.GroupName:
		if ns := a.GetNamespace(); ns != corev1.NamespaceNodeLease {
			return deny("can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
		}
		name := a.GetName()
		if l, ok := a.GetObject().(*coordinationv1.Lease); ok && a.GetOperation() == admission.Create {
			name = l.Name
		}
		if name != node {
			return deny("can only access node lease with the same name as the requesting node")
		}
	case "csinodes." + storagev1.GroupName:
		name := a.GetName()
		if c, ok := a.GetObject().(*storagev1.CSINode); ok && a.GetOperation() == admission.Create {
			name = c.Name
		}
		if name != node {
			return deny("can only access CSINode with the same name as the requesting node")
		}
	case "certificatesigningrequests." + certificatesv1.GroupName:
		return servingRequest(a, node, deny)
	case "podcertificaterequests." + certificatesv1.GroupName:
		return n.podCertificate(ctx, a, node, deny)
	}
	return nil
}

// podCertificate lets a node ask for certificates in the name of its own running pods only.
func (n *nodeRestriction) podCertificate(ctx context.Context, a admission.Attributes, node string, deny denier) error {
	r, ok := a.GetObject().(*certificatesv1.PodCertificateRequest)
	if a.GetOperation() != admission.Create || !ok {
		return nil
	}
	if string(r.Spec.NodeName) != node {
		return deny("PodCertificateRequest.Spec.NodeName=%q, which is not the requesting node %q", r.Spec.NodeName, node)
	}
	// Not from the cache: the pod may have been bound a moment ago.
	pod, err := n.client.CoreV1().Pods(r.Namespace).Get(ctx, r.Spec.PodName, metav1.GetOptions{})
	if err != nil {
		return deny("while retrieving pod named in the PodCertificateRequest: %w", err)
	}
	switch {
	case pod.UID != r.Spec.PodUID:
		return deny("PodCertificateRequest for pod %q contains pod UID (%q) which differs from running pod %q", r.Spec.PodName, r.Spec.PodUID, pod.UID)
	case pod.Spec.NodeName != node:
		return deny("pod %q is not on node %q", r.Spec.PodName, node)
	case pod.Annotations[corev1.MirrorPodAnnotationKey] != "":
		return deny("pod %q is a mirror pod", r.Spec.PodName)
	case pod.Spec.ServiceAccountName != r.Spec.ServiceAccountName:
		return deny("PodCertificateRequest for pod %q contains serviceAccountName (%q) that differs from running pod (%q)", r.Spec.PodName, r.Spec.ServiceAccountName, pod.Spec.ServiceAccountName)
	}
	return nil
}

type denier func(format string, args ...any) error

func (n *nodeRestriction) pod(ctx context.Context, a admission.Attributes, node string, deny denier) error {
	switch a.GetOperation() {
	case admission.Create:
		return mirrorPod(a, node, deny)
	case admission.Delete:
		pod, err := n.client.CoreV1().Pods(a.GetNamespace()).Get(ctx, a.GetName(), getOptions)
		if apierrors.IsNotFound(err) {
			return err
		}
		if err != nil {
			return admission.NewForbidden(a, err)
		}
		if pod.Spec.NodeName != node {
			return deny("node %q can only delete pods with spec.nodeName set to itself", node)
		}
		return nil
	default:
		return deny("unexpected operation %q, node %q can only create and delete mirror pods", a.GetOperation(), node)
	}
}

// mirrorPod: a node creates no pods but the mirrors of its static ones, and those may not draw on the API.
func mirrorPod(a admission.Attributes, node string, deny denier) error {
	pod, ok := a.GetObject().(*corev1.Pod)
	if !ok {
		return admission.NewForbidden(a, fmt.Errorf("unexpected type %T", a.GetObject()))
	}
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; !mirror {
		return deny("pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, node)
	}
	if pod.Spec.NodeName != node {
		return deny("node %q can only create pods with spec.nodeName set to itself", node)
	}
	if len(pod.OwnerReferences) > 1 {
		return deny("node %q can only create pods with a single owner reference set to itself", node)
	}
	for _, o := range pod.OwnerReferences {
		if o.APIVersion != "v1" || o.Kind != "Node" || o.Name != node {
			return deny("node %q can only create pods with an owner reference set to itself", node)
		}
		if o.BlockOwnerDeletion != nil && *o.BlockOwnerDeletion {
			return deny("node %q must not set blockOwnerDeletion on an owner reference", node)
		}
	}
	if pod.Spec.ServiceAccountName != "" {
		return deny("node %q can not create pods that reference a service account", node)
	}
	for _, v := range pod.Spec.Volumes {
		if v.Secret != nil || v.ConfigMap != nil || v.PersistentVolumeClaim != nil {
			return deny("node %q can not create pods that reference secrets, configmaps or persistentvolumeclaims", node)
		}
	}
	return nil
}

func podStatus(a admission.Attributes, node string, deny denier) error {
	if a.GetOperation() != admission.Update {
		return deny("unexpected operation %q", a.GetOperation())
	}
	old, ok := a.GetOldObject().(*corev1.Pod)
	pod, ok2 := a.GetObject().(*corev1.Pod)
	if !ok || !ok2 {
		return admission.NewForbidden(a, fmt.Errorf("unexpected type %T", a.GetObject()))
	}
	if old.Spec.NodeName != node {
		return deny("node %q can only update pod status for pods with spec.nodeName set to itself", node)
	}
	if !maps.Equal(old.Labels, pod.Labels) {
		return deny("node %q cannot update labels through pod status", node)
	}
	return nil
}

func (n *nodeRestriction) eviction(ctx context.Context, a admission.Attributes, node string, deny denier) error {
	if a.GetOperation() != admission.Create {
		return deny("unexpected operation %s", a.GetOperation())
	}
	ev, ok := a.GetObject().(*policyv1.Eviction)
	if !ok {
		return admission.NewForbidden(a, fmt.Errorf("unexpected type %T", a.GetObject()))
	}
	name := a.GetName()
	if name == "" {
		name = ev.Name
	}
	pod, err := n.client.CoreV1().Pods(a.GetNamespace()).Get(ctx, name, getOptions)
	if apierrors.IsNotFound(err) {
		return err
	}
	if err != nil {
		return admission.NewForbidden(a, err)
	}
	if pod.Spec.NodeName != node {
		return deny("node %s can only evict pods with spec.nodeName set to itself", node)
	}
	return nil
}

func ownNode(a admission.Attributes, node string, deny denier) error {
	name := a.GetName()
	obj, isNode := a.GetObject().(*corev1.Node)
	if isNode && a.GetOperation() == admission.Create {
		name = obj.Name
		if obj.Spec.ConfigSource != nil {
			return deny("node %q is not allowed to create pods with a non-nil configSource", node)
		}
		if bad := forbiddenLabels(nil, obj.Labels); len(bad) > 0 {
			return deny("node %q is not allowed to set the following labels: %s", node, strings.Join(bad, ", "))
		}
	}
	if name != node {
		return deny("node %q is not allowed to modify node %q", node, name)
	}
	old, hasOld := a.GetOldObject().(*corev1.Node)
	if !isNode || !hasOld || a.GetOperation() != admission.Update {
		return nil
	}
	if !apiequality.Semantic.DeepEqual(old.Spec.Taints, obj.Spec.Taints) {
		return deny("node %q is not allowed to modify taints", node)
	}
	if bad := forbiddenLabels(old.Labels, obj.Labels); len(bad) > 0 {
		return deny("is not allowed to modify labels: %s", strings.Join(bad, ", "))
	}
	if len(obj.OwnerReferences) > 0 && !apiequality.Semantic.DeepEqual(old.OwnerReferences, obj.OwnerReferences) {
		return deny("node %q is not allowed to modify ownerReferences", node)
	}
	return nil
}

// forbiddenLabels returns the changed labels that a node may not set on itself: those of kubernetes.io and k8s.io, but
// for the ones that kubelets are known by.
func forbiddenLabels(old, labels map[string]string) []string {
	var bad []string
	changed := func(k string) {
		domain, _, ok := strings.Cut(k, "/")
		if !ok {
			return
		}
		in := func(d string) bool { return domain == d || strings.HasSuffix(domain, "."+d) }
		if in("node-restriction.kubernetes.io") || ((in("kubernetes.io") || in("k8s.io")) && !kubeletLabel(k, domain)) {
			bad = append(bad, k)
		}
	}
	for k, v := range labels {
		if was, ok := old[k]; !ok || was != v {
			changed(k)
		}
	}
	for k := range old {
		if _, ok := labels[k]; !ok {
			changed(k)
		}
	}
	return bad
}

func kubeletLabel(key, domain string) bool {
	switch key {
	case corev1.LabelHostname, corev1.LabelTopologyZone, corev1.LabelTopologyRegion, corev1.LabelFailureDomainBetaZone, corev1.LabelFailureDomainBetaRegion,
		corev1.LabelInstanceType, corev1.LabelInstanceTypeStable, corev1.LabelOSStable, corev1.LabelArchStable, "beta.kubernetes.io/os", "beta.kubernetes.io/arch":
		return true
	}
	return domain == "kubelet.kubernetes.io" || strings.HasSuffix(domain, ".kubelet.kubernetes.io") ||
		domain == "node.kubernetes.io" || strings.HasSuffix(domain, ".node.kubernetes.io")
}

// token: a node may ask for tokens of service accounts that a pod on it uses, bound to that pod.
func (n *nodeRestriction) token(ctx context.Context, a admission.Attributes, node string, deny denier) error {
	tr, ok := a.GetObject().(*authenticationv1.TokenRequest)
	if !ok {
		return admission.NewForbidden(a, fmt.Errorf("unexpected type %T", a.GetObject()))
	}
	ref := tr.Spec.BoundObjectRef
	switch {
	case ref == nil:
		return deny("node requested token not bound to a pod")
	case ref.APIVersion != "v1" || ref.Kind != "Pod":
		return deny("node requested token not bound to a pod")
	case ref.Name == "":
		return deny("node requested token not bound to a specific pod")
	case ref.UID == "":
		return deny("node requested token bound to a pod without a uid")
	}
	pod, err := n.pods.Pods(a.GetNamespace()).Get(ref.Name)
	if apierrors.IsNotFound(err) || (err == nil && pod.Spec.NodeName == "") {
		pod, err = n.client.CoreV1().Pods(a.GetNamespace()).Get(ctx, ref.Name, getOptions)
	}
	if apierrors.IsNotFound(err) {
		return err
	}
	if err != nil {
		return admission.NewForbidden(a, err)
	}
	if pod.UID != ref.UID {
		return deny("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID)
	}
	if pod.Spec.NodeName != node {
		return deny("node requested token bound to a pod scheduled on a different node")
	}
	return nil
}

// servingRequest: a certificate for a node's own name only.
func servingRequest(a admission.Attributes, node string, deny denier) error {
	csr, ok := a.GetObject().(*certificatesv1.CertificateSigningRequest)
	if !ok || a.GetOperation() != admission.Create {
		return nil
	}
	if s := csr.Spec.SignerName; s != certificatesv1.KubeletServingSignerName && s != certificatesv1.KubeAPIServerClientKubeletSignerName {
		return nil
	}
	block, _ := pem.Decode(csr.Spec.Request)
	if block == nil {
		return deny("unable to parse csr: no PEM block in spec.request")
	}
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return deny("unable to parse csr: %w", err)
	}
	if req.Subject.CommonName != a.GetUserInfo().GetName() {
		return deny("can only create a node CSR with CN=%s", a.GetUserInfo().GetName())
	}
	return nil
}
