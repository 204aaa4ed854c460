// Package controllers runs every controller of the control plane in one process, behind one leader election.
//
// Each controller is a package below this one with a Config, trimmed to what it needs, a New that registers its event
// handlers with the shared informers and starts nothing, and a Run that waits for its caches and blocks until the
// context is done. What reconciles keys does so through keyqueue, which has no goroutines while there is nothing to do.
// cluster.go lists the controllers of nodes, namespaces, identities and storage; workloads.go those of workloads
// and Services.
//
// Reads: the API through shared informers. Writes: nothing itself; each controller says what it writes.
package controllers

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mote-edge/mote/controlplane/controllers/gc"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/record"
)

// Config is what the controllers are given. Zero values of the optional fields have a stated meaning.
type Config struct {
	Client    kubernetes.Interface
	Metadata  metadata.Interface                          // namespace deletion and garbage collection work on any resource
	Discovery discovery.DiscoveryInterface                // which resources there are
	Informers informers.SharedInformerFactory             // from controlplane/informer; Run starts it
	Recorder  func(component string) record.EventRecorder // optional: one that posts events through Client

	// Objects, if set, reports all stored objects to garbage collection, which then needs no watches of its own.
	Objects      gc.Feed
	GarbageDelay time.Duration // optional: how long garbage collection lets a start go first, 3 s

	ClusterCIDR  netip.Prefix // node address ranges are cut from it, 10.42.0.0/16
	NodeMaskSize int          // optional: 24 for IPv4
	ServiceCIDR  netip.Prefix // 10.43.0.0/16

	RootCA            []byte            // PEM: what kube-root-ca.crt and legacy token secrets carry
	SigningCert       *x509.Certificate // the CA that signs CertificateSigningRequests
	SigningKey        crypto.Signer
	SigningDuration   time.Duration // optional: the longest life of a signed certificate, a year
	ServiceAccountKey crypto.Signer // signs service-account token secrets; nil: they stay empty
	Issuer            string        // optional: of service-account tokens, https://kubernetes.default.svc.cluster.local
}

// Validate says which required field is missing.
func (c Config) Validate() error {
	switch {
	case c.Client == nil:
		return errors.New("controllers: Config.Client is missing")
	case c.Metadata == nil:
		return errors.New("controllers: Config.Metadata is missing")
	case c.Discovery == nil:
		return errors.New("controllers: Config.Discovery is missing")
	case c.Informers == nil:
		return errors.New("controllers: Config.Informers is missing")
	case !c.ClusterCIDR.IsValid():
		return errors.New("controllers: Config.ClusterCIDR is missing")
	case (c.SigningCert == nil) != (c.SigningKey == nil):
		return errors.New("controllers: Config.SigningCert and SigningKey go together")
	}
	return nil
}

// controller is what this package asks of each.
type controller interface {
	// Run blocks until ctx is done. It returns an error only if the controller cannot work at all.
	Run(ctx context.Context) error
}

type entry struct {
	name string
	controller
}

// Controllers is the set of all controllers.
type Controllers struct {
	cfg         Config
	entries     []entry
	broadcaster record.EventBroadcaster // nil if the recorder was given
}

// New registers every controller with the informers and starts nothing.
func New(cfg Config) (*Controllers, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.NodeMaskSize == 0 {
		cfg.NodeMaskSize = 24
	}
	if cfg.GarbageDelay == 0 {
		cfg.GarbageDelay = 3 * time.Second
	}
	if cfg.Issuer == "" {
		cfg.Issuer = "https://kubernetes.default.svc.cluster.local"
	}
	if cfg.SigningDuration == 0 {
		cfg.SigningDuration = 365 * 24 * time.Hour
	}
	c := &Controllers{cfg: cfg}
	if cfg.Recorder == nil {
		c.broadcaster = record.NewBroadcaster()
		c.cfg.Recorder = func(component string) record.EventRecorder {
			return c.broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: component})
		}
	}
	for _, list := range []func(Config) ([]entry, error){cluster, workloads} {
		entries, err := list(c.cfg)
		if err != nil {
			return nil, err
		}
		c.entries = append(c.entries, entries...)
	}
	return c, nil
}

// Run starts the informers and every controller, and blocks until ctx is done or a controller fails.
func (c *Controllers) Run(ctx context.Context) error {
	if c.broadcaster != nil {
		c.broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: c.cfg.Client.CoreV1().Events("")})
		defer c.broadcaster.Shutdown()
	}
	c.cfg.Informers.StartWithContext(ctx)
	group, ctx := errgroup.WithContext(ctx)
	for _, e := range c.entries {
		group.Go(func() error {
			if err := e.Run(ctx); err != nil && ctx.Err() == nil {
				return fmt.Errorf("controller %s: %w", e.name, err)
			}
			return nil
		})
	}
	slog.InfoContext(ctx, "controllers started", "count", len(c.entries))
	return group.Wait()
}
