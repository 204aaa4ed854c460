package apiserver

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"path/filepath"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver"
	extensionsopenapi "k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/endpoints/filters"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/util/notfoundhandler"
	"k8s.io/apiserver/pkg/util/webhook"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregator "k8s.io/kube-aggregator/pkg/apiserver"
	aggregatorscheme "k8s.io/kube-aggregator/pkg/apiserver/scheme"
	aggregatoropenapi "k8s.io/kube-aggregator/pkg/generated/openapi"

	"github.com/mote-edge/mote/controlplane/apiserver/kubelets"
	"github.com/mote-edge/mote/controlplane/apiserver/openapi"
	"github.com/mote-edge/mote/controlplane/registry"
)

// assemble builds the chain, last server first.
func (s *Server) assemble() error {
	generic, err := s.generic()
	if err != nil {
		return err
	}
	// Webhooks and aggregated servers are reached by their Services' cluster addresses, with certificates that name the Service.
	transport := utilnet.SetTransportDefaults(&http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}) //nolint:gosec // the library verifies with the bundle of the webhook or APIService
	resolver := webhook.ServiceResolver(aggregator.NewClusterIPServiceResolver(s.informers.Core().V1().Services().Lister()))
	if err := s.admission(generic, transport, resolver); err != nil {
		return err
	}
	notFound := notfoundhandler.New(generic.Serializer, filters.NoMuxAndDiscoveryIncompleteKey)
	extensions, err := s.extensions(*generic, genericapiserver.NewEmptyDelegateWithCustomHandler(notFound), transport, resolver)
	if err != nil {
		return fmt.Errorf("assemble custom resources: %w", err)
	}
	if s.core, err = s.builtIn(*generic, extensions.GenericAPIServer, transport); err != nil {
		return fmt.Errorf("assemble the built-in resources: %w", err)
	}
	if s.chain, err = s.aggregate(*generic, s.core, extensions, transport, resolver); err != nil {
		return fmt.Errorf("assemble aggregation: %w", err)
	}
	return nil
}

// builtIn is the server of the built-in resources.
func (s *Server) builtIn(config genericapiserver.Config, next genericapiserver.DelegationTarget, transport *http.Transport) (*genericapiserver.GenericAPIServer, error) {
	config.PostStartHooks = map[string]genericapiserver.PostStartHookConfigEntry{}
	for name, hook := range s.hooks {
		if err := config.AddPostStartHook(name, hook); err != nil {
			return nil, err
		}
	}
	options := s.backend.BuiltIn(registry.Scheme(), registry.Codecs(), runtime.ContentTypeProtobuf)
	config.RESTOptionsGetter = options
	completed := config.Complete(s.informers)
	server, err := completed.New("mote-apiserver", next)
	if err != nil {
		return nil, err
	}
	groups, err := registry.Groups(registry.Config{
		Options:        options,
		Uncached:       s.backend.Uncached,
		Loopback:       s.loopback,
		ServiceCIDR:    s.cfg.ServiceCIDR,
		NodePorts:      utilnet.PortRange{Base: s.cfg.NodePortFirst, Size: s.cfg.NodePortCount},
		EventTTL:       s.cfg.EventTTL,
		Kubelets:       kubelets.New(s.objects.Node, s.cfg.PKI.CA.Pool(), s.kubeletClient.Certificate),
		ProxyTransport: transport,
		Authorizer:     config.Authorization.Authorizer,
		Rules:          s.rbac,
		Authenticator:  config.Authentication.Authenticator,
		Audiences:      config.Authentication.APIAudiences,
		Tokens:         s.issuer,
		Components:     s.components(),
	})
	if err != nil {
		return nil, err
	}
	if err := s.stores.set(groups); err != nil {
		return nil, err
	}
	in := installer{server: server, config: completed.Config, converter: openapi.NewConverter(registry.Scheme())}
	if err := in.install(groups); err != nil {
		return nil, err
	}
	slimRoutes(server.Handler.GoRestfulContainer.RegisteredWebServices())
	discovery, err := s.issuer.Discovery(config.ExternalAddress)
	if err != nil {
		return nil, err
	}
	routes := server.Handler.GoRestfulContainer.RegisteredWebServices
	v3 := openapi.NewV3(routes, registry.Scheme())
	server.Handler.NonGoRestfulMux.Handle("/openapi/v3", v3)
	server.Handler.NonGoRestfulMux.HandlePrefix("/openapi/v3/", v3)
	server.Handler.NonGoRestfulMux.Handle("/openapi/v2", openapi.NewV2(routes, registry.Scheme(), next.UnprotectedHandler()))
	for path, h := range discovery {
		server.Handler.NonGoRestfulMux.Handle(path, h)
	}
	return server, server.AddPostStartHook("storage-readiness", server.StorageReadinessHook.Hook)
}

