// Package objects holds the ConfigMaps and Secrets that the volumes of this node's pods show. Each object that somebody
// follows has one watch, shared and counted; an immutable one has none once it is known. What nobody follows is read
// from the API server when asked for and not kept: environments and pull secrets want the newest value once.
//
// Reads:  ConfigMaps and Secrets, one by one, as the node authorizer allows.
// Writes: a copy of them on disk, for the time when the API server is out of reach.
package objects

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/mote-edge/mote/internal/kubeclient"
)

// Kind is one of the two kinds of object.
type Kind string

// The kinds, by their resource names.
const (
	ConfigMaps Kind = "configmaps"
	Secrets    Kind = "secrets"
)

// Ref names an object.
type Ref struct {
	Kind            Kind
	Namespace, Name string
}

// Object is a ConfigMap or a Secret.
type Object interface {
	runtime.Object
	metav1.Object
}

// Source is the API server. Both calls may be made at any time from any goroutine.
type Source interface {
	// List returns the object, or nil if there is none, and the resource version to watch from.
	List(ctx context.Context, ref Ref) (Object, string, error)
	// Watch streams the object's changes after a resource version.
	Watch(ctx context.Context, ref Ref, resourceVersion string) (watch.Interface, error)
}

// Cache is the shared, counted set of followed objects.
type Cache struct {
	source Source
	kept   *Kept // nil: none
	notify func(Ref, []types.UID)
	ctx    context.Context
	stop   context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	entries map[Ref]*entry
	owners  map[types.UID]map[Ref]bool
}

type entry struct {
	owners map[types.UID]bool
	cancel context.CancelFunc
	synced chan struct{} // closed once obj and err mean something
	obj    Object        // nil: there is none
	err    error         // the last failure, until the first success
}

// New returns an empty cache; kept, which may be nil, answers while the API server is out of reach. notify is told of every change of a followed object after the first answer about it, with
// those who follow it; it must not block.
func New(source Source, kept *Kept, notify func(Ref, []types.UID)) *Cache {
	ctx, stop := context.WithCancel(context.Background())
	return &Cache{source: source, kept: kept, notify: notify, ctx: ctx, stop: stop, entries: map[Ref]*entry{}, owners: map[types.UID]map[Ref]bool{}}
}

// Close ends every watch.
func (c *Cache) Close() {
	c.stop()
	c.wg.Wait()
}

// Follow makes refs the objects that owner follows, and no others. An empty list ends its interest. Idempotent.
func (c *Cache) Follow(owner types.UID, refs []Ref) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil {
		return
	}
	want := map[Ref]bool{}
	for _, ref := range refs {
		want[ref] = true
		e := c.entries[ref]
		if e == nil {
			ctx, cancel := context.WithCancel(c.ctx)
			e = &entry{owners: map[types.UID]bool{}, cancel: cancel, synced: make(chan struct{})}
			c.entries[ref] = e
			c.wg.Go(func() { c.follow(ctx, ref, e) })
		}
		e.owners[owner] = true
	}
	for ref := range c.owners[owner] {
		if want[ref] {
			continue
		}
		e := c.entries[ref]
		delete(e.owners, owner)
		if len(e.owners) == 0 {
			e.cancel()
			delete(c.entries, ref)
		}
	}
	if len(want) == 0 {
		delete(c.owners, owner)
		return
	}
	c.owners[owner] = want
}

// Followed is the number of objects that somebody follows.
func (c *Cache) Followed() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.entries)
}

// ConfigMap returns a ConfigMap: from the cache if it is followed, else from the API server.
func (c *Cache) ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	obj, err := c.get(ctx, Ref{ConfigMaps, namespace, name})
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.ConfigMap), nil
}

// Secret returns a Secret: from the cache if it is followed, else from the API server.
func (c *Cache) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	obj, err := c.get(ctx, Ref{Secrets, namespace, name})
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Secret), nil
}

func (c *Cache) get(ctx context.Context, ref Ref) (Object, error) {
	c.mu.Lock()
	e := c.entries[ref]
	c.mu.Unlock()
	if e == nil {
		obj, _, err := c.list(ctx, ref)
		return found(ref, obj, err)
	}
	select {
	case <-e.synced:
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for %s %s/%s: %w", ref.Kind, ref.Namespace, ref.Name, ctx.Err())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return found(ref, e.obj, e.err)
}

// list asks the API server, and the disk if that can't be reached: then there is no version to watch from.
func (c *Cache) list(ctx context.Context, ref Ref) (Object, string, error) {
	obj, version, err := c.source.List(ctx, ref)
	if err == nil {
		c.kept.save(ref, obj)
	} else if OutOfReach(err) {
		if old := c.kept.load(ref); old != nil {
			return old, "", nil
		}
	}
	return obj, version, err
}

func found(ref Ref, obj Object, err error) (Object, error) {
	switch {
	case err != nil:
		return nil, err
	case obj == nil:
		// In the singular, as kubelets word it in their events.
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: strings.TrimSuffix(string(ref.Kind), "s")}, ref.Name)
	}
	return obj, nil
}

