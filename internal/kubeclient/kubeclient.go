// Package kubeclient is the API client of the worker side: a scheme of the few groups that a node uses and a generic
// typed client over it, speaking protobuf. client-go's own clientset registers every group and version there is, which
// costs a small node several megabytes; this one costs what it uses.
//
// Reads:  the API server.
// Writes: the API server, at its callers' word.
package kubeclient

import (
	"fmt"

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
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/rest"
)

// NewScheme returns a scheme of the groups that a node reads and writes.
func NewScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, coordinationv1.AddToScheme, discoveryv1.AddToScheme, authenticationv1.AddToScheme,
		authorizationv1.AddToScheme, certificatesv1.AddToScheme, nodev1.AddToScheme, storagev1.AddToScheme, schedulingv1.AddToScheme,
		resourcev1.AddToScheme,
	} {
		utilruntime.Must(add(s)) // only fails on two types of one name: a programming error
	}
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
	return s
}

// Client reaches one API server. It is safe for concurrent use.
type Client struct {
	scheme *runtime.Scheme
	params runtime.ParameterCodec
	groups map[schema.GroupVersion]rest.Interface
}

// New returns a client for the API server that cfg names. All groups share one transport (and so one HTTP/2
// connection). It makes no request.
func New(cfg *rest.Config) (*Client, error) {
	s := NewScheme()
	c := &Client{scheme: s, params: runtime.NewParameterCodec(s), groups: map[schema.GroupVersion]rest.Interface{}}
	codecs := serializer.NewCodecFactory(s).WithoutConversion()
	base := rest.CopyConfig(cfg)
	base.ContentType = "application/vnd.kubernetes.protobuf"
	base.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	base.NegotiatedSerializer = codecs
	if base.UserAgent == "" {
		base.UserAgent = rest.DefaultKubernetesUserAgent()
	}
	httpClient, err := rest.HTTPClientFor(base)
	if err != nil {
		return nil, fmt.Errorf("API client for %s: %w", cfg.Host, err)
	}
	for _, gv := range []schema.GroupVersion{
		corev1.SchemeGroupVersion, coordinationv1.SchemeGroupVersion, discoveryv1.SchemeGroupVersion, authenticationv1.SchemeGroupVersion,
		authorizationv1.SchemeGroupVersion, certificatesv1.SchemeGroupVersion, nodev1.SchemeGroupVersion, storagev1.SchemeGroupVersion,
		schedulingv1.SchemeGroupVersion, resourcev1.SchemeGroupVersion,
	} {
		group := rest.CopyConfig(base)
		group.GroupVersion = &gv
		group.APIPath = "/apis"
		if gv.Group == "" {
			group.APIPath = "/api"
		}
		if c.groups[gv], err = rest.RESTClientForConfigAndClient(group, httpClient); err != nil {
			return nil, fmt.Errorf("API client for %s: %w", gv, err)
		}
	}
	return c, nil
}

// Scheme is the client's scheme: callers that build events or owner references need it.
func (c *Client) Scheme() *runtime.Scheme { return c.scheme }

// REST returns the raw client of a group, for subresources that the typed one has no call for.
func (c *Client) REST(gv schema.GroupVersion) rest.Interface { return c.groups[gv] }

// object is what the typed client can carry.
type object interface {
	runtime.Object
	metav1.Object
}
