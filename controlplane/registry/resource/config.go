package resource

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	restclient "k8s.io/client-go/rest"
)

// Config is what the API server lends to the resources.
type Config struct {
	// Options says where objects are stored.
	Options generic.RESTOptionsGetter
	// Uncached stores without a watch cache; nil gives every resource a cache.
	Uncached generic.StorageDecorator
	// Loopback reaches the API server itself, for repair work after start.
	Loopback *restclient.Config

	// ServiceCIDR is the range of the Services' cluster addresses (one family).
	ServiceCIDR *net.IPNet
	// NodePorts is the range of the Services' node ports.
	NodePorts utilnet.PortRange
	// EventTTL is how long an event is kept; 0 means an hour.
	EventTTL time.Duration

	// Kubelets reaches the node agents: logs, exec, attach, port-forward, proxy.
	Kubelets Kubelets
	// ProxyTransport carries requests proxied to pods and Services; nil means a
	// plain one that doesn't verify the pods' certificates.
	ProxyTransport http.RoundTripper

	// Components are the parts of the control plane with their health checks,
	// for the deprecated componentstatuses.
	Components map[string]func() error

	Authorizer authorizer.UnconditionalAuthorizer
	// Rules answers SelfSubjectRulesReview; nil answers with an empty list.
	Rules authorizer.RuleResolver
	// Authenticator answers TokenReview.
	Authenticator authenticator.Request
	// Audiences are the API server's own token audiences.
	Audiences authenticator.Audiences

	// Tokens signs service-account tokens; nil leaves out serviceaccounts/token.
	Tokens TokenSource
	// TokenMaxLifetime shortens longer requests; 0 means no limit.
	TokenMaxLifetime time.Duration
}

// Validate says what is missing.
func (c *Config) Validate() error {
	switch {
	case c.Options == nil:
		return errors.New("registry: Options (the storage options getter) is not set")
	case c.ServiceCIDR == nil:
		return errors.New("registry: ServiceCIDR is not set")
	case c.NodePorts.Size <= 0:
		return errors.New("registry: NodePorts is empty")
	case c.Authorizer == nil:
		return errors.New("registry: Authorizer is not set")
	}
	return nil
}

// Kubelets says how to reach the agent of a node.
type Kubelets interface {
	// Connection returns the base URL of the node's agent (scheme and host
	// with port) and the transport that authenticates to it. A node that isn't
	// known is a NotFound API error; it doesn't block on the network.
	Connection(ctx context.Context, node string) (*url.URL, http.RoundTripper, error)
	// Insecure is Connection without a check of the agent's certificate.
	Insecure(ctx context.Context, node string) (*url.URL, http.RoundTripper, error)
}

// TokenSource signs service-account tokens.
type TokenSource interface {
	// Sign returns a signed JWT with the public claims and the private ones.
	Sign(ctx context.Context, claims TokenClaims) (string, error)
}

// TokenClaims are the contents of a bound service-account token.
type TokenClaims struct {
	Subject             string
	Audiences           []string
	IssuedAt, NotBefore time.Time
	Expires             time.Time
	ID                  string
	// Private is the value of the "kubernetes.io" claim, ready to be encoded.
	Private any
}

// Storages maps "pods" or "pods/status" to its storage, for one group version.
type Storages map[string]rest.Storage

// Builder is a Descriptor of any kind.
type Builder interface {
	Add(c *Config, to Storages) error
}

// Add builds the resource and its status subresource into to.
func (d *Descriptor[T]) Add(c *Config, to Storages) error {
	r, status, err := d.Build(c)
	if err != nil {
		return err
	}
	to[d.Plural] = r
	if status != nil {
		to[d.Plural+"/status"] = status
	}
	return nil
}

// AddAll adds each of them.
func AddAll(c *Config, to Storages, builders ...Builder) error {
	for _, b := range builders {
		if err := b.Add(c, to); err != nil {
			return err
		}
	}
	return nil
}

// AddScaled is Add with a scale subresource.
func AddScaled[T Object](d *Descriptor[T], c *Config, to Storages, s Scale[T]) error {
	if err := d.Add(c, to); err != nil {
		return err
	}
	to[d.Plural+"/scale"] = ScaleOf(d, to[d.Plural].(*REST).Store, s)
	return nil
}
