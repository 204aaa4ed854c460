// Package owned holds what every controller that runs pods does with them: find the pods of one owner, claim and
// release them, create them from a template, delete them in a sensible order, and wait until the cache shows the
// controller's own writes.
//
// An object belongs to the owner that its controller reference (metadata.ownerReferences with controller: true) names
// by UID. A selector alone gives no right: it only says which orphans an owner adopts and which objects it releases.
//
// Reads: the shared pod cache. Writes: pods (create, delete, owner references) and events about their owners.
package owned

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

// byController is the index of objects by the UID of their controller, or by their namespace when they have none.
const byController = "controller"

// Index adds the owner index to an informer that has not started. It may be called by several controllers.
func Index(inf cache.SharedIndexInformer) error {
	if _, ok := inf.GetIndexer().GetIndexers()[byController]; ok {
		return nil
	}
	if err := inf.AddIndexers(cache.Indexers{byController: indexKeys}); err != nil {
		return fmt.Errorf("index objects by their controller: %w", err)
	}
	return nil
}

func indexKeys(obj any) ([]string, error) {
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, fmt.Errorf("index by controller: %w", err)
	}
	if ref := metav1.GetControllerOfNoCopy(m); ref != nil {
		return []string{string(ref.UID)}, nil
	}
	return []string{orphanKey(m.GetNamespace())}, nil
}

// orphanKey can't be a UID: those hold no slash.
func orphanKey(namespace string) string { return "orphans/" + namespace }

// Of returns the cached objects that the owner with this UID controls. They are shared: don't change them.
func Of[T any](ix cache.Indexer, owner types.UID) []T {
	return list[T](ix, string(owner))
}

// Orphans returns the cached objects of a namespace that nobody controls.
func Orphans[T any](ix cache.Indexer, namespace string) []T {
	return list[T](ix, orphanKey(namespace))
}

func list[T any](ix cache.Indexer, key string) []T {
	objs, err := ix.ByIndex(byController, key)
	if err != nil {
		panic("owned.Index was not called for this informer: " + err.Error())
	}
	out := make([]T, 0, len(objs))
	for _, o := range objs {
		if t, ok := o.(T); ok {
			out = append(out, t)
		}
	}
	return out
}

// Selects tells whether an owner's selector matches an object. An empty or invalid one matches nothing.
func Selects(selector *metav1.LabelSelector, o metav1.Object) bool {
	sel, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && !sel.Empty() && sel.Matches(labels.Set(o.GetLabels()))
}

// Handlers says whom to wake for a changed object.
type Handlers struct {
	// Kind of the owners that this controller looks after.
	Kind string
	// Owner is called with the name of the owner of a changed object.
	Owner func(types.NamespacedName)
	// Orphan is called for a new or relabelled object without a controller; nil if orphans are never adopted.
	Orphan func(metav1.Object)
	// Gone is called with the UID of every deleted object that has an owner of this kind; may be nil.
	Gone func(types.UID)
}

// Watch wakes owners when their objects change.
func Watch(inf cache.SharedIndexInformer, h Handlers) error {
	_, err := inf.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			if m := object(obj); m != nil {
				h.changed(nil, m)
			}
		},
		UpdateFunc: func(old, cur any) {
			o, m := object(old), object(cur)
			if o == nil || m == nil || (m.GetResourceVersion() != "" && o.GetResourceVersion() == m.GetResourceVersion()) {
				return // the same version comes again when the cache is listed anew
			}
			if o.GetUID() != m.GetUID() && h.wake(o) && h.Gone != nil {
				h.Gone(o.GetUID())
			}
			h.changed(o, m)
		},
		DeleteFunc: func(obj any) {
			m := object(obj)
			if m == nil {
				return
			}
			if h.wake(m) && h.Gone != nil {
				h.Gone(m.GetUID())
			}
		},
	})
	if err != nil {
		return fmt.Errorf("watch the objects of a %s: %w", h.Kind, err)
	}
	return nil
}

func (h Handlers) changed(old, cur metav1.Object) {
	moved := old != nil && uidOf(old) != uidOf(cur)
	if moved {
		h.wake(old)
	}
	if metav1.GetControllerOfNoCopy(cur) != nil {
		h.wake(cur)
		return
	}
	if h.Orphan != nil && (old == nil || moved || !sameLabels(old.GetLabels(), cur.GetLabels())) {
		h.Orphan(cur)
	}
}

func (h Handlers) wake(m metav1.Object) bool {
	ref := metav1.GetControllerOfNoCopy(m)
	if ref == nil || ref.Kind != h.Kind {
		return false
	}
	h.Owner(types.NamespacedName{Namespace: m.GetNamespace(), Name: ref.Name})
	return true
}

func uidOf(m metav1.Object) types.UID {
	if ref := metav1.GetControllerOfNoCopy(m); ref != nil {
		return ref.UID
	}
	return ""
}

func sameLabels(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			return false
		}
	}
	return true
}

// object unwraps what an informer hands to a handler.
func object(obj any) metav1.Object {
	if d, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = d.Obj
	}
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil
	}
	return m
}

// Key is the queue key of an object that an informer hands to a handler.
func Key(obj any) (types.NamespacedName, bool) {
	m := object(obj)
	if m == nil {
		return types.NamespacedName{}, false
	}
	return types.NamespacedName{Namespace: m.GetNamespace(), Name: m.GetName()}, true
}

// Follow has a controller watch its own kind and the kind it owns, which is indexed by owner, as others may be. forget, if
// not nil, is called with the UID of every deleted owner.
func Follow(self cache.SharedIndexInformer, forget func(types.UID), children cache.SharedIndexInformer, h Handlers, indexed ...cache.SharedIndexInformer) error {
	for _, inf := range append(indexed, children) {
		if err := Index(inf); err != nil {
			return err
		}
	}
	if err := WatchSelf(self, h.Owner, forget); err != nil {
		return err
	}
	return Watch(children, h)
}

// WatchSelf queues an owner whenever it changes; gone, if not nil, is called with the UID of a deleted one.
func WatchSelf(inf cache.SharedIndexInformer, add func(types.NamespacedName), gone func(types.UID)) error {
	queue := func(obj any) {
		if k, ok := Key(obj); ok {
			add(k)
		}
	}
	_, err := inf.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: queue,
		UpdateFunc: func(old, cur any) {
			if o, m := object(old), object(cur); o != nil && m != nil && o.GetUID() != m.GetUID() && gone != nil {
				gone(o.GetUID()) // replaced by another of the same name, while the watch was broken
			}
			queue(cur)
		},
		DeleteFunc: func(obj any) {
			if m := object(obj); m != nil && gone != nil {
				gone(m.GetUID())
			}
			queue(obj)
		},
	})
	if err != nil {
		return fmt.Errorf("watch owners: %w", err)
	}
	return nil
}
