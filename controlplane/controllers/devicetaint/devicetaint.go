// Package devicetaint evicts pods whose devices have been tainted with NoExecute, by their driver (ResourceSlice) or by an
// administrator (DeviceTaintRule), and tells of it in the rule's status.
//
// Nothing but pods is watched before the first pod with claims or the first rule.
//
// Reads: Pods, ResourceClaims, ResourceSlices, DeviceTaintRules. Writes: deletes Pods, after their DisruptionTarget
// condition; DeviceTaintRules' status.
package devicetaint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	resourcelisters "k8s.io/client-go/listers/resource/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/mote-edge/mote/controlplane/controllers/keyqueue"
)

// settle is how long a rule's status waits for what its pods do, so that one write tells of many of them.
const settle = time.Second

// Config is what the controller is given.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Recorder  record.EventRecorder
}

// key is a pod or a rule.
type key struct {
	rule bool
	types.NamespacedName
}

// Controller looks at pods with claims, and at rules.
type Controller struct {
	cfg    Config
	pods   corelisters.PodLister
	queue  *keyqueue.Queue[key]
	synced cache.InformerSynced

	mu      sync.Mutex
	ctx     context.Context // of Run: what is begun later ends with it
	early   bool            // a pod with claims came before Run
	begun   bool
	ready   []cache.InformerSynced
	claims  resourcelisters.ResourceClaimLister
	devices resourcelisters.ResourceSliceLister
	rules   resourcelisters.DeviceTaintRuleLister
	marked  map[types.UID]bool // pods that wait for their end: their users know
	evicted map[types.UID]int  // by rule
}

// New registers with the pods' informer and starts nothing.
func New(cfg Config) (*Controller, error) {
	f := cfg.Informers.Core().V1().Pods()
	c := &Controller{cfg: cfg, pods: f.Lister(), marked: map[types.UID]bool{}, evicted: map[types.UID]int{}}
	c.queue = keyqueue.New("devicetaint", 2, c.reconcile)
	var err error
	c.synced, err = keyqueue.WatchChanges(f.Informer(), func(old, p *corev1.Pod, gone bool) {
		if !uses(p) {
			return
		}
		c.begin()
		if gone {
			c.mu.Lock()
			delete(c.marked, p.UID)
			c.mu.Unlock()
			c.touchRules() // what they wait for may be less
			return
		}
		if old == nil || old.Spec.NodeName != p.Spec.NodeName || uses(old) != uses(p) {
			c.queue.Add(podKey(p))
		}
	})
	return c, err
}

func uses(p *corev1.Pod) bool {
	return len(p.Spec.ResourceClaims) > 0 || p.Status.ExtendedResourceClaimStatus != nil
}

func podKey(p *corev1.Pod) key {
	return key{NamespacedName: types.NamespacedName{Namespace: p.Namespace, Name: p.Name}}
}

// begin watches claims, devices and rules from now on.
func (c *Controller) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.begun || c.ctx == nil {
		c.early = true
		return
	}
	c.begun = true
	f := c.cfg.Informers.Resource().V1()
	c.claims, c.devices, c.rules = f.ResourceClaims().Lister(), f.ResourceSlices().Lister(), f.DeviceTaintRules().Lister()
	claims, err1 := keyqueue.WatchChanges(f.ResourceClaims().Informer(), func(old, claim *resourcev1.ResourceClaim, _ bool) {
		for _, x := range []*resourcev1.ResourceClaim{old, claim} {
			if x != nil {
				c.touchUsers(x)
			}
		}
	})
	devices, err2 := keyqueue.WatchChanges(f.ResourceSlices().Informer(), func(old, s *resourcev1.ResourceSlice, _ bool) {
		if tainted(old) || tainted(s) {
			c.touchAll()
		}
	})
	rules, err3 := keyqueue.WatchChanges(f.DeviceTaintRules().Informer(), func(old, r *resourcev1.DeviceTaintRule, gone bool) {
		if gone || old == nil || old.Generation != r.Generation || old.UID != r.UID {
			c.touchAll()
		}
		if !gone {
			c.queue.Add(key{rule: true, NamespacedName: types.NamespacedName{Name: r.Name}})
		}
	})
	if errors.Join(err1, err2, err3) != nil {
		return // informers that have ended: so will the controller
	}
	c.ready = []cache.InformerSynced{claims, devices, rules}
	c.cfg.Informers.StartWithContext(c.ctx)
}

