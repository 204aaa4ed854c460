package apiserver

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/runtime"
	apisrv "k8s.io/apiserver/pkg/server"
	genericstorage "k8s.io/apiserver/pkg/storage"
	etcdfeature "k8s.io/apiserver/pkg/storage/feature"
	flowcontrolrequest "k8s.io/apiserver/pkg/util/flowcontrol/request"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	restclient "k8s.io/client-go/rest"
	aggregator "k8s.io/kube-aggregator/pkg/apiserver"

	"github.com/mote-edge/mote/controlplane/apiserver/bootstrap"
	"github.com/mote-edge/mote/controlplane/apiserver/inproc"
	"github.com/mote-edge/mote/controlplane/apiserver/rbac"
	"github.com/mote-edge/mote/controlplane/apiserver/satoken"
	"github.com/mote-edge/mote/controlplane/apiserver/storage"
	"github.com/mote-edge/mote/controlplane/informer"
	"github.com/mote-edge/mote/controlplane/pki"
)

// Server is an assembled API server.
type Server struct {
	cfg Config

	serving, kubeletClient, frontProxy *pki.Leaf

	transport *inproc.Transport
	loopback  *restclient.Config
	client    kubernetes.Interface
	informers informers.SharedInformerFactory
	objects   *objects
	stores    stores
	issuer    *satoken.Issuer
	rbac      *rbac.Resolver
	backend   *storage.Backend
	counts    flowcontrolrequest.StorageObjectCountTracker // for priority and fairness alone

	chain *aggregator.APIAggregator
	core  *apisrv.GenericAPIServer
	hooks map[string]apisrv.PostStartHookFunc
	ready chan struct{}
}

// New assembles a server. It opens the listener, so that a port in use is known at once; Run serves.
func New(cfg Config) (_ *Server, err error) {
	lean()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, transport: inproc.New(), ready: make(chan struct{}), hooks: map[string]apisrv.PostStartHookFunc{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, cfg.Listener.Close())
		}
	}()
	if err := s.certificates(); err != nil {
		return nil, err
	}
	if err := s.clients(); err != nil {
		return nil, err
	}
	if s.issuer, err = satoken.NewIssuer(cfg.Issuer, cfg.PKI.ServiceAccountKey); err != nil {
		return nil, err
	}
	etcdfeature.DefaultFeatureSupportChecker.CheckClient(context.Background(), cfg.Etcd.Versions(), genericstorage.RequestWatchProgress)
	s.backend = storage.NewBackend(cfg.Etcd.Client(), cfg.Etcd.CompactInterval(), func() flowcontrolrequest.StorageObjectCountTracker { return s.counts })
	return s, s.assemble()
}

// certificates issues what the server shows and presents, at the same time.
func (s *Server) certificates() error {
	ca := s.cfg.PKI.CA
	var g errgroup.Group
	leaf := func(to **pki.Leaf, name string, ca *pki.Authority, subject pki.Subject) {
		g.Go(func() (err error) {
			*to, err = pki.NewLeaf(name, ca, subject)
			return err
		})
	}
	leaf(&s.serving, "serving", ca, pki.Subject{Name: "kube-apiserver", Hosts: s.cfg.hosts()})
	leaf(&s.kubeletClient, "kubelet client", ca, pki.Subject{Name: "kube-apiserver-kubelet-client", Client: true})
	leaf(&s.frontProxy, "front proxy", s.cfg.PKI.FrontProxy, pki.Subject{Name: frontProxyName, Client: true})
	return g.Wait()
}

// clients makes the control plane's own way in: a token that only this process knows, straight to the handler.
func (s *Server) clients() (err error) {
	token := make([]byte, 16)
	_, _ = rand.Read(token) // never fails (crypto/rand)
	s.loopback = &restclient.Config{
		Host:        "https://" + apisrv.LoopbackClientServerNameOverride,
		BearerToken: hex.EncodeToString(token),
		Transport:   s.transport,
		QPS:         -1,
		ContentConfig: restclient.ContentConfig{
			ContentType:        runtime.ContentTypeProtobuf,
			AcceptContentTypes: runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON,
		},
	}
	if s.client, err = kubernetes.NewForConfig(s.loopback); err != nil {
		return fmt.Errorf("make the server's own client: %w", err)
	}
	s.informers = informer.NewFactory(s.client)
	s.objects = &objects{s.client}
	return nil
}

// Loopback returns a configuration for clients of this process. They are members of system:masters; use
// rest.CopyConfig and set Impersonate to be somebody less.
func (s *Server) Loopback() *restclient.Config { return s.loopback }

// Client returns the shared typed client of the loopback configuration.
func (s *Server) Client() kubernetes.Interface { return s.client }

// Informers returns the factory that the server starts; add informers before Run, or call its Start again.
func (s *Server) Informers() informers.SharedInformerFactory { return s.informers }

// Address is host and port of the listener.
func (s *Server) Address() string { return s.cfg.Listener.Addr().String() }

// Port is the listener's.
func (s *Server) Port() int { return s.cfg.listenPort() }

// Issuer names this cluster in service-account tokens.
func (s *Server) Issuer() string { return s.cfg.Issuer }

// ServiceCIDR is the range of the Services' addresses.
func (s *Server) ServiceCIDR() *net.IPNet { return s.cfg.ServiceCIDR }

// Ready is closed when the server serves and what a cluster begins with exists.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Handler is the whole chain, with authentication.
func (s *Server) Handler() http.Handler { return s.chain.GenericAPIServer.Handler }

// Run serves until the context ends and running requests are done.
func (s *Server) Run(ctx context.Context) error {
	defer s.backend.Stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	prepared, err := s.chain.PrepareRun()
	if err != nil {
		return fmt.Errorf("prepare the API server: %w", err)
	}
	s.transport.SetHandler(s.chain.GenericAPIServer.Handler)
	go pki.RunAll(ctx, s.serving, s.kubeletClient, s.frontProxy)
	go func() {
		b := bootstrap.New(s.bootstrapConfig())
		if err := b.Ensure(ctx); err != nil {
			if ctx.Err() == nil {
				cancel(err)
			}
			return
		}
		close(s.ready)
		b.Run(ctx)
	}()
	if err := prepared.Run(ctx); err != nil {
		return fmt.Errorf("run the API server: %w", err)
	}
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

func (s *Server) bootstrapConfig() bootstrap.Config {
	return bootstrap.Config{
		Client:           s.client,
		AdvertiseAddress: s.cfg.AdvertiseAddress,
		Port:             s.Port(),
		ServiceCIDR:      s.cfg.ServiceCIDR,
		DNSAddress:       DNSAddress(s.cfg.ServiceCIDR),
		ClientCA:         s.cfg.PKI.CA.CertPEM,
		FrontProxyCA:     s.cfg.PKI.FrontProxy.CertPEM,
		FrontProxyNames:  []string{frontProxyName},
		Fairness:         s.cfg.Fairness,
	}
}
