// Package endpointslice keeps the EndpointSlices of every Service with a selector, by means of the reconciler in the
// library k8s.io/endpointslice. A change of a pod is acted on at once: nothing is gathered or delayed, since traffic
// waits for it.
//
// Reads: Services, pods, nodes, EndpointSlices. Writes: the EndpointSlices labelled as managed by
// endpointslice-controller.k8s.io; events on Services.
package endpointslice

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/endpointslice"
	"k8s.io/endpointslice/topologycache"
	endpointsliceutil "k8s.io/endpointslice/util"

	"github.com/mote-edge/mote/controlplane/controllers/keyqueue"
	"github.com/mote-edge/mote/controlplane/controllers/owned"
)

// Manager is the value of the managed-by label on the slices of this controller.
const Manager = "endpointslice-controller.k8s.io"

const (
	workers     = 4
	maxPerSlice = 100
	// repairDelay lets the news of this controller's own writes arrive before a slice counts as changed by others.
	repairDelay = time.Second
)

// quiet keeps the library from logging every node without zone and CPU; its errors are returned.
var quiet = logr.Discard()

var errStale = errors.New("the cache doesn't show the slices written last")

// Controller looks after the slices of all Services with a selector.
type Controller struct {
	services corelisters.ServiceLister
	pods     corelisters.PodLister
	nodes    corelisters.NodeLister
	slices   discoverylisters.EndpointSliceLister
	rec      record.EventRecorder

	library  *endpointslice.Reconciler
	tracker  *endpointsliceutil.EndpointSliceTracker
	times    *endpointsliceutil.TriggerTimeTracker
	topology *topologycache.TopologyCache

	queue *keyqueue.Queue[types.NamespacedName]
	zones *keyqueue.Queue[struct{}] // one key: the nodes' zones changed
	ready []cache.InformerSynced
}

// New registers with the informers and starts nothing.
func New(client kubernetes.Interface, f informers.SharedInformerFactory, rec record.EventRecorder) (*Controller, error) {
	services, pods, nodes := f.Core().V1().Services(), f.Core().V1().Pods(), f.Core().V1().Nodes()
	slices := f.Discovery().V1().EndpointSlices()
	c := &Controller{
		services: services.Lister(), pods: pods.Lister(), nodes: nodes.Lister(), slices: slices.Lister(), rec: rec,
		tracker: endpointsliceutil.NewEndpointSliceTracker(), times: endpointsliceutil.NewTriggerTimeTracker(),
		topology: topologycache.NewTopologyCache(),
		ready: []cache.InformerSynced{
			services.Informer().HasSynced, pods.Informer().HasSynced, nodes.Informer().HasSynced, slices.Informer().HasSynced,
		},
	}
	c.library = endpointslice.NewReconciler(client, c.nodes, maxPerSlice, c.tracker, c.topology, rec, Manager,
		endpointslice.WithPreferSameTrafficDistributionEnabled(true))
	c.queue = keyqueue.New("endpointslice", workers, c.reconcile)
	c.zones = keyqueue.New("endpointslice-zones", 1, c.updateZones)

	handlers := []struct {
		inf cache.SharedIndexInformer
		h   cache.ResourceEventHandlerFuncs
	}{
		{services.Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc: c.service, UpdateFunc: func(_, cur any) { c.service(cur) }, DeleteFunc: c.service,
		}},
		{pods.Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc: func(cur any) { c.pod(nil, cur) }, UpdateFunc: c.pod, DeleteFunc: func(old any) { c.pod(old, nil) },
		}},
		{nodes.Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { c.zones.Add(struct{}{}) }, UpdateFunc: c.node, DeleteFunc: func(any) { c.zones.Add(struct{}{}) },
		}},
		{slices.Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc: func(cur any) { c.slice(nil, cur) }, UpdateFunc: c.slice, DeleteFunc: c.sliceDeleted,
		}},
	}
	for _, x := range handlers {
		if _, err := x.inf.AddEventHandler(x.h); err != nil {
			return nil, fmt.Errorf("watch for EndpointSlices: %w", err)
		}
	}
	return c, nil
}

// Run works until ctx is done. The informers are started by the caller.
func (c *Controller) Run(ctx context.Context) error {
	if !cache.WaitForCacheSync(ctx.Done(), c.ready...) {
		return nil
	}
	done := make(chan struct{})
	go func() {
		c.zones.Run(ctx)
		close(done)
	}()
	c.queue.Run(ctx)
	<-done
	return nil
}

func (c *Controller) service(obj any) {
	if k, ok := owned.Key(obj); ok {
		c.queue.Add(k)
	}
}