// extensions is the server of custom resource definitions and their objects.
func (s *Server) extensions(config genericapiserver.Config, next genericapiserver.DelegationTarget, transport *http.Transport, resolver webhook.ServiceResolver) (*apiserver.CustomResourceDefinitions, error) {
	config.PostStartHooks = map[string]genericapiserver.PostStartHookConfigEntry{}
	config.RESTOptionsGetter = s.backend.BuiltIn(apiserver.Scheme, apiserver.Codecs, runtime.ContentTypeJSON, apiextensionsv1.SchemeGroupVersion)
	config.MergedResourceConfig = apiserver.DefaultAPIResourceConfigSource()
	namer := openapinamer.NewDefinitionNamer(apiserver.Scheme)
	config.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(extensionsopenapi.GetOpenAPIDefinitions, namer)
	config.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(extensionsopenapi.GetOpenAPIDefinitions, namer)
	json := unstructured.UnstructuredJSONScheme
	c := apiserver.Config{
		GenericConfig: &genericapiserver.RecommendedConfig{Config: config, SharedInformerFactory: s.informers},
		ExtraConfig: apiserver.ExtraConfig{
			CRDRESTOptionsGetter: s.backend.Custom(runtime.NewCodec(json, json)),
			MasterCount:          1,
			ServiceResolver:      resolver,
			AuthResolverWrapper:  webhook.NewDefaultAuthenticationInfoResolverWrapper(transport, nil, s.loopback, config.TracerProvider),
		},
	}
	return c.Complete().New(next)
}

// aggregate puts the proxy to aggregated API servers in front.
func (s *Server) aggregate(config genericapiserver.Config, next *genericapiserver.GenericAPIServer, extensions *apiserver.CustomResourceDefinitions,
	transport *http.Transport, resolver webhook.ServiceResolver,
) (*aggregator.APIAggregator, error) {
	config.PostStartHooks = map[string]genericapiserver.PostStartHookConfigEntry{}
	config.RESTOptionsGetter = s.backend.BuiltIn(aggregatorscheme.Scheme, aggregatorscheme.Codecs, runtime.ContentTypeJSON, apiregistrationv1.SchemeGroupVersion)
	config.MergedResourceConfig = aggregator.DefaultAPIResourceConfigSource()
	config.SkipOpenAPIInstallation = true
	cert, key := filepath.Join(s.cfg.PKI.Dir, "front-proxy-client.crt"), filepath.Join(s.cfg.PKI.Dir, "front-proxy-client.key")
	if err := s.frontProxy.Export(cert, key); err != nil {
		return nil, err
	}
	config.BuildHandlerChainFunc = func(api http.Handler, c *genericapiserver.Config) http.Handler {
		return genericapiserver.DefaultBuildHandlerChain(openapi.NewFront(api, next.UnprotectedHandler(), extensions.GenericAPIServer.UnprotectedHandler()), c)
	}
	namer := openapinamer.NewDefinitionNamer(aggregatorscheme.Scheme)
	config.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(aggregatoropenapi.GetOpenAPIDefinitions, namer)
	c := aggregator.Config{
		GenericConfig: &genericapiserver.RecommendedConfig{Config: config, SharedInformerFactory: s.informers},
		ExtraConfig: aggregator.ExtraConfig{
			ServiceResolver:     resolver,
			ProxyTransport:      transport,
			ProxyClientCertFile: cert,
			ProxyClientKeyFile:  key,
		},
	}
	chain := openapi.Hide(next)
	a, err := c.Complete().NewWithDelegate(chain)
	if err != nil {
		return nil, err
	}
	chain.Now()
	a.GenericAPIServer.ShutdownTimeout = stopRequests
	return a, s.register(a, next, extensions.Informers.Apiextensions().V1().CustomResourceDefinitions())
}
