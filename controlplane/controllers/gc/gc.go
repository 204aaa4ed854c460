// Package gc deletes objects whose owners are gone, and carries out foreground and orphaning deletion.
//
// A graph of who owns whom is fed from watches: the informers that other controllers have anyway, and for all other
// kinds, custom resources included, watches of metadata whose objects are not kept. An object is judged whenever an
// owner of it goes, or when it names an owner that hasn't been seen; in that case the API is asked first. Nothing is
// deleted on the word of a watch that lags.
//
// Reads: discovery, the metadata of all objects. Writes: deletes objects without owners; owner references; the
// finalizers foregroundDeletion and orphan.
package gc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
	"unique"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/mote-edge/mote/controlplane/controllers/keyqueue"
	"github.com/mote-edge/mote/controlplane/objectfeed"
)

// doubtDelay is how long an owner that hasn't been seen may be on its way through another watch.
const doubtDelay = 300 * time.Millisecond

// ignored kinds are never garbage: events live by their time, and no object is owned through a review.
var ignored = map[schema.GroupResource]bool{
	{Resource: "events"}:                         true,
	{Group: "events.k8s.io", Resource: "events"}: true,
	{Resource: "componentstatuses"}:              true,
	{Group: "metrics.k8s.io", Resource: "pods"}:  true,
	{Group: "metrics.k8s.io", Resource: "nodes"}: true,
}

// definesKinds are the kinds whose objects define kinds.
var definesKinds = map[schema.GroupResource]bool{
	{Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions"}: true,
	{Group: "apiregistration.k8s.io", Resource: "apiservices"}:             true,
}

// Config is what the controller is given.
type Config struct {
	Metadata  metadata.Interface
	Discovery discovery.DiscoveryInterface
	Recorder  record.EventRecorder
	// Shared are the informers of kinds that other controllers watch anyway.
	Shared map[schema.GroupVersionResource]cache.SharedIndexInformer
	// Feed, if set, tells of all objects that the API server stores, so that only those of aggregated API servers have to
	// be watched; Shared isn't used then.
	Feed Feed
	// Delay is how long to wait at the start: other things are more urgent then.
	Delay time.Duration
	// Deleted, if set, is told of every namespaced object that goes. It must not block.
	Deleted func(resource schema.GroupResource, namespace string)
}

// Feed reports every stored object to the sink, until ctx is done. It is *objectfeed.Feed.
type Feed interface {
	Run(ctx context.Context, sink objectfeed.Sink) error
}

// Controller looks at objects by UID.
type Controller struct {
	cfg    Config
	shared map[schema.GroupVersionResource]cache.SharedIndexInformer
	queue  *keyqueue.Queue[types.UID]
	kinds  *keyqueue.Queue[struct{}]

	mu       sync.Mutex
	graph    *graph
	monitors map[schema.GroupVersionResource]*monitor
	fed      map[schema.GroupKind]*kind
}

// New starts nothing.
func New(cfg Config) (*Controller, error) {
	c := &Controller{cfg: cfg, shared: cfg.Shared, graph: newGraph(), monitors: map[schema.GroupVersionResource]*monitor{}, fed: map[schema.GroupKind]*kind{}}
	c.queue = keyqueue.New("gc", 8, c.reconcile)
	c.kinds = keyqueue.New("gc kinds", 1, c.refresh)
	return c, nil
}

// Run works until ctx is done.
func (c *Controller) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(c.cfg.Delay):
	}
	c.kinds.Add(struct{}{})
	var wg sync.WaitGroup
	if c.cfg.Feed != nil {
		wg.Go(func() {
			if err := c.cfg.Feed.Run(ctx, sink{c}); err != nil {
				slog.ErrorContext(ctx, "garbage collection has lost its feed of objects", "err", err)
			}
		})
	}
	wg.Go(func() { c.kinds.Run(ctx) })
	c.queue.Run(ctx)
	wg.Wait()
	return nil
}

// lookAt queues objects; the lock is held. What depends on an owner not seen yet waits for it a moment.
func (c *Controller) lookAt(uids []types.UID) {
	for _, uid := range uids {
		o := c.graph.objects[uid]
		if o == nil {
			continue
		}
		unseen := false
		for i := range o.owners {
			unseen = unseen || !o.owners[i].seen
		}
		if unseen && !o.deleting {
			c.queue.AddAfter(uid, doubtDelay)
		} else {
			c.queue.Add(uid)
		}
	}
}

