package etcd

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
	"go.etcd.io/etcd/server/v3/proxy/grpcproxy/adapter"
)

// A unix socket's path may have 107 bytes on Linux (sun_path).
const longestSocket = 107

const (
	// One member needs no heartbeats: slow ticks keep an idle device asleep. The election isn't left to a tick, see elect.
	tickMillis, electionMillis = 500, 5000
	// A restart replays what came after the last snapshot on disk, and drops applied entries from memory while raft still
	// looks at them to hold its election: it panics ("requested index is unavailable due to compaction") unless more
	// entries are kept than can lie between two snapshots. So few between snapshots, and twice as many kept.
	snapshotCount, catchUpEntries = 500, 1000
	// What was acknowledged is in the log already; the database behind it is synced this often, and an idle device needn't
	// wake up ten times a second to see that there is nothing to sync.
	batchInterval = time.Second
	// A start that would free this many megabytes defragments first.
	bootDefragMegabytes = 64
)

func (s *Store) startEmbedded(ctx context.Context) (err error) {
	if err := os.MkdirAll(s.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("make the etcd directory: %w", err)
	}
	if err := os.Chmod(s.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("close the etcd directory to others: %w", err)
	}
	sockets := s.cfg.Dir
	if len(filepath.Join(sockets, "client.sock")) > longestSocket {
		if sockets, err = os.MkdirTemp("", "mote-etcd-"); err != nil {
			return fmt.Errorf("make a directory for etcd's socket: %w", err)
		}
		s.temp = sockets
	}
	ec, err := embedConfig(s.cfg, sockets)
	if err != nil {
		return err
	}
	e, err := embed.StartEtcd(ec)
	if err != nil {
		return fmt.Errorf("start etcd on %s (is another server using the directory?): %w", s.cfg.Dir, err)
	}
	s.embedded = e
	if err := awaitReady(ctx, e.Server, e.Err()); err != nil {
		return errors.Join(err, s.Close())
	}
	c := &kubernetes.Client{Client: v3client.New(e.Server)}
	// The same watcher as v3client's, but with the callers' contexts: its own ones cost a goroutine for each watch.
	c.Watcher = clientv3.NewWatchFromWatchClient(adapter.WatchServerToWatchClient(v3rpc.NewWatchServer(e.Server)), c.Client)
	c.Kubernetes = c
	s.client = c
	return nil
}

func embedConfig(cfg Config, sockets string) (*embed.Config, error) {
	ec := embed.NewConfig()
	ec.Name = "mote"
	ec.Dir = cfg.Dir
	client := url.URL{Scheme: "unix", Path: filepath.Join(sockets, "client.sock")}
	peer := url.URL{Scheme: "unix", Path: filepath.Join(sockets, "peer.sock")}
	for _, u := range []url.URL{client, peer} {
		// A killed server leaves its sockets behind. Two servers on one directory meet at the database's lock instead.
		if err := os.Remove(u.Path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("remove an old socket: %w", err)
		}
	}
	ec.ListenClientUrls, ec.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	ec.ListenPeerUrls, ec.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	ec.InitialCluster = ec.InitialClusterFromName(ec.Name)
	ec.TickMs, ec.ElectionMs = tickMillis, electionMillis
	ec.SnapshotCount, ec.SnapshotCatchUpEntries = snapshotCount, catchUpEntries
	ec.MaxSnapFiles, ec.MaxWalFiles = 2, 2
	ec.QuotaBackendBytes = cfg.QuotaBytes
	ec.MaxRequestBytes = 3 << 20
	ec.BootstrapDefragThresholdMegabytes = bootDefragMegabytes
	ec.BackendFreelistType = "map"
	ec.BackendBatchInterval = batchInterval
	ec.EnableGRPCGateway = false
	ec.UnsafeNoFsync = cfg.UnsafeNoSync
	ec.CORS, ec.HostWhitelist = nil, nil
	ec.ZapLoggerBuilder = embed.NewZapLoggerBuilder(logger())
	return ec, nil
}

// awaitReady returns when the member leads and serves.
func awaitReady(ctx context.Context, s *etcdserver.EtcdServer, failed <-chan error) error {
	t := time.NewTicker(electionPoll)
	defer t.Stop()
	var e elector
	for {
		select {
		case <-s.ReadyNotify():
			return nil
		case <-s.StopNotify():
			return errors.New("etcd stopped while starting")
		case err := <-failed:
			return fmt.Errorf("etcd failed while starting: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("etcd did not become ready: %w", ctx.Err())
		case <-t.C:
			e.try(ctx, s)
		}
	}
}
