// Package objectfeed tells of every object that the API server stores, as it comes, changes and goes, from a single watch
// of the datastore.
//
// Garbage collection has to know the owners of all objects of all kinds. Asked through the API that is a watch for each
// kind, which the whole way through the server costs some 80 KiB for kinds of which mostly nothing exists. The
// datastore's keys and its storage format are published contracts as well; only kind and metadata are decoded.
//
// Reads: the datastore. Writes: nothing.
package objectfeed

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// Sink is told of objects, one call at a time. It must not block for long.
type Sink interface {
	// Changed reports an object as it is now. Of the metadata only name, namespace, UID, deletion timestamp (whether
	// there is one), owner references and finalizers are set.
	Changed(gvk schema.GroupVersionKind, m *metav1.ObjectMeta)
	// Deleted reports that an object is gone. One that was never reported may be.
	Deleted(uid types.UID)
	// Listed reports that all objects there are have been reported, at the start and after an interruption: what is not
	// among these is gone.
	Listed(there map[types.UID]bool)
}

// page is how many objects are read at a time.
const page = 200

// Feed reads one datastore.
type Feed struct {
	client *clientv3.Client
	prefix string
	seed   maphash.Seed
	uids   map[uint64]types.UID // by hash of the key, for deletions, which come with their key only
}

// New returns a feed of what an API server stores below a prefix, "/registry/" by default.
func New(client *clientv3.Client, prefix string) *Feed {
	if prefix == "" {
		prefix = "/registry/"
	}
	return &Feed{client: client, prefix: prefix, seed: maphash.MakeSeed(), uids: map[uint64]types.UID{}}
}

// Run reports to the sink until ctx is done. Interruptions are made good by reading everything again.
func (f *Feed) Run(ctx context.Context, sink Sink) error {
	for wait := time.Second; ; wait = min(2*wait, 30*time.Second) {
		began := time.Now()
		err := f.follow(ctx, sink)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > time.Minute {
			wait = time.Second
		}
		slog.WarnContext(ctx, "the watch of all objects broke off and begins anew", "err", err, "in", wait)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

func (f *Feed) follow(ctx context.Context, sink Sink) error {
	revision, err := f.list(ctx, sink)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for r := range f.client.Watch(clientv3.WithRequireLeader(ctx), f.prefix, clientv3.WithPrefix(), clientv3.WithRev(revision+1)) {
		if err := r.Err(); err != nil {
			return fmt.Errorf("watch: %w", err)
		}
		for _, e := range r.Events {
			hash := maphash.Bytes(f.seed, e.Kv.Key)
			if e.Type == clientv3.EventTypeDelete {
				if uid, ok := f.uids[hash]; ok {
					delete(f.uids, hash)
					sink.Deleted(uid)
				}
				continue
			}
			f.report(ctx, sink, e.Kv.Key, e.Kv.Value)
		}
	}
	return errors.New("watch: closed")
}

// list reads everything as of one revision, which it returns.
func (f *Feed) list(ctx context.Context, sink Sink) (revision int64, err error) {
	there := map[types.UID]bool{}
	clear(f.uids)
	end := clientv3.GetPrefixRangeEnd(f.prefix)
	for from := f.prefix; ; {
		options := []clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(page)}
		if revision != 0 {
			options = append(options, clientv3.WithRev(revision))
		}
		r, err := f.client.Get(ctx, from, options...)
		if err != nil {
			return 0, fmt.Errorf("list: %w", err)
		}
		if revision == 0 {
			revision = r.Header.Revision
		}
		for _, kv := range r.Kvs {
			if uid := f.report(ctx, sink, kv.Key, kv.Value); uid != "" {
				there[uid] = true
			}
		}
		if !r.More || len(r.Kvs) == 0 {
			sink.Listed(there)
			return revision, nil
		}
		from = string(r.Kvs[len(r.Kvs)-1].Key) + "\x00"
	}
}

// report returns the object's UID; what has none is no API object: allocation maps and the like.
func (f *Feed) report(ctx context.Context, sink Sink, key, value []byte) types.UID {
	gvk, m, err := decode(value)
	if err != nil {
		slog.WarnContext(ctx, "a stored object can't be read", "key", string(key), "err", err)
		return ""
	}
	if m.UID == "" || gvk.Kind == "" {
		return ""
	}
	f.uids[maphash.Bytes(f.seed, key)] = m.UID
	sink.Changed(gvk, m)
	return m.UID
}