// subject is a copy of what the graph says about an object, to work with outside the lock.
type subject struct {
	*kind
	uid                          types.UID
	namespace, name              string
	deleting, foreground, orphan bool
	dependents                   []types.UID
	staying                      []types.UID // dependents not being deleted yet
	blocking                     int         // dependents that keep the foreground deletion waiting
	dependentsWait               bool        // a dependent is itself in foreground deletion
	suspicious                   bool        // an owner is gone, doubtful, or waits
}

func (c *Controller) subject(uid types.UID) (subject, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.graph.objects[uid]
	if o == nil || o.kind == nil || o.gone || o.kind.resource.Empty() {
		return subject{}, false
	}
	k := *o.kind
	s := subject{
		kind: &k, uid: uid, namespace: o.namespace.Value(), name: o.name,
		deleting: o.deleting, foreground: o.foreground, orphan: o.orphan,
		suspicious: len(c.graph.doubtful(o)) > 0,
	}
	for d := range o.dependents {
		s.dependents = append(s.dependents, d.uid)
		if !d.deleting {
			s.staying = append(s.staying, d.uid)
		}
		for i := range d.owners {
			if d.owners[i].object == o && d.owners[i].block {
				s.blocking++
			}
		}
		s.dependentsWait = s.dependentsWait || d.foreground
	}
	return s, true
}

func (c *Controller) reconcile(ctx context.Context, uid types.UID) error {
	s, ok := c.subject(uid)
	if !ok {
		return nil
	}
	switch {
	case s.orphan:
		return c.orphan(ctx, s)
	case s.foreground:
		for _, d := range s.staying {
			c.queue.Add(d)
		}
		if s.blocking > 0 {
			return nil // the end of each brings the owner back here
		}
		return c.removeFinalizer(ctx, s, metav1.FinalizerDeleteDependents)
	case s.deleting || !s.suspicious:
		return nil
	}
	live, err := c.get(ctx, s)
	if live == nil || err != nil {
		return err
	}
	if live.DeletionTimestamp != nil {
		return nil
	}
	standings := make([]standing, len(live.OwnerReferences))
	for i, ref := range live.OwnerReferences {
		if standings[i], err = c.standing(ctx, s, live, ref); err != nil {
			return err
		}
	}
	return c.carryOut(ctx, s, live, judge(live.OwnerReferences, standings, len(s.dependents) > 0, s.dependentsWait, live.Finalizers))
}

// standing finds out about one owner, from the graph if that is certain, else from the API.
func (c *Controller) standing(ctx context.Context, s subject, live *metav1.PartialObjectMetadata, ref metav1.OwnerReference) (standing, error) {
	c.mu.Lock()
	o := c.graph.objects[ref.UID]
	dependent := &object{namespace: unique.Make(s.namespace)}
	known := owner{object: o, ref: &refKind{ref.APIVersion, ref.Kind}, name: ref.Name}
	switch {
	case o != nil && known.certain(dependent):
		defer c.mu.Unlock()
		if o.foreground {
			return waiting, nil
		}
		return solid, nil
	case o != nil && o.gone:
		c.mu.Unlock()
		return dangling, nil
	}
	elsewhere := o != nil && o.seen && o.kind != nil && o.kind.namespaced && o.namespace.Value() != s.namespace
	k := c.kindOf(ref)
	if k == nil {
		c.mu.Unlock()
		// Perhaps a kind that was only just defined; perhaps nonsense. Never a reason to delete.
		return solid, fmt.Errorf("%s %s/%s: owner %s %q is of an unknown kind", s.gvk.Kind, s.namespace, s.name, ref.APIVersion+"/"+ref.Kind, ref.Name)
	}
	if k.namespaced && s.namespace == "" {
		c.mu.Unlock()
		return solid, nil // not valid; upstream leaves such objects alone, too
	}
	copied := *k
	c.mu.Unlock()
	found, err := c.get(ctx, subject{kind: &copied, uid: ref.UID, namespace: s.namespace, name: ref.Name})
	if err != nil {
		return solid, err
	}
	if found == nil {
		if elsewhere {
			c.cfg.Recorder.Eventf(&corev1.ObjectReference{APIVersion: s.gvk.GroupVersion().String(), Kind: s.gvk.Kind, Namespace: s.namespace, Name: s.name, UID: s.uid},
				corev1.EventTypeWarning, "OwnerRefInvalidNamespace", "ownerRef [%s, namespace: %s, name: %s, uid: %s] does not exist in namespace %q", ref.APIVersion+"/"+ref.Kind, s.namespace, ref.Name, ref.UID, s.namespace)
		}
		return dangling, nil
	}
	if found.DeletionTimestamp != nil && slices.Contains(found.Finalizers, metav1.FinalizerDeleteDependents) {
		return waiting, nil
	}
	c.mu.Lock()
	if o := c.graph.objects[ref.UID]; o == nil || !o.gone { // it may have gone since it was asked for
		c.lookAt(c.graph.observe(k, found))
	}
	c.mu.Unlock()
	return solid, nil
}

