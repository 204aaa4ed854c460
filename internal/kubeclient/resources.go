package kubeclient

import (
	"context"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	nodev1 "k8s.io/api/node/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The resources of a node. A namespace of "" means all namespaces for List and Watch.

// Pods reaches pods.
func (c *Client) Pods(namespace string) *Typed[*corev1.Pod, *corev1.PodList] {
	return typed(c, corev1.SchemeGroupVersion, "pods", namespace, func() *corev1.Pod { return &corev1.Pod{} }, func() *corev1.PodList { return &corev1.PodList{} })
}

// Nodes reaches nodes.
func (c *Client) Nodes() *Typed[*corev1.Node, *corev1.NodeList] {
	return typed(c, corev1.SchemeGroupVersion, "nodes", "", func() *corev1.Node { return &corev1.Node{} }, func() *corev1.NodeList { return &corev1.NodeList{} })
}

// Namespaces reaches namespaces.
func (c *Client) Namespaces() *Typed[*corev1.Namespace, *corev1.NamespaceList] {
	return typed(c, corev1.SchemeGroupVersion, "namespaces", "", func() *corev1.Namespace { return &corev1.Namespace{} }, func() *corev1.NamespaceList { return &corev1.NamespaceList{} })
}

// Services reaches services.
func (c *Client) Services(namespace string) *Typed[*corev1.Service, *corev1.ServiceList] {
	return typed(c, corev1.SchemeGroupVersion, "services", namespace, func() *corev1.Service { return &corev1.Service{} }, func() *corev1.ServiceList { return &corev1.ServiceList{} })
}

// ConfigMaps reaches config maps.
func (c *Client) ConfigMaps(namespace string) *Typed[*corev1.ConfigMap, *corev1.ConfigMapList] {
	return typed(c, corev1.SchemeGroupVersion, "configmaps", namespace, func() *corev1.ConfigMap { return &corev1.ConfigMap{} }, func() *corev1.ConfigMapList { return &corev1.ConfigMapList{} })
}

// Secrets reaches secrets.
func (c *Client) Secrets(namespace string) *Typed[*corev1.Secret, *corev1.SecretList] {
	return typed(c, corev1.SchemeGroupVersion, "secrets", namespace, func() *corev1.Secret { return &corev1.Secret{} }, func() *corev1.SecretList { return &corev1.SecretList{} })
}

// ServiceAccounts reaches service accounts.
func (c *Client) ServiceAccounts(namespace string) *Typed[*corev1.ServiceAccount, *corev1.ServiceAccountList] {
	return typed(c, corev1.SchemeGroupVersion, "serviceaccounts", namespace, func() *corev1.ServiceAccount { return &corev1.ServiceAccount{} }, func() *corev1.ServiceAccountList { return &corev1.ServiceAccountList{} })
}

// PersistentVolumes reaches persistent volumes.
func (c *Client) PersistentVolumes() *Typed[*corev1.PersistentVolume, *corev1.PersistentVolumeList] {
	return typed(c, corev1.SchemeGroupVersion, "persistentvolumes", "", func() *corev1.PersistentVolume { return &corev1.PersistentVolume{} }, func() *corev1.PersistentVolumeList { return &corev1.PersistentVolumeList{} })
}

// PersistentVolumeClaims reaches claims.
func (c *Client) PersistentVolumeClaims(namespace string) *Typed[*corev1.PersistentVolumeClaim, *corev1.PersistentVolumeClaimList] {
	return typed(c, corev1.SchemeGroupVersion, "persistentvolumeclaims", namespace, func() *corev1.PersistentVolumeClaim { return &corev1.PersistentVolumeClaim{} }, func() *corev1.PersistentVolumeClaimList { return &corev1.PersistentVolumeClaimList{} })
}

// Events reaches core events.
func (c *Client) Events(namespace string) *Typed[*corev1.Event, *corev1.EventList] {
	return typed(c, corev1.SchemeGroupVersion, "events", namespace, func() *corev1.Event { return &corev1.Event{} }, func() *corev1.EventList { return &corev1.EventList{} })
}

// Leases reaches leases.
func (c *Client) Leases(namespace string) *Typed[*coordinationv1.Lease, *coordinationv1.LeaseList] {
	return typed(c, coordinationv1.SchemeGroupVersion, "leases", namespace, func() *coordinationv1.Lease { return &coordinationv1.Lease{} }, func() *coordinationv1.LeaseList { return &coordinationv1.LeaseList{} })
}

// EndpointSlices reaches endpoint slices.
func (c *Client) EndpointSlices(namespace string) *Typed[*discoveryv1.EndpointSlice, *discoveryv1.EndpointSliceList] {
	return typed(c, discoveryv1.SchemeGroupVersion, "endpointslices", namespace, func() *discoveryv1.EndpointSlice { return &discoveryv1.EndpointSlice{} }, func() *discoveryv1.EndpointSliceList { return &discoveryv1.EndpointSliceList{} })
}

// CertificateSigningRequests reaches certificate signing requests.
func (c *Client) CertificateSigningRequests() *Typed[*certificatesv1.CertificateSigningRequest, *certificatesv1.CertificateSigningRequestList] {
	return typed(c, certificatesv1.SchemeGroupVersion, "certificatesigningrequests", "", func() *certificatesv1.CertificateSigningRequest { return &certificatesv1.CertificateSigningRequest{} }, func() *certificatesv1.CertificateSigningRequestList {
		return &certificatesv1.CertificateSigningRequestList{}
	})
}

// ClusterTrustBundles reaches trust bundles.
func (c *Client) ClusterTrustBundles() *Typed[*certificatesv1.ClusterTrustBundle, *certificatesv1.ClusterTrustBundleList] {
	return typed(c, certificatesv1.SchemeGroupVersion, "clustertrustbundles", "", func() *certificatesv1.ClusterTrustBundle { return &certificatesv1.ClusterTrustBundle{} }, func() *certificatesv1.ClusterTrustBundleList { return &certificatesv1.ClusterTrustBundleList{} })
}

// PodCertificateRequests reaches requests for the certificates of pods.
func (c *Client) PodCertificateRequests(namespace string) *Typed[*certificatesv1.PodCertificateRequest, *certificatesv1.PodCertificateRequestList] {
	return typed(c, certificatesv1.SchemeGroupVersion, "podcertificaterequests", namespace, func() *certificatesv1.PodCertificateRequest { return &certificatesv1.PodCertificateRequest{} }, func() *certificatesv1.PodCertificateRequestList { return &certificatesv1.PodCertificateRequestList{} })
}

// RuntimeClasses reaches runtime classes.
func (c *Client) RuntimeClasses() *Typed[*nodev1.RuntimeClass, *nodev1.RuntimeClassList] {
	return typed(c, nodev1.SchemeGroupVersion, "runtimeclasses", "", func() *nodev1.RuntimeClass { return &nodev1.RuntimeClass{} }, func() *nodev1.RuntimeClassList { return &nodev1.RuntimeClassList{} })
}

// PriorityClasses reaches priority classes.
func (c *Client) PriorityClasses() *Typed[*schedulingv1.PriorityClass, *schedulingv1.PriorityClassList] {
	return typed(c, schedulingv1.SchemeGroupVersion, "priorityclasses", "", func() *schedulingv1.PriorityClass { return &schedulingv1.PriorityClass{} }, func() *schedulingv1.PriorityClassList { return &schedulingv1.PriorityClassList{} })
}

// CSINodes reaches CSI nodes.
func (c *Client) CSINodes() *Typed[*storagev1.CSINode, *storagev1.CSINodeList] {
	return typed(c, storagev1.SchemeGroupVersion, "csinodes", "", func() *storagev1.CSINode { return &storagev1.CSINode{} }, func() *storagev1.CSINodeList { return &storagev1.CSINodeList{} })
}

// ResourceClaims reaches resource claims.
func (c *Client) ResourceClaims(namespace string) *Typed[*resourcev1.ResourceClaim, *resourcev1.ResourceClaimList] {
	return typed(c, resourcev1.SchemeGroupVersion, "resourceclaims", namespace, func() *resourcev1.ResourceClaim { return &resourcev1.ResourceClaim{} }, func() *resourcev1.ResourceClaimList { return &resourcev1.ResourceClaimList{} })
}

// ResourceSlices reaches resource slices.
func (c *Client) ResourceSlices() *Typed[*resourcev1.ResourceSlice, *resourcev1.ResourceSliceList] {
	return typed(c, resourcev1.SchemeGroupVersion, "resourceslices", "", func() *resourcev1.ResourceSlice { return &resourcev1.ResourceSlice{} }, func() *resourcev1.ResourceSliceList { return &resourcev1.ResourceSliceList{} })
}

// CreateToken asks for a bound service-account token (the token subresource, TokenRequest v1).
func (c *Client) CreateToken(ctx context.Context, namespace, serviceAccount string, tr *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	out := &authenticationv1.TokenRequest{}
	err := c.groups[corev1.SchemeGroupVersion].Post().Namespace(namespace).Resource("serviceaccounts").Name(serviceAccount).SubResource("token").
		Body(tr).Do(ctx).Into(out)
	return out, err
}

// ReviewToken asks who a bearer token belongs to.
func (c *Client) ReviewToken(ctx context.Context, tr *authenticationv1.TokenReview) (*authenticationv1.TokenReview, error) {
	out := &authenticationv1.TokenReview{}
	err := c.groups[authenticationv1.SchemeGroupVersion].Post().Resource("tokenreviews").
		VersionedParams(&metav1.CreateOptions{}, c.params).Body(tr).Do(ctx).Into(out)
	return out, err
}

// ReviewAccess asks whether a subject may do something.
func (c *Client) ReviewAccess(ctx context.Context, sar *authorizationv1.SubjectAccessReview) (*authorizationv1.SubjectAccessReview, error) {
	out := &authorizationv1.SubjectAccessReview{}
	err := c.groups[authorizationv1.SchemeGroupVersion].Post().Resource("subjectaccessreviews").
		VersionedParams(&metav1.CreateOptions{}, c.params).Body(sar).Do(ctx).Into(out)
	return out, err
}
