package core

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/filters"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/mote-edge/mote/controlplane/registry/resource"
)

// connecter is a subresource whose requests go on to somewhere else: O is the
// kind of its options.
type connecter[O runtime.Object] struct {
	newOptions func() O
	methods    []string
	// path is true when the rest of the URL's path belongs to the options.
	path bool
	// handle makes the handler of one request. O is what the query said.
	handle func(ctx context.Context, name string, options O, r rest.Responder) (http.Handler, error)
}

func (c *connecter[O]) New() runtime.Object      { return c.newOptions() }
func (c *connecter[O]) Destroy()                 {}
func (c *connecter[O]) ConnectMethods() []string { return c.methods }

func (c *connecter[O]) NewConnectOptions() (runtime.Object, bool, string) {
	if c.path {
		return c.newOptions(), true, "path"
	}
	return c.newOptions(), false, ""
}

func (c *connecter[O]) Connect(ctx context.Context, name string, options runtime.Object, r rest.Responder) (http.Handler, error) {
	o, ok := options.(O)
	if !ok {
		return nil, fmt.Errorf("invalid options object: %#v", options)
	}
	return c.handle(ctx, name, o, r)
}

var _ rest.Connecter = (*connecter[runtime.Object])(nil)

var (
	anyMethod = []string{"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"}
	// Browsers can only GET a WebSocket.
	upgradeMethods = []string{"GET", "POST"}
)

// proxyTo passes one request on, and rewrites links of what comes back.
func proxyTo(location *url.URL, path string, transport http.RoundTripper, r rest.Responder) http.Handler {
	location.Path = utilnet.JoinPreservingTrailingSlash(location.Path, path)
	return proxy.NewUpgradeAwareHandler(location, transport, true, false, proxy.NewErrorResponder(r))
}

func proxyTransport(c *resource.Config) http.RoundTripper {
	if c.ProxyTransport != nil {
		return c.ProxyTransport
	}
	return utilnet.SetTransportDefaults(&http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // pods have no certificates that anybody here could verify
	})
}

// mustBeAllowed makes a GET that does what a POST does need the POST's verb.
func mustBeAllowed(ctx context.Context, a authorizer.UnconditionalAuthorizer, verb string) error {
	info, ok := genericapirequest.RequestInfoFrom(ctx)
	if !ok {
		return apierrors.NewInternalError(errors.New("no request info in context"))
	}
	if info.Verb == verb {
		return nil // checked by the server already
	}
	attributes, err := filters.GetAuthorizerAttributes(ctx)
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("error building authorizer attributes: %w", err))
	}
	decision, reason, err := a.Authorize(ctx, otherVerb{attributes, verb})
	if err != nil {
		return err
	}
	if decision != authorizer.DecisionAllow {
		return apierrors.NewForbidden(schema.GroupResource{Group: info.APIGroup, Resource: info.Resource}, info.Name, errors.New(reason))
	}
	return nil
}

type otherVerb struct {
	authorizer.Attributes
	verb string
}

func (o otherVerb) GetVerb() string { return o.verb }