// kindOf finds the kind that a reference names; the lock is held.
func (c *Controller) kindOf(ref metav1.OwnerReference) *kind {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil
	}
	if k := c.fed[schema.GroupKind{Group: gv.Group, Kind: ref.Kind}]; k != nil && !k.resource.Empty() {
		return k
	}
	for _, m := range c.monitors {
		if m.gvk.Group == gv.Group && m.gvk.Kind == ref.Kind {
			return m.kind
		}
	}
	return nil
}

// get returns an object's metadata, nil if there is no such object or if its name now belongs to another.
func (c *Controller) get(ctx context.Context, s subject) (*metav1.PartialObjectMetadata, error) {
	live, err := c.api(s).Get(ctx, s.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || (err == nil && live.UID != s.uid) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s/%s: %w", s.gvk.Kind, s.namespace, s.name, err)
	}
	return live, nil
}

func (c *Controller) api(s subject) metadata.ResourceInterface {
	if s.namespaced {
		return c.cfg.Metadata.Resource(s.resource).Namespace(s.namespace)
	}
	return c.cfg.Metadata.Resource(s.resource)
}

func (c *Controller) carryOut(ctx context.Context, s subject, live *metav1.PartialObjectMetadata, v verdict) error {
	switch {
	case v.drop:
		return c.patchMeta(ctx, s, live, map[string]any{"ownerReferences": v.keepOwners})
	case v.remove:
		if v.unblock {
			refs := slices.Clone(live.OwnerReferences)
			no := false
			for i := range refs {
				refs[i].BlockOwnerDeletion = &no
			}
			if err := c.patchMeta(ctx, s, live, map[string]any{"ownerReferences": refs}); err != nil {
				return err
			}
		}
		slog.DebugContext(ctx, "collecting garbage", "kind", s.gvk.Kind, "object", s.namespace+"/"+s.name, "policy", v.policy)
		err := c.api(s).Delete(ctx, s.name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &s.uid}, PropagationPolicy: &v.policy})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("deleting %s %s/%s: %w", s.gvk.Kind, s.namespace, s.name, err)
		}
	}
	return nil
}

// orphan lets an object's dependents go, and then the object.
func (c *Controller) orphan(ctx context.Context, s subject) error {
	var failed error
	for _, uid := range s.dependents {
		d, ok := c.subject(uid)
		if !ok {
			continue
		}
		live, err := c.get(ctx, d)
		if live == nil {
			failed = errors.Join(failed, err)
			continue
		}
		keep := slices.DeleteFunc(slices.Clone(live.OwnerReferences), func(r metav1.OwnerReference) bool { return r.UID == s.uid })
		if len(keep) < len(live.OwnerReferences) {
			failed = errors.Join(failed, c.patchMeta(ctx, d, live, map[string]any{"ownerReferences": keep}))
		}
	}
	if failed != nil {
		return failed
	}
	return c.removeFinalizer(ctx, s, metav1.FinalizerOrphanDependents)
}

func (c *Controller) removeFinalizer(ctx context.Context, s subject, name string) error {
	live, err := c.get(ctx, s)
	if live == nil || err != nil {
		return err
	}
	keep := slices.DeleteFunc(slices.Clone(live.Finalizers), func(f string) bool { return f == name })
	if len(keep) == len(live.Finalizers) {
		return nil
	}
	return c.patchMeta(ctx, s, live, map[string]any{"finalizers": keep})
}

// patchMeta replaces lists of an object's metadata as they were read: any change in between makes it fail and be tried
// again.
func (c *Controller) patchMeta(ctx context.Context, s subject, live *metav1.PartialObjectMetadata, fields map[string]any) error {
	fields["resourceVersion"], fields["uid"] = live.ResourceVersion, live.UID
	patch, err := json.Marshal(map[string]any{"metadata": fields})
	if err != nil {
		return err
	}
	_, err = c.api(s).Patch(ctx, s.name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("%s %s/%s: %w", s.gvk.Kind, s.namespace, s.name, err)
	}
	return nil
}
