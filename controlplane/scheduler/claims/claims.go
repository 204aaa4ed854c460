// Package claims allocates devices to the resource claims of pods that are being scheduled (dynamic resource allocation).
// The allocation itself is the published library's; this package feeds it from caches and writes down what it decides.
//
// Nothing is watched before the first claim, device class or pod with claims: most clusters never have any.
//
// Reads: ResourceClaims, DeviceClasses, ResourceSlices, DeviceTaintRules. Writes: finalizer, allocation and reservations
// of ResourceClaims; the claims of extended resources, and extendedResourceClaimStatus of their pods.
package claims

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	resourcelisters "k8s.io/client-go/listers/resource/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/dynamic-resource-allocation/cel"
	"k8s.io/dynamic-resource-allocation/structured"

	"github.com/mote-edge/mote/controlplane/scheduler/fit"
)

// features are those that the API server's v1 types have by default at 1.37 and the library allocates by itself.
var features = structured.Features{AdminAccess: true, PrioritizedList: true, PartitionableDevices: true, DeviceTaints: true, ConsumableCapacity: true, DeviceBindingAndStatus: true}

// Claims knows the cluster's claims and devices. It is safe for concurrent use.
type Claims struct {
	client   kubernetes.Interface
	informer informers.SharedInformerFactory
	changed  func() // something changed that may help a waiting pod; it doesn't block

	mu      sync.Mutex
	begun   bool
	synced  []cache.InformerSynced
	pending map[types.UID]*resourcev1.AllocationResult // decided, and not yet seen in the cache
	cel     *cel.Cache
	moved   chan struct{} // closed, and made anew, when a claim changes
	settled chan struct{} // closed when the caches are full

	claims  resourcelisters.ResourceClaimLister
	classes resourcelisters.DeviceClassLister
	slices  resourcelisters.ResourceSliceLister
	taints  resourcelisters.DeviceTaintRuleLister
}

var _ fit.Claims = (*Claims)(nil)

// New returns what knows of no claims yet.
func New(client kubernetes.Interface, f informers.SharedInformerFactory, changed func()) *Claims {
	return &Claims{client: client, informer: f, changed: changed, pending: map[types.UID]*resourcev1.AllocationResult{}, moved: make(chan struct{}), settled: make(chan struct{})}
}

// Look begins to watch if the cluster has claims or classes already. Errors mean that they can't be used.
func (c *Claims) Look(ctx context.Context) {
	one := metav1.ListOptions{Limit: 1}
	claims, err := c.client.ResourceV1().ResourceClaims("").List(ctx, one)
	if err == nil && len(claims.Items) > 0 {
		c.Begin(ctx)
	} else if err != nil && ctx.Err() == nil {
		slog.DebugContext(ctx, "resource claims are not served", "err", err)
	}
}

// Begin watches claims and devices from now on. It doesn't wait, and is idempotent.
func (c *Claims) Begin(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.begun {
		return
	}
	c.begun = true
	f := c.informer.Resource().V1()
	c.claims, c.classes, c.slices, c.taints = f.ResourceClaims().Lister(), f.DeviceClasses().Lister(), f.ResourceSlices().Lister(), f.DeviceTaintRules().Lister()
	c.cel = cel.NewCache(10, cel.Features{EnableConsumableCapacity: true})
	always := cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { c.changed() }, UpdateFunc: func(_, _ any) { c.changed() }, DeleteFunc: func(any) { c.changed() },
	}
	for _, w := range []struct {
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandler
	}{
		{f.ResourceClaims().Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc: c.claimChanged, UpdateFunc: func(_, o any) { c.claimChanged(o) }, DeleteFunc: c.claimGone,
		}},
		{f.DeviceClasses().Informer(), always},
		{f.ResourceSlices().Informer(), always},
		{f.DeviceTaintRules().Informer(), always},
	} {
		reg, err := w.informer.AddEventHandler(w.handler)
		if err != nil {
			slog.ErrorContext(ctx, "resource claims can't be watched", "err", err)
			return
		}
		c.synced = append(c.synced, reg.HasSynced)
	}
	c.informer.StartWithContext(ctx)
	go func() {
		if cache.WaitForCacheSync(ctx.Done(), c.synced...) {
			close(c.settled)
			c.changed() // pods that waited for the caches
		}
	}()
}

// settleFor bounds the wait for the first pod with claims: after that it is told that it waits.
const settleFor = 3 * time.Second