func tainted(s *resourcev1.ResourceSlice) bool {
	return s != nil && slices.ContainsFunc(s.Spec.Devices, func(d resourcev1.Device) bool { return len(d.Taints) > 0 })
}

func (c *Controller) touchUsers(claim *resourcev1.ResourceClaim) {
	for _, r := range claim.Status.ReservedFor {
		if r.APIGroup == "" && r.Resource == "pods" {
			c.queue.Add(key{NamespacedName: types.NamespacedName{Namespace: claim.Namespace, Name: r.Name}})
		}
	}
}

// touchAll looks at every pod that uses devices: taints change seldom.
func (c *Controller) touchAll() {
	for _, p := range c.users() {
		c.queue.Add(podKey(p))
	}
}

func (c *Controller) users() []*corev1.Pod {
	all, err := c.pods.List(labels.Everything())
	if err != nil {
		return nil // a lister over a cache doesn't fail
	}
	return slices.DeleteFunc(all, func(p *corev1.Pod) bool { return !uses(p) })
}

func (c *Controller) touchRules() {
	c.mu.Lock()
	rules := c.rules
	c.mu.Unlock()
	if rules == nil {
		return
	}
	all, err := rules.List(labels.Everything())
	if err != nil {
		return
	}
	for _, r := range all {
		c.queue.AddAfter(key{rule: true, NamespacedName: types.NamespacedName{Name: r.Name}}, settle)
	}
}

// Run works until ctx is done.
func (c *Controller) Run(ctx context.Context) error {
	c.mu.Lock()
	c.ctx = ctx
	early := c.early
	c.mu.Unlock()
	if !early { // rules that say what they would do, before anybody uses a device
		list, err := c.cfg.Client.ResourceV1().DeviceTaintRules().List(ctx, metav1.ListOptions{Limit: 1})
		early = err == nil && len(list.Items) > 0
	}
	if early {
		c.begin()
	}
	return c.queue.RunWhenSynced(ctx, c.synced)
}

var errNotSynced = errors.New("devices are not listed yet")

func (c *Controller) reconcile(ctx context.Context, k key) error {
	c.mu.Lock()
	ready := c.ready
	c.mu.Unlock()
	if len(ready) == 0 || slices.ContainsFunc(ready, func(synced cache.InformerSynced) bool { return !synced() }) {
		return errNotSynced // tried again
	}
	now, err := c.cluster()
	if err != nil {
		return err
	}
	if k.rule {
		return c.rule(ctx, k.Name, now)
	}
	return c.pod(ctx, k, now)
}

func (c *Controller) cluster() (cluster, error) {
	all, err := c.devices.List(labels.Everything())
	if err != nil {
		return cluster{}, err
	}
	rules, err := c.rules.List(labels.Everything())
	return cluster{slices: all, rules: rules, claim: func(namespace, name string) *resourcev1.ResourceClaim {
		claim, err := c.claims.ResourceClaims(namespace).Get(name)
		if err != nil {
			return nil
		}
		return claim
	}}, err
}

