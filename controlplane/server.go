// Package controlplane runs a cluster's brain in one process: etcd, the API server, and behind leader election the
// scheduler and the controllers.
//
// Reads:  <data>/server, the API.
// Writes: <data>/server/{etcd,tls}, <config>/admin.kubeconfig.
package controlplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mote-edge/mote/controlplane/apiserver"
	"github.com/mote-edge/mote/controlplane/etcd"
	"github.com/mote-edge/mote/controlplane/pki"
	"github.com/mote-edge/mote/internal/footprint"
	"github.com/mote-edge/mote/internal/layout"
)

// Config says what to run and where its state lives.
type Config struct {
	Dirs layout.Dirs
	// Etcd's Dir may be left empty: it is <data>/server/etcd then.
	Etcd etcd.Config
	// API's PKI and Etcd are filled in.
	API apiserver.Config
	// ClusterCIDR is the range that the nodes' pod ranges are cut from. Default 10.42.0.0/16.
	ClusterCIDR netip.Prefix
}

// settled is when a start's work is over and what it alone needed may go.
const settled = 15 * time.Second

// Server is a control plane.
type Server struct {
	cfg   Config
	began time.Time
	pki   *pki.Store
	store *etcd.Store
	api   *apiserver.Server
}

// New opens the state on disk and the ports. Run serves.
func New(ctx context.Context, cfg Config) (*Server, error) {
	if !cfg.ClusterCIDR.IsValid() {
		cfg.ClusterCIDR = netip.MustParsePrefix("10.42.0.0/16")
	}
	s := &Server{cfg: cfg, began: time.Now()}
	if err := cfg.Dirs.Validate(); err != nil {
		return nil, err
	}
	if cfg.Etcd.Dir == "" && len(cfg.Etcd.Servers) == 0 {
		cfg.Etcd.Dir = filepath.Join(cfg.Dirs.Server(), "etcd")
	}
	var g errgroup.Group
	g.Go(func() (err error) {
		s.store, err = etcd.Start(ctx, cfg.Etcd)
		return err
	})
	g.Go(func() (err error) {
		s.pki, err = pki.Open(filepath.Join(cfg.Dirs.Server(), "tls"))
		return err
	})
	err := g.Wait()
	if err == nil {
		cfg.API.PKI, cfg.API.Etcd = s.pki, s.store
		s.api, err = apiserver.New(cfg.API)
	}
	if err == nil {
		err = pki.WriteKubeconfig(cfg.Dirs.AdminKubeconfig(), s.URL(), s.pki.CA, pki.AdminSubject())
	}
	if err != nil {
		if s.store != nil {
			err = errors.Join(err, s.store.Close())
		}
		return nil, err
	}
	return s, nil
}

// URL is where programs of this machine reach the API server.
func (s *Server) URL() string {
	return "https://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(s.api.Port()))
}

// API returns the API server, for its clients and informers.
func (s *Server) API() *apiserver.Server { return s.api }

// PKI returns the cluster's certificates: cmd wires the local node with them.
func (s *Server) PKI() *pki.Store { return s.pki }

// Ready is closed when the API server serves.
func (s *Server) Ready() <-chan struct{} { return s.api.Ready() }

// Run serves until the context ends, then closes the datastore last.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	// The leader gives its lease back while there is an API server to give it to.
	apiCtx, stopAPI := context.WithCancel(context.WithoutCancel(ctx))
	g.Go(func() error { return s.api.Run(apiCtx) })
	g.Go(func() error {
		defer stopAPI()
		return s.lead(ctx)
	})
	g.Go(func() error {
		s.store.Run(ctx)
		return nil
	})
	g.Go(func() error {
		select {
		case err := <-s.store.Failed():
			return fmt.Errorf("etcd stopped: %w", err)
		case <-ctx.Done():
			return nil
		}
	})
	g.Go(func() error {
		select {
		case <-s.Ready():
			slog.InfoContext(ctx, "control plane ready", "took", time.Since(s.began).Round(time.Millisecond), "server", s.URL(),
				"kubeconfig", s.cfg.Dirs.AdminKubeconfig())
			footprint.Run(ctx, settled, settled)
		case <-ctx.Done():
		}
		return nil
	})
	return errors.Join(g.Wait(), s.store.Close())
}