// Settle blocks, after Begin, until claims and devices are known: once in the life of a scheduler.
func (c *Claims) Settle(ctx context.Context) {
	select {
	case <-c.settled:
		return
	default:
	}
	timer := time.NewTimer(settleFor)
	defer timer.Stop()
	select {
	case <-c.settled:
	case <-ctx.Done():
	case <-timer.C:
	}
}

func (c *Claims) ready() bool {
	if !c.begun || len(c.synced) == 0 {
		return false
	}
	return !slices.ContainsFunc(c.synced, func(synced cache.InformerSynced) bool { return !synced() })
}

func (c *Claims) claimChanged(o any) {
	claim := o.(*resourcev1.ResourceClaim)
	c.mu.Lock()
	if claim.Status.Allocation != nil {
		delete(c.pending, claim.UID)
	}
	close(c.moved)
	c.moved = make(chan struct{})
	c.mu.Unlock()
	c.changed()
}

func (c *Claims) claimGone(o any) {
	if d, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = d.Obj
	}
	if claim, ok := o.(*resourcev1.ResourceClaim); ok {
		c.mu.Lock()
		delete(c.pending, claim.UID)
		c.mu.Unlock()
	}
	c.changed()
}

// allocated is what all claims have, and what those have whose allocation is on its way. The lock is held.
func (c *Claims) allocated() (structured.AllocatedState, error) {
	out := structured.AllocatedState{
		AllocatedDevices: sets.New[structured.DeviceID](), AllocatedSharedDeviceIDs: sets.New[structured.SharedDeviceID](),
		AggregatedCapacity: structured.NewConsumedCapacityCollection(),
	}
	all, err := c.claims.List(labels.Everything())
	if err != nil {
		return out, err
	}
	for _, claim := range all {
		if claim.Status.Allocation != nil {
			note(out, claim.Status.Allocation)
		}
	}
	for _, a := range c.pending {
		note(out, a)
	}
	return out, nil
}

func note(out structured.AllocatedState, a *resourcev1.AllocationResult) {
	for _, r := range a.Devices.Results {
		if r.AdminAccess != nil && *r.AdminAccess {
			continue // looking at a device doesn't take it
		}
		id := structured.MakeDeviceID(r.Driver, r.Pool, r.Device)
		if r.ShareID == nil {
			out.AllocatedDevices.Insert(id)
			continue
		}
		out.AllocatedSharedDeviceIDs.Insert(structured.MakeSharedDeviceID(id, r.ShareID))
		out.AggregatedCapacity.Insert(structured.NewDeviceConsumedCapacity(id, r.ConsumedCapacity))
	}
}

// devices are the slices, with the taints that rules add to devices.
func (c *Claims) devices() ([]*resourcev1.ResourceSlice, error) {
	all, err := c.slices.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	rules, err := c.taints.List(labels.Everything())
	if err != nil || len(rules) == 0 {
		return all, err
	}
	return Tainted(all, rules), nil
}

// Tainted adds the taints of rules to the devices that they select. The slices are copied where they change.
func Tainted(all []*resourcev1.ResourceSlice, rules []*resourcev1.DeviceTaintRule) []*resourcev1.ResourceSlice {
	out := slices.Clone(all)
	for i, s := range out {
		copied := false
		for _, r := range rules {
			sel := r.Spec.DeviceSelector
			if sel == nil || sel.Driver != nil && *sel.Driver != s.Spec.Driver || sel.Pool != nil && *sel.Pool != s.Spec.Pool.Name {
				continue // without a selector a rule is about no device; with an empty one, about all
			}
			for j := range s.Spec.Devices {
				if sel.Device != nil && *sel.Device != s.Spec.Devices[j].Name {
					continue
				}
				if !copied {
					out[i], copied = s.DeepCopy(), true
				}
				d := &out[i].Spec.Devices[j]
				d.Taints = append(d.Taints, r.Spec.Taint)
			}
		}
	}
	return out
}

// Uses tells whether a pod has claims that the scheduler must see to, or requests that may turn into one.
func Uses(pod *corev1.Pod) bool { return len(pod.Spec.ResourceClaims) > 0 || asksForExtended(pod) }

// classes are the device classes, the way the library asks for them.
type classes struct {
	resourcelisters.DeviceClassLister
}

func (c classes) List() ([]*resourcev1.DeviceClass, error) {
	return c.DeviceClassLister.List(labels.Everything())
}
