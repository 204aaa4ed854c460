package keyqueue

import (
	"context"

	"k8s.io/client-go/tools/cache"
)

// Watch calls f for every object of an informer that is there, comes, changes or goes. What it returns says whether f
// has been called for all that were there at the start.
func Watch[T any](informer cache.SharedIndexInformer, f func(T)) (cache.InformerSynced, error) {
	return WatchChanges(informer, func(_, now T, _ bool) { f(now) })
}

// WatchChanges is Watch for those who want to know what changed: old is the zero T for a new object, and the object
// itself, with gone set, for one that was deleted.
func WatchChanges[T any](informer cache.SharedIndexInformer, f func(old, now T, gone bool)) (cache.InformerSynced, error) {
	registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) {
			var none T
			if obj, ok := o.(T); ok {
				f(none, obj, false)
			}
		},
		UpdateFunc: func(a, b any) {
			before, ok1 := a.(T)
			after, ok2 := b.(T)
			if ok1 && ok2 {
				f(before, after, false)
			}
		},
		DeleteFunc: func(o any) {
			if d, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = d.Obj
			}
			if obj, ok := o.(T); ok {
				f(obj, obj, true)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	return registration.HasSynced, nil
}

// RunWhenSynced waits for the caches and then runs the queue until ctx is done.
func (q *Queue[K]) RunWhenSynced(ctx context.Context, synced ...cache.InformerSynced) error {
	if cache.WaitForCacheSync(ctx.Done(), synced...) {
		q.Run(ctx)
	}
	return nil
}
