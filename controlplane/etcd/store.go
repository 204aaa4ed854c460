package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/version"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// Store is a running datastore and the one client that all of the API server shares.
type Store struct {
	cfg      Config
	embedded *embed.Etcd
	temp     string
	client   *kubernetes.Client
	close    sync.Once
}

// Start opens the datastore and returns when it answers. Close ends it.
func Start(ctx context.Context, cfg Config) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.complete()
	s := &Store{cfg: cfg}
	if len(cfg.Servers) > 0 {
		return s, s.dial(ctx)
	}
	return s, s.startEmbedded(ctx)
}

func (s *Store) dial(ctx context.Context) error {
	cc := clientv3.Config{
		Endpoints:            s.cfg.Servers,
		DialTimeout:          20 * time.Second,
		DialKeepAliveTime:    30 * time.Second,
		DialKeepAliveTimeout: 10 * time.Second,
		Logger:               zap.NewNop(),
	}
	if s.cfg.CAFile != "" || s.cfg.CertFile != "" {
		info := transport.TLSInfo{CertFile: s.cfg.CertFile, KeyFile: s.cfg.KeyFile, TrustedCAFile: s.cfg.CAFile}
		tls, err := info.ClientConfig()
		if err != nil {
			return fmt.Errorf("load the certificates for etcd: %w", err)
		}
		cc.TLS = tls
	}
	c, err := kubernetes.New(cc)
	if err != nil {
		return fmt.Errorf("connect to etcd at %v: %w", s.cfg.Servers, err)
	}
	s.client = c
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := s.Healthy(ctx); err != nil {
		return errors.Join(fmt.Errorf("etcd at %v does not answer: check --etcd-servers and the certificates: %w", s.cfg.Servers, err), s.Close())
	}
	return nil
}

// Client is the shared client. It must not be closed by its users.
func (s *Store) Client() *kubernetes.Client { return s.client }

// Versions answers the API server's question which version each endpoint runs. (The direct client has no endpoints, and
// the library would take it for an etcd too old to tell a watch how far it is, without which lists aren't served from
// watch caches.)
func (s *Store) Versions() Versions { return Versions{s} }

// Versions is what k8s.io/apiserver's feature check asks for.
type Versions struct{ store *Store }

// Endpoints names the servers.
func (v Versions) Endpoints() []string {
	if v.store.embedded != nil {
		return []string{"embedded " + v.store.cfg.Dir}
	}
	return v.store.client.Endpoints()
}

// Status tells a server's version.
func (v Versions) Status(ctx context.Context, endpoint string) (*clientv3.StatusResponse, error) {
	if v.store.embedded != nil {
		return &clientv3.StatusResponse{Version: version.Version}, nil
	}
	return v.store.client.Status(ctx, endpoint)
}

// CompactInterval is the age at which history is dropped.
func (s *Store) CompactInterval() time.Duration { return s.cfg.CompactInterval }

// Healthy reads a key through consensus.
func (s *Store) Healthy(ctx context.Context) error {
	_, err := s.client.KV.Get(ctx, "health")
	return err
}

// Failed reports an embedded server that stopped by itself. It is nil for an external cluster.
func (s *Store) Failed() <-chan error {
	if s.embedded == nil {
		return nil
	}
	return s.embedded.Err()
}

// Close ends the client, then the embedded server. What was acknowledged is on disk long before.
func (s *Store) Close() (err error) {
	s.close.Do(func() {
		if s.client != nil {
			if cerr := s.client.Close(); cerr != nil && !errors.Is(cerr, context.Canceled) {
				err = cerr
			}
		}
		if s.embedded != nil {
			s.embedded.Close()
		}
		if s.temp != "" {
			err = errors.Join(err, os.RemoveAll(s.temp))
		}
	})
	return err
}

const (
	defragEvery = time.Hour
	defragWaste = 64 << 20
)

// Run looks after the embedded database's file until the context ends: compaction frees pages within it, and only
// defragmentation gives them back to the disk.
func (s *Store) Run(ctx context.Context) {
	if s.embedded == nil {
		return // an external cluster's operator decides when its members may pause
	}
	t := time.NewTicker(defragEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		b := s.embedded.Server.Backend()
		size, used := b.Size(), b.SizeInUse()
		if !worthDefragmenting(size, used) {
			continue
		}
		start := time.Now()
		if err := b.Defrag(); err != nil {
			slog.ErrorContext(ctx, "etcd not defragmented", "err", err)
			continue
		}
		slog.InfoContext(ctx, "etcd defragmented", "before", size, "after", b.Size(), "took", time.Since(start))
	}
}

// worthDefragmenting weighs a pause of all writes against the disk space it gives back.
func worthDefragmenting(size, used int64) bool {
	return size-used > defragWaste && size > 2*used
}
