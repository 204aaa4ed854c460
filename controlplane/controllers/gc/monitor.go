package gc

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/mote-edge/mote/controlplane/controllers/deletable"
	"github.com/mote-edge/mote/controlplane/controllers/keyqueue"
)

// monitor feeds the graph with the objects of one kind.
type monitor struct {
	*kind
	c    *Controller
	stop context.CancelFunc
}

var _ cache.ReflectorStore = (*monitor)(nil)

// refresh asks which kinds there are, and starts and stops monitors accordingly.
func (c *Controller) refresh(ctx context.Context, _ struct{}) error {
	kinds, err := deletable.Kinds(c.cfg.Discovery)
	if err != nil {
		if len(kinds) == 0 {
			return fmt.Errorf("discovery: %w", err)
		}
		slog.DebugContext(ctx, "some groups can't be discovered", "err", err) // an aggregated server that is away
	}
	remote, remoteErr := c.remote(ctx)
	if remoteErr != nil {
		return remoteErr
	}
	wanted := map[schema.GroupVersionResource]deletable.Kind{}
	fed := map[schema.GroupKind]deletable.Kind{}
	for _, k := range kinds {
		switch {
		case ignored[k.Resource.GroupResource()]:
		case c.cfg.Feed != nil && !remote[k.Resource.GroupVersion()]:
			fed[schema.GroupKind{Group: k.Resource.Group, Kind: k.Kind}] = k
		case k.Watchable:
			wanted[k.Resource] = k
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.learn(fed, err == nil)
	for gvr, m := range c.monitors {
		// A group that can't be discovered may only be away: its objects aren't gone.
		if _, ok := wanted[gvr]; !ok && err == nil {
			m.stop()
			delete(c.monitors, gvr)
			for _, uid := range c.graph.ofKind(m.kind) {
				c.lose(uid)
			}
		}
	}
	for gvr, k := range wanted {
		if c.monitors[gvr] == nil {
			c.monitors[gvr] = c.watch(ctx, k)
		}
	}
	return err
}

// watch starts a monitor: on the shared informer if the other controllers watch that kind anyway, else on a watch of
// metadata alone that keeps nothing but what the graph keeps.
func (c *Controller) watch(ctx context.Context, k deletable.Kind) *monitor {
	ctx, stop := context.WithCancel(ctx)
	m := &monitor{c: c, stop: stop, kind: &kind{
		resource: k.Resource, gvk: k.Resource.GroupVersion().WithKind(k.Kind), namespaced: k.Namespaced,
	}}
	if informer := c.shared[k.Resource]; informer != nil {
		registration, err := keyqueue.WatchChanges(informer, func(_, o metav1.Object, gone bool) {
			if gone {
				m.deleted(o.GetUID())
			} else {
				m.observed(o)
			}
		})
		if err == nil {
			_ = registration // nothing waits: doubts are settled by asking the API
			return m
		}
		slog.WarnContext(ctx, "garbage collection can't share an informer", "resource", k.Resource, "err", err)
	}
	api := c.cfg.Metadata.Resource(k.Resource)
	lw := cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return api.List(ctx, o) },
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return api.Watch(ctx, o)
		},
	}, c.cfg.Metadata)
	r := cache.NewReflectorWithOptions(lw, &metav1.PartialObjectMetadata{}, m, cache.ReflectorOptions{Name: "gc " + k.Resource.GroupResource().String()})
	go r.RunWithContext(ctx)
	return m
}

// The methods below are the reflector's store. It never reads anything back.

func (m *monitor) Add(o any) error    { return m.store(o) }
func (m *monitor) Update(o any) error { return m.store(o) }

func (m *monitor) store(o any) error {
	a, err := meta.Accessor(o)
	if err == nil {
		m.observed(a)
	}
	return err
}

func (m *monitor) Delete(o any) error {
	a, err := meta.Accessor(o)
	if err == nil {
		m.deleted(a.GetUID())
	}
	return err
}

// Replace is a fresh list: what it doesn't contain is gone.
func (m *monitor) Replace(list []any, _ string) error {
	there := make(map[types.UID]bool, len(list))
	for _, o := range list {
		a, err := meta.Accessor(o)
		if err != nil {
			return err
		}
		there[a.GetUID()] = true
		m.observed(a)
	}
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	for _, uid := range m.c.graph.ofKind(m.kind) {
		if !there[uid] {
			m.c.lose(uid)
		}
	}
	return nil
}

func (m *monitor) Resync() error { return nil }

// observed and deleted also notice that kinds may have come or gone.

func (m *monitor) observed(o metav1.Object) {
	m.c.mu.Lock()
	m.c.lookAt(m.c.graph.observe(m.kind, o))
	m.c.mu.Unlock()
	m.kindsMayDiffer()
}

func (m *monitor) deleted(uid types.UID) {
	m.c.mu.Lock()
	m.c.lose(uid)
	m.c.mu.Unlock()
	m.kindsMayDiffer()
}

func (m *monitor) kindsMayDiffer() {
	if definesKinds[m.resource.GroupResource()] {
		m.c.kinds.AddAfter(struct{}{}, time.Second) // discovery follows a moment later
	}
}
