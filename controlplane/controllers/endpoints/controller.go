// Package endpoints keeps the old Endpoints object of every Service with a selector, for clients that still read it.
// It is derived from the EndpointSlices, so pods are selected once only, and it comes after them: proxies and DNS read
// the slices.
//
// Reads: Services, EndpointSlices managed by package endpointslice, Endpoints. Writes: Endpoints of Services with a
// selector; events on them.
package endpoints

import (
	"context"
	"fmt"
	"maps"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/mote-edge/mote/controlplane/controllers/endpointslice"
	"github.com/mote-edge/mote/controlplane/controllers/keyqueue"
	"github.com/mote-edge/mote/controlplane/controllers/owned"
)

const workers = 2

// Controller looks after the Endpoints of all Services with a selector.
type Controller struct {
	client    kubernetes.Interface
	services  corelisters.ServiceLister
	endpoints corelisters.EndpointsLister
	slices    discoverylisters.EndpointSliceLister
	rec       record.EventRecorder
	deleted   sync.Map // names of Services whose deletion was seen; until then Endpoints made before them stay
	queue     *keyqueue.Queue[types.NamespacedName]
	ready     []cache.InformerSynced
}

// New registers with the informers and starts nothing.
func New(client kubernetes.Interface, f informers.SharedInformerFactory, rec record.EventRecorder) (*Controller, error) {
	services, eps, slices := f.Core().V1().Services(), f.Core().V1().Endpoints(), f.Discovery().V1().EndpointSlices()
	c := &Controller{
		client: client, services: services.Lister(), endpoints: eps.Lister(), slices: slices.Lister(), rec: rec,
		ready: []cache.InformerSynced{services.Informer().HasSynced, eps.Informer().HasSynced, slices.Informer().HasSynced},
	}
	c.queue = keyqueue.New("endpoints", workers, c.reconcile)
	for _, inf := range []cache.SharedIndexInformer{services.Informer(), eps.Informer()} { // they share their names
		if err := owned.WatchSelf(inf, c.queue.Add, nil); err != nil {
			return nil, err
		}
	}
	_, err := services.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{DeleteFunc: func(obj any) {
		if k, ok := owned.Key(obj); ok {
			c.deleted.Store(k, nil)
			c.queue.Add(k)
		}
	}})
	if err != nil {
		return nil, fmt.Errorf("watch Services for Endpoints: %w", err)
	}
	wake := func(obj any) {
		if d, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = d.Obj
		}
		if s, ok := obj.(*discoveryv1.EndpointSlice); ok && s.Labels[discoveryv1.LabelManagedBy] == endpointslice.Manager {
			c.queue.Add(types.NamespacedName{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]})
		}
	}
	_, err = slices.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: wake, UpdateFunc: func(_, cur any) { wake(cur) }, DeleteFunc: wake,
	})
	if err != nil {
		return nil, fmt.Errorf("watch EndpointSlices for Endpoints: %w", err)
	}
	return c, nil
}

// Run works until ctx is done. The informers are started by the caller.
func (c *Controller) Run(ctx context.Context) error {
	return c.queue.RunWhenSynced(ctx, c.ready...)
}

func (c *Controller) reconcile(ctx context.Context, key types.NamespacedName) error {
	api := c.client.CoreV1().Endpoints(key.Namespace)
	have, err := c.endpoints.Endpoints(key.Namespace).Get(key.Name)
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	if apierrors.IsNotFound(err) {
		have = nil
	}
	svc, err := c.services.Services(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return c.orphaned(ctx, key, have)
	}
	if err != nil {
		return err
	}
	if svc.Spec.Type == corev1.ServiceTypeExternalName || svc.Spec.Selector == nil {
		return nil // written by hand
	}
	all, err := c.slices.EndpointSlices(key.Namespace).List(labels.SelectorFromValidatedSet(labels.Set{
		discoveryv1.LabelServiceName: key.Name, discoveryv1.LabelManagedBy: endpointslice.Manager,
	}))
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return nil // there is at least an empty slice once package endpointslice has been at it
	}
	subsets, over := derive(svc, all)
	want := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: key.Name, Namespace: key.Namespace}}
	if have != nil {
		if same(have, svc, subsets, over) {
			return nil
		}
		want.ObjectMeta = *have.ObjectMeta.DeepCopy()
	}
	want.Labels = labelsFor(svc)
	want.Annotations = annotationsFor(want.Annotations, all, over)
	want.Subsets = subsets
	if have == nil {
		_, err = api.Create(ctx, want, metav1.CreateOptions{})
	} else {
		_, err = api.Update(ctx, want, metav1.UpdateOptions{})
	}
	switch {
	case err == nil, apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
	case have == nil:
		c.rec.Eventf(want, corev1.EventTypeWarning, "FailedToCreateEndpoint", "Failed to create endpoint for service %v/%v: %v", key.Namespace, key.Name, err)
	default:
		c.rec.Eventf(want, corev1.EventTypeWarning, "FailedToUpdateEndpoint", "Failed to update endpoint %v/%v: %v", key.Namespace, key.Name, err)
	}
	return err
}

// orphaned deletes Endpoints whose Service is gone: those derived here, and those made by hand if the deletion of the
// Service was seen. Without that, their Service may just not have been made yet.
func (c *Controller) orphaned(ctx context.Context, key types.NamespacedName, have *corev1.Endpoints) error {
	_, seen := c.deleted.LoadAndDelete(key)
	if have == nil || (!seen && have.Labels[managedByLabel] != manager) {
		return nil
	}
	err := c.client.CoreV1().Endpoints(have.Namespace).Delete(ctx, have.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &have.UID},
	})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

func same(have *corev1.Endpoints, svc *corev1.Service, subsets []corev1.EndpointSubset, over bool) bool {
	_, marked := have.Annotations[corev1.EndpointsOverCapacity]
	return marked == over && maps.Equal(have.Labels, labelsFor(svc)) && equality.Semantic.DeepEqual(have.Subsets, subsets)
}