// follow keeps an entry true until its context ends.
func (c *Cache) follow(ctx context.Context, ref Ref, e *entry) {
	const first, most = 500 * time.Millisecond, 30 * time.Second
	backoff := first
	version := ""
	for ctx.Err() == nil {
		if version == "" {
			obj, rv, err := c.list(ctx, ref)
			if err == nil {
				c.set(ref, e, obj)
			} else {
				c.fail(e, err)
			}
			if rv != "" {
				backoff, version = first, rv
			}
		}
		if version != "" {
			if c.immutable(e) {
				return
			}
			next, err := c.watchOnce(ctx, ref, e, version)
			if err == nil {
				backoff = first
			}
			if version = next; err == nil && version != "" {
				continue // the server ended the watch in its own time
			}
		}
		// A quarter of jitter, so that a node's watches don't all come back at once.
		pause := time.NewTimer(backoff + time.Duration(rand.Int64N(int64(backoff)/4+1)))
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
		pause.Stop()
		backoff = min(2*backoff, most)
	}
}

// watchOnce follows one watch to its end and returns the version to go on from; "" asks for a fresh list.
func (c *Cache) watchOnce(ctx context.Context, ref Ref, e *entry, version string) (string, error) {
	w, err := c.source.Watch(ctx, ref, version)
	if err != nil {
		if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || apierrors.IsForbidden(err) || apierrors.IsNotFound(err) {
			version = ""
		}
		return version, err
	}
	defer w.Stop()
	began := time.Now()
	for event := range w.ResultChan() {
		switch event.Type {
		case watch.Added, watch.Modified:
			obj, ok := event.Object.(Object)
			if !ok {
				return "", fmt.Errorf("watch of %s sent a %T", ref.Kind, event.Object)
			}
			version = obj.GetResourceVersion()
			c.kept.save(ref, obj)
			c.set(ref, e, obj)
			if c.immutable(e) {
				return version, nil
			}
		case watch.Deleted:
			if obj, ok := event.Object.(Object); ok {
				version = obj.GetResourceVersion()
			}
			c.kept.save(ref, nil)
			c.set(ref, e, nil)
		case watch.Error:
			return "", apierrors.FromObject(event.Object)
		}
	}
	if time.Since(began) < time.Second {
		return version, fmt.Errorf("watch of %s ended at once", ref.Kind)
	}
	return version, nil
}

func (c *Cache) immutable(e *entry) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch o := e.obj.(type) {
	case *corev1.ConfigMap:
		return o.Immutable != nil && *o.Immutable
	case *corev1.Secret:
		return o.Immutable != nil && *o.Immutable
	}
	return false
}

// set stores what is known now and tells the followers if it differs from what was.
func (c *Cache) set(ref Ref, e *entry, obj Object) {
	if obj != nil {
		obj.SetManagedFields(nil)
		obj.SetAnnotations(nil) // kubectl's last-applied copy would double every ConfigMap
	}
	c.mu.Lock()
	changed := (obj == nil) != (e.obj == nil) || obj != nil && obj.GetResourceVersion() != e.obj.GetResourceVersion()
	e.obj, e.err = obj, nil
	first := !closed(e.synced)
	if first {
		close(e.synced)
	}
	owners := make([]types.UID, 0, len(e.owners))
	for owner := range e.owners {
		owners = append(owners, owner)
	}
	c.mu.Unlock()
	if changed && !first { // who waits for the first answer gets it by asking
		c.notify(ref, owners)
	}
}

// fail records a failure that readers must hear of; what was read before stays.
func (c *Cache) fail(e *entry, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if closed(e.synced) && e.err == nil {
		return
	}
	e.err = err
	if !closed(e.synced) {
		close(e.synced)
	}
}

func closed(ch chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// API is the Source of a real API server.
type API struct{ Client *kubeclient.Client }

var _ Source = API{}

// List implements Source.
func (a API) List(ctx context.Context, ref Ref) (Object, string, error) {
	if ref.Kind == Secrets {
		list, err := a.Client.Secrets(ref.Namespace).List(ctx, byName(ref))
		if err != nil || len(list.Items) == 0 {
			return nil, version(list, err), err
		}
		return &list.Items[0], list.ResourceVersion, nil
	}
	list, err := a.Client.ConfigMaps(ref.Namespace).List(ctx, byName(ref))
	if err != nil || len(list.Items) == 0 {
		return nil, version(list, err), err
	}
	return &list.Items[0], list.ResourceVersion, nil
}

func version(list metav1.ListInterface, err error) string {
	if err != nil {
		return ""
	}
	return list.GetResourceVersion()
}

// Watch implements Source.
func (a API) Watch(ctx context.Context, ref Ref, resourceVersion string) (watch.Interface, error) {
	opts := byName(ref)
	opts.ResourceVersion = resourceVersion
	if ref.Kind == Secrets {
		return a.Client.Secrets(ref.Namespace).Watch(ctx, opts)
	}
	return a.Client.ConfigMaps(ref.Namespace).Watch(ctx, opts)
}

func byName(ref Ref) metav1.ListOptions {
	return metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", ref.Name).String()}
}