// pod wakes the Services that a pod belongs, or belonged, to.
func (c *Controller) pod(old, cur any) {
	names, err := endpointsliceutil.GetServicesToUpdate(c.services, endpointsliceutil.GetPodUpdateProjectionKey(old, cur))
	if err != nil {
		return // a cache lookup: it fails for no pod that the API server lets through
	}
	for name := range names {
		if ns, n, err := cache.SplitMetaNamespaceKey(name); err == nil {
			c.queue.Add(types.NamespacedName{Namespace: ns, Name: n})
		}
	}
}

func (c *Controller) node(old, cur any) {
	o, okOld := old.(*corev1.Node)
	n, okNew := cur.(*corev1.Node)
	if okOld && okNew && (nodeReady(o) != nodeReady(n) || o.Labels[corev1.LabelTopologyZone] != n.Labels[corev1.LabelTopologyZone]) {
		c.zones.Add(struct{}{})
	}
}

func nodeReady(n *corev1.Node) bool {
	for i := range n.Status.Conditions {
		if n.Status.Conditions[i].Type == corev1.NodeReady {
			return n.Status.Conditions[i].Status == corev1.ConditionTrue
		}
	}
	return false
}

// slice wakes a Service whose slice was changed by someone else.
func (c *Controller) slice(old, cur any) {
	s, ok := cur.(*discoveryv1.EndpointSlice)
	if !ok {
		return
	}
	if was, ok := old.(*discoveryv1.EndpointSlice); ok {
		if was.Labels[discoveryv1.LabelServiceName] != s.Labels[discoveryv1.LabelServiceName] {
			c.repair(was)
			c.repair(s)
			return
		}
		if c.library.ManagedByChanged(was, s) {
			c.repair(s)
			return
		}
	}
	if c.library.ManagedByController(s) && c.tracker.ShouldSync(s) {
		c.repair(s)
	}
}

func (c *Controller) sliceDeleted(obj any) {
	if d, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = d.Obj
	}
	s, ok := obj.(*discoveryv1.EndpointSlice)
	// HandleDeletion says whether it was this controller that deleted the slice.
	if ok && c.library.ManagedByController(s) && c.tracker.Has(s) && !c.tracker.HandleDeletion(s) {
		c.repair(s)
	}
}

func (c *Controller) repair(s *discoveryv1.EndpointSlice) {
	if name := s.Labels[discoveryv1.LabelServiceName]; name != "" {
		c.queue.AddAfter(types.NamespacedName{Namespace: s.Namespace, Name: name}, repairDelay)
	}
}

func (c *Controller) updateZones(ctx context.Context, _ struct{}) error {
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return err
	}
	c.topology.SetNodes(quiet, nodes)
	for _, name := range c.topology.GetOverloadedServices() {
		if ns, n, err := cache.SplitMetaNamespaceKey(name); err == nil {
			c.queue.Add(types.NamespacedName{Namespace: ns, Name: n})
		}
	}
	return nil
}

func (c *Controller) reconcile(ctx context.Context, key types.NamespacedName) error {
	svc, err := c.services.Services(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		c.times.DeleteService(key.Namespace, key.Name)
		c.library.DeleteService(key.Namespace, key.Name)
		c.tracker.DeleteService(key.Namespace, key.Name)
		return nil // the slices go with the Service that owns them
	}
	if err != nil {
		return err
	}
	if svc.Spec.Type == corev1.ServiceTypeExternalName || svc.Spec.Selector == nil {
		return nil // someone else may write its slices
	}
	pods, err := c.pods.Pods(svc.Namespace).List(labels.SelectorFromValidatedSet(svc.Spec.Selector))
	if err != nil {
		return err
	}
	all, err := c.slices.EndpointSlices(svc.Namespace).List(labels.SelectorFromValidatedSet(labels.Set{
		discoveryv1.LabelServiceName: svc.Name, discoveryv1.LabelManagedBy: Manager,
	}))
	if err != nil {
		return err
	}
	slices := all[:0]
	for _, s := range all {
		if s.DeletionTimestamp == nil {
			slices = append(slices, s)
		}
	}
	if c.tracker.StaleSlices(svc, slices) {
		return errStale
	}
	trigger := c.times.ComputeEndpointLastChangeTriggerTime(svc.Namespace, svc, pods)
	if err := c.library.Reconcile(quiet, svc, pods, slices, trigger); err != nil {
		c.rec.Eventf(svc, corev1.EventTypeWarning, "FailedToUpdateEndpointSlices",
			"Error updating Endpoint Slices for Service %s/%s: %v", svc.Namespace, svc.Name, err)
		return err
	}
	return nil
}
