package apiserver

import (
	"net/http"
	"time"

	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/anonymous"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/request/headerrequest"
	"k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/request/websocket"
	"k8s.io/apiserver/pkg/authentication/request/x509"
	tokencache "k8s.io/apiserver/pkg/authentication/token/cache"
	tokenunion "k8s.io/apiserver/pkg/authentication/token/union"
	"k8s.io/apiserver/pkg/endpoints/request"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"

	"github.com/mote-edge/mote/controlplane/apiserver/bootstraptoken"
	"github.com/mote-edge/mote/controlplane/apiserver/clientcert"
	"github.com/mote-edge/mote/controlplane/apiserver/satoken"
	"github.com/mote-edge/mote/controlplane/deepstack"
)

// tokenCacheTTL spares a signature check and a few look-ups per request. It is also how long a token outlives its pod.
const tokenCacheTTL = 10 * time.Second

// remoteUser is the header in which the front proxy says for whom it asks.
const remoteUser = "X-Remote-User"

// frontProxyName is the common name of the aggregator's client certificate.
const frontProxyName = "front-proxy-client"

// authentication says who asks: the front proxy on behalf of another, a client certificate, a service-account or
// bootstrap token, or nobody.
func (s *Server) authentication(c *genericapiserver.Config, clientCA, proxyCA dynamiccertificates.CAContentProvider) error {
	if err := c.Authentication.ApplyClientCert(clientCA, c.SecureServing); err != nil {
		return err
	}
	if err := c.Authentication.ApplyClientCert(proxyCA, c.SecureServing); err != nil {
		return err
	}
	headers := &authenticatorfactory.RequestHeaderConfig{
		CAContentProvider:   proxyCA,
		UsernameHeaders:     headerrequest.StaticStringSlice{remoteUser},
		UIDHeaders:          headerrequest.StaticStringSlice{"X-Remote-Uid"},
		GroupHeaders:        headerrequest.StaticStringSlice{"X-Remote-Group"},
		ExtraHeaderPrefixes: headerrequest.StaticStringSlice{"X-Remote-Extra-"},
		AllowedClientNames:  headerrequest.StaticStringSlice{frontProxyName},
	}
	audiences := authenticator.Audiences{s.cfg.Issuer}
	tokens := tokencache.New(tokenunion.New(
		satoken.NewVerifier(s.issuer, audiences, s.objects),
		authenticator.WrapAudienceAgnosticToken(audiences, bootstraptoken.New(s.objects.Secret)),
	), true, tokenCacheTTL, 0)
	auth := group.NewAuthenticatedGroupAdder(union.New(
		authenticator.WrapAudienceAgnosticRequest(audiences, onBehalf{headerrequest.NewDynamicVerifyOptionsSecure(
			proxyCA.VerifyOptions, headers.AllowedClientNames, headers.UsernameHeaders, headers.UIDHeaders, headers.GroupHeaders, headers.ExtraHeaderPrefixes,
		)}),
		clientcert.New(clientCA.VerifyOptions, x509.CommonNameUserConversion),
		bearertoken.New(tokens),
		websocket.NewProtocolAuthenticator(tokens),
	))
	if *s.cfg.AnonymousAuth {
		// Bad credentials are an error; only their absence makes a request anonymous.
		auth = union.NewFailOnError(auth, anonymous.NewAuthenticator([]apiserver.AnonymousAuthCondition{}))
	}
	c.Authentication.Authenticator = roomy{auth}
	c.Authentication.APIAudiences = audiences
	c.Authentication.RequestHeaderConfig = headers
	return nil
}

// onBehalf asks the front proxy's authenticator about requests that name somebody else alone: it looks at the certificate first,
// and every client's would be held against the front proxy's authority on each request.
type onBehalf struct{ authenticator.Request }

func (a onBehalf) AuthenticateRequest(req *http.Request) (*authenticator.Response, bool, error) {
	if req.Header.Get(remoteUser) == "" {
		return nil, false, nil
	}
	return a.Request.AuthenticateRequest(req)
}

// roomy is the first that a request comes to of what is ours, in the goroutine that most of it runs in.
type roomy struct{ authenticator.Request }

func (a roomy) AuthenticateRequest(req *http.Request) (*authenticator.Response, bool, error) {
	if info, ok := request.RequestInfoFrom(req.Context()); !ok || info.Verb != "watch" {
		deepstack.Reserve()
	}
	return a.Request.AuthenticateRequest(req)
}
