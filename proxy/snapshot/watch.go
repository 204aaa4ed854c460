package snapshot

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/mote-edge/mote/internal/kubeclient"
)

// Watch keeps s in step with the API server until ctx ends. While the server is out of reach the snapshot stays as it
// was: the node goes on with what it knew last.
func Watch(ctx context.Context, c *kubeclient.Client, s *Store) {
	services, slices, nodes := c.Services(""), c.EndpointSlices(""), c.Nodes()
	own := func(o metav1.ListOptions) metav1.ListOptions {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, s.node).String()
		return o
	}
	setZone := func(n *corev1.Node) { s.SetZone(n.Labels[corev1.LabelTopologyZone]) }
	reflectors := []*cache.Reflector{
		newReflector("services", services.List, services.Watch, sink[*corev1.Service]{
			set: s.SetService, replace: s.ReplaceServices,
			remove: func(o metav1.Object) { s.DeleteService(Name{o.GetNamespace(), o.GetName()}) },
		}),
		newReflector("endpointslices", slices.List, slices.Watch, sink[*discoveryv1.EndpointSlice]{
			set: s.SetSlice, replace: s.ReplaceSlices,
			remove: func(o metav1.Object) { s.DeleteSlice(Name{o.GetNamespace(), o.GetName()}) },
		}),
		newReflector("node", func(ctx context.Context, o metav1.ListOptions) (*corev1.NodeList, error) {
			return nodes.List(ctx, own(o))
		}, func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return nodes.Watch(ctx, own(o))
		}, sink[*corev1.Node]{
			set:    setZone,
			remove: func(metav1.Object) { s.SetZone("") },
			replace: func(list []*corev1.Node) {
				if len(list) == 0 { // not registered yet
					s.SetZone("")
				}
				for _, n := range list {
					setZone(n)
				}
			},
		}),
	}
	var wg sync.WaitGroup
	for _, r := range reflectors {
		wg.Go(func() { r.RunWithContext(ctx) })
	}
	wg.Wait()
}

func newReflector[T, L runtime.Object](kind string, list func(context.Context, metav1.ListOptions) (L, error),
	watchFn func(context.Context, metav1.ListOptions) (watch.Interface, error), to sink[T],
) *cache.Reflector {
	var example T
	return cache.NewReflectorWithOptions(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return list(ctx, o) },
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return watchFn(ctx, o)
		},
	}, example, to, cache.ReflectorOptions{Name: "proxy/" + kind})
}

// sink is the reflector's store: it hands each object on and keeps none.
type sink[T runtime.Object] struct {
	set     func(T)
	remove  func(metav1.Object)
	replace func([]T)
}

func (k sink[T]) Add(obj any) error    { return k.Update(obj) }
func (k sink[T]) Resync() error        { return nil }
func (k sink[T]) Update(obj any) error { return one(obj, k.set) }

func (k sink[T]) Delete(obj any) error { return one(obj, k.remove) }

func (k sink[T]) Replace(list []any, _ string) error {
	typed := make([]T, 0, len(list))
	for _, obj := range list {
		if err := one(obj, func(o T) { typed = append(typed, o) }); err != nil {
			return err
		}
	}
	k.replace(typed)
	return nil
}

func one[T any](obj any, f func(T)) error {
	o, ok := obj.(T)
	if !ok {
		return fmt.Errorf("watch delivered a %T", obj)
	}
	f(o)
	return nil
}
