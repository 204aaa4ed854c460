// Package endpointslicemirroring copies Endpoints that people write for Services without a selector into
// EndpointSlices, since proxies and DNS read only those.
//
// Reads: Endpoints, Services, EndpointSlices. Writes: the EndpointSlices labelled as managed by
// endpointslicemirroring-controller.k8s.io; events on Endpoints.
package endpointslicemirroring

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
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

	"github.com/mote-edge/mote/controlplane/controllers/keyqueue"
	"github.com/mote-edge/mote/controlplane/controllers/owned"
)

// Controller mirrors all Endpoints that ask for it.
type Controller struct {
	client    kubernetes.Interface
	services  corelisters.ServiceLister
	endpoints corelisters.EndpointsLister
	slices    discoverylisters.EndpointSliceLister
	rec       record.EventRecorder
	pending   *owned.Pending // slices created but not in the cache yet, by the UID of their Endpoints
	queue     *keyqueue.Queue[types.NamespacedName]
	ready     []cache.InformerSynced
}

// New registers with the informers and starts nothing.
func New(client kubernetes.Interface, f informers.SharedInformerFactory, rec record.EventRecorder) (*Controller, error) {
	services, eps, slices := f.Core().V1().Services(), f.Core().V1().Endpoints(), f.Discovery().V1().EndpointSlices()
	c := &Controller{
		client: client, services: services.Lister(), endpoints: eps.Lister(), slices: slices.Lister(), rec: rec,
		pending: owned.NewPending(),
		ready:   []cache.InformerSynced{services.Informer().HasSynced, eps.Informer().HasSynced, slices.Informer().HasSynced},
	}
	c.queue = keyqueue.New("endpointslicemirroring", 1, c.reconcile)
	if err := owned.WatchSelf(eps.Informer(), c.queue.Add, c.pending.Forget); err != nil {
		return nil, err
	}
	if err := owned.WatchSelf(services.Informer(), c.queue.Add, nil); err != nil {
		return nil, err
	}
	err := owned.Watch(slices.Informer(), owned.Handlers{Kind: endpointsKind.Kind, Owner: c.queue.Add, Gone: c.pending.Gone})
	return c, err
}

// Run works until ctx is done. The informers are started by the caller.
func (c *Controller) Run(ctx context.Context) error {
	return c.queue.RunWhenSynced(ctx, c.ready...)
}

func (c *Controller) reconcile(ctx context.Context, key types.NamespacedName) error {
	ep, err := c.endpoints.Endpoints(key.Namespace).Get(key.Name)
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	gone := err != nil
	svc, err := c.services.Services(key.Namespace).Get(key.Name)
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	have, listErr := c.slices.EndpointSlices(key.Namespace).List(labels.SelectorFromValidatedSet(labels.Set{
		discoveryv1.LabelServiceName: key.Name, discoveryv1.LabelManagedBy: Manager,
	}))
	if listErr != nil {
		return listErr
	}
	if gone || err != nil || svc.Spec.Selector != nil || !mirrored(ep) {
		return c.apply(ctx, key, "", changes{remove: have})
	}
	if ok, wait := c.pending.Settled(ep.UID, c.look); !ok {
		c.queue.AddAfter(key, wait)
		return nil
	}
	want, invalid, skipped := mirror(ep)
	do := diff(have, want)
	if len(do.create)+len(do.update)+len(do.remove) > 0 {
		if invalid > 0 {
			c.rec.Eventf(ep, corev1.EventTypeWarning, "InvalidIPAddress", "Skipped %d invalid IP addresses when mirroring to EndpointSlices", invalid)
		}
		if skipped > 0 {
			c.rec.Eventf(ep, corev1.EventTypeWarning, "TooManyAddressesToMirror",
				"A max of %d addresses can be mirrored to EndpointSlices per Endpoints subset. %d addresses were skipped", maxPerSubset, skipped)
		}
	}
	if err := c.apply(ctx, key, ep.UID, do); err != nil {
		c.rec.Eventf(ep, corev1.EventTypeWarning, "FailedToUpdateEndpointSlices", "Error updating Endpoint Slices for Endpoints %s/%s: %v", key.Namespace, key.Name, err)
		return err
	}
	return nil
}

func (c *Controller) look(key types.NamespacedName) owned.Sight {
	s, err := c.slices.EndpointSlices(key.Namespace).Get(key.Name)
	if err != nil {
		return owned.Sight{}
	}
	return owned.Sight{UID: s.UID, Deleting: s.DeletionTimestamp != nil}
}

func (c *Controller) apply(ctx context.Context, key types.NamespacedName, owner types.UID, do changes) error {
	api := c.client.DiscoveryV1().EndpointSlices(key.Namespace)
	var errs []error
	for _, s := range do.create {
		made, err := api.Create(ctx, s, metav1.CreateOptions{})
		switch {
		case err == nil:
			c.pending.Created(owner, made.UID, types.NamespacedName{Namespace: made.Namespace, Name: made.Name})
		case !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
			errs = append(errs, fmt.Errorf("create slice for %s: %w", key, err))
		}
	}
	for _, s := range do.update {
		if _, err := api.Update(ctx, s, metav1.UpdateOptions{}); err != nil {
			errs = append(errs, fmt.Errorf("update slice: %w", err))
		}
	}
	for _, s := range do.remove {
		err := api.Delete(ctx, s.Name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("delete slice: %w", err))
		}
	}
	return errors.Join(errs...)
}
