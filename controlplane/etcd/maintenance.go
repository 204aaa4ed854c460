package etcd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"
)

// restoredRevisions is how far a restored database's revision jumps ahead: whoever saw a later state than the snapshot's
// must not take the new history for a continuation of the old one.
const restoredRevisions = 1_000_000_000

// ErrRunning says that a restore would pull the database from under a server.
var ErrRunning = errors.New("a server uses this datastore: stop it first")

// Maintenance reaches a running datastore from another process: the embedded one over its socket, which root alone may
// open, or an external cluster.
type Maintenance struct {
	client    *clientv3.Client
	endpoints []string
}

// Open connects.
func Open(ctx context.Context, cfg Config) (*Maintenance, error) {
	if len(cfg.Servers) == 0 {
		socket := filepath.Join(cfg.Dir, "client.sock")
		if _, err := os.Stat(socket); err != nil {
			return nil, fmt.Errorf("no datastore runs in %s: start `mote server` there, or give --data-dir or --etcd-servers", cfg.Dir)
		}
		cfg.Servers = []string{"unix://" + socket}
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Store{cfg: cfg}
	if err := s.dial(ctx); err != nil {
		return nil, err
	}
	return &Maintenance{client: s.client.Client, endpoints: cfg.Servers}, nil
}

// Close ends the connection.
func (m *Maintenance) Close() error { return m.client.Close() }

// MemberStatus is what one member says of itself.
type MemberStatus struct {
	Endpoint, Version string
	Size, InUse       int64 // bytes of the database's file, and what of it holds data
	Revision, Keys    int64
	Leader            bool
	Alarms            []string
}

// Status asks every member.
func (m *Maintenance) Status(ctx context.Context) ([]MemberStatus, error) {
	keys, err := m.client.Get(ctx, "", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return nil, fmt.Errorf("count the keys: %w", err)
	}
	var out []MemberStatus
	for _, e := range m.endpoints {
		st, err := m.client.Status(ctx, e)
		if err != nil {
			return nil, fmt.Errorf("status of %s: %w", e, err)
		}
		out = append(out, MemberStatus{
			Endpoint: e, Version: st.Version, Size: st.DbSize, InUse: st.DbSizeInUse, Revision: st.Header.GetRevision(), Keys: keys.Count,
			Leader: st.Leader == st.Header.GetMemberId(), Alarms: st.Errors,
		})
	}
	return out, nil
}

// Defragment gives the database's free pages back to the disk, member by member. Each pauses its writes meanwhile.
func (m *Maintenance) Defragment(ctx context.Context) error {
	for _, e := range m.endpoints {
		if _, err := m.client.Defragment(ctx, e); err != nil {
			return fmt.Errorf("defragment %s: %w", e, err)
		}
	}
	return nil
}

// Save writes the database as it is now to a file, which appears complete or not at all.
func (m *Maintenance) Save(ctx context.Context, path string) (size int64, err error) {
	if _, err := os.Stat(path); err == nil {
		return 0, fmt.Errorf("%s exists: choose another name or remove it", path)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".snapshot-*")
	if err != nil {
		return 0, fmt.Errorf("make the snapshot's file: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	r, err := m.client.Snapshot(ctx)
	if err != nil {
		return 0, fmt.Errorf("ask for a snapshot: %w", err)
	}
	if size, err = io.Copy(f, r); err != nil {
		return 0, errors.Join(fmt.Errorf("receive the snapshot: %w", err), r.Close())
	}
	if err := errors.Join(r.Close(), f.Sync()); err != nil {
		return 0, fmt.Errorf("write the snapshot: %w", err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return 0, fmt.Errorf("name the snapshot: %w", err)
	}
	return size, f.Close()
}

// Restore makes the embedded datastore in dir from a snapshot. What was there is kept beside it, under the name returned.
// The caller has made sure that no server runs.
func Restore(path, dir string, now time.Time) (kept string, err error) {
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("read the snapshot: %w", err)
	}
	ec, err := embedConfig(Config{Dir: dir}, dir)
	if err != nil {
		return "", err
	}
	fresh := dir + ".restoring"
	if err := os.RemoveAll(fresh); err != nil {
		return "", fmt.Errorf("clear an earlier attempt: %w", err)
	}
	err = snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{
		SnapshotPath: path, Name: ec.Name, OutputDataDir: fresh, PeerURLs: []string{ec.AdvertisePeerUrls[0].String()},
		InitialCluster: ec.InitialCluster, InitialClusterToken: ec.InitialClusterToken, RevisionBump: restoredRevisions, MarkCompacted: true,
	})
	if err != nil {
		return "", errors.Join(fmt.Errorf("restore %s: is it a file of `mote etcd snapshot save`? %w", path, err), os.RemoveAll(fresh))
	}
	if _, err := os.Stat(dir); err == nil {
		kept = dir + ".before-" + now.UTC().Format("20060102T150405Z")
		if err := os.Rename(dir, kept); err != nil {
			return "", fmt.Errorf("put the old datastore aside: %w", err)
		}
	}
	if err := os.Rename(fresh, dir); err != nil {
		return kept, fmt.Errorf("put the restored datastore in place: %w", err)
	}
	return kept, nil
}