func (c *Controller) pod(ctx context.Context, k key, now cluster) error {
	p, err := c.pods.Pods(k.Namespace).Get(k.Name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	e := evictAt(p, now)
	c.mu.Lock()
	was := c.marked[p.UID]
	if e == nil {
		delete(c.marked, p.UID)
	} else {
		c.marked[p.UID] = true
	}
	c.mu.Unlock()
	switch {
	case e == nil:
		if was && p.DeletionTimestamp == nil {
			c.cfg.Recorder.Event(p, corev1.EventTypeNormal, "DeviceTaintManagerEviction", "Cancelling deletion")
			c.touchRules()
		}
		return nil
	case time.Until(e.at) > 0:
		c.queue.AddAfter(k, time.Until(e.at))
		c.touchRules()
		return nil
	}
	c.cfg.Recorder.Event(p, corev1.EventTypeNormal, "DeviceTaintManagerEviction", "Marking for deletion")
	if err := c.evict(ctx, p); err != nil {
		return err
	}
	c.mu.Lock()
	delete(c.marked, p.UID)
	for rule := range e.rules {
		c.evicted[rule]++
	}
	c.mu.Unlock()
	c.touchRules()
	return nil
}

func (c *Controller) evict(ctx context.Context, p *corev1.Pod) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": p.UID}, "status": map[string]any{"conditions": []corev1.PodCondition{{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByDeviceTaintManager",
		Message: "Device Taint manager: deleting due to NoExecute taint", LastTransitionTime: metav1.Now(), ObservedGeneration: p.Generation,
	}}}})
	if err != nil {
		return err
	}
	pods := c.cfg.Client.CoreV1().Pods(p.Namespace)
	_, err = pods.Patch(ctx, p.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err == nil {
		err = pods.Delete(ctx, p.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &p.UID}})
	}
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) { // a conflict is another pod of that name
		return fmt.Errorf("evicting pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	return nil
}

// rule keeps a rule's status.
func (c *Controller) rule(ctx context.Context, name string, now cluster) error {
	r, err := c.rules.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	var old *metav1.Condition
	for i := range r.Status.Conditions {
		if r.Status.Conditions[i].Type == resourcev1.DeviceTaintConditionEvictionInProgress {
			old = &r.Status.Conditions[i]
		}
	}
	if r.Spec.Taint.Effect == resourcev1.DeviceTaintEffectNone && old != nil && old.ObservedGeneration == r.Generation {
		return nil // it says so itself: it isn't kept up to date
	}
	c.mu.Lock()
	n := tally{evicted: c.evicted[r.UID]}
	c.mu.Unlock()
	next := condition(r, reckon(r, now, c.users(), n))
	next.LastTransitionTime = metav1.Now()
	if old != nil {
		same := *old
		same.LastTransitionTime = next.LastTransitionTime
		if same == next {
			return nil
		}
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": r.UID}, "status": map[string]any{"conditions": []metav1.Condition{next}}})
	if err != nil {
		return err
	}
	_, err = c.cfg.Client.ResourceV1().DeviceTaintRules().Patch(ctx, name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("status of device taint rule %s: %w", name, err)
	}
	return nil
}

// reckon adds what one rule selects and whom it drives out, or would if it had an effect.
func reckon(r *resourcev1.DeviceTaintRule, now cluster, users []*corev1.Pod, n tally) tally {
	acting := r.DeepCopy()
	acting.Spec.Taint.Effect = resourcev1.DeviceTaintEffectNoExecute
	alone := cluster{claim: now.claim, rules: []*resourcev1.DeviceTaintRule{acting}}
	namespaces, devices := map[string]bool{}, map[[3]string]bool{}
	for _, p := range users {
		if evictAt(p, alone) != nil {
			n.pods++
			namespaces[p.Namespace] = true
		}
		for _, d := range devicesOf(p, now) {
			if selects(r.Spec.DeviceSelector, d[0], d[1], d[2]) {
				devices[d] = true
			}
		}
	}
	n.namespaces, n.allocated = len(namespaces), len(devices)
	for _, s := range now.slices {
		for i := range s.Spec.Devices {
			if selects(r.Spec.DeviceSelector, s.Spec.Driver, s.Spec.Pool.Name, s.Spec.Devices[i].Name) {
				n.published++
			}
		}
	}
	return n
}
