// Package nodelifecycle notices nodes that fell silent, taints nodes by their conditions, and moves pods away from
// nodes whose taints they don't tolerate any longer.
//
//	lease or status seen ──► healthy ──nothing for the grace period──► conditions Unknown, its pods not Ready
//	                            ▲                                              │
//	                            └────────────── status seen ◄──────────────────┘
//
// A node's silence is measured by this process's own clock from what it has seen itself, so that neither a clock that
// is off nor a restart of the control plane makes a healthy node look dead.
//
// Reads: Nodes, Leases in kube-node-lease, Pods. Writes: Node conditions (Unknown only) and condition taints; the Ready
// condition of pods on silent nodes; the DisruptionTarget condition of pods it deletes; events.
package nodelifecycle

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	coordinationinformers "k8s.io/client-go/informers/coordination/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/mote-edge/mote/controlplane/controllers/keyqueue"
	"github.com/mote-edge/mote/controlplane/informer"
)

// Config is what the controller is given.
type Config struct {
	Client       kubernetes.Interface
	Informers    informers.SharedInformerFactory
	Recorder     record.EventRecorder
	Grace        time.Duration // optional: silence after which a node is unreachable, 40 s
	StartupGrace time.Duration // optional: the same for a node that has not posted a status yet, 60 s
}

// Controller has one queue for nodes and one for pods that may have to leave.
type Controller struct {
	cfg    Config
	nodes  corelisters.NodeLister
	pods   corelisters.PodLister
	onNode func(string) []*corev1.Pod
	leases cache.SharedIndexInformer
	synced []cache.InformerSynced
	nodeQ  *keyqueue.Queue[string]
	podQ   *keyqueue.Queue[types.NamespacedName]

	mu     sync.Mutex
	health map[string]*health
}

// late is the part of the grace period by which a look comes late if this process stood still.
const late = 8

// health is what was last seen of a node, and when, by our clock.
type health struct {
	seen      time.Time
	renewed   time.Time // the lease's own time
	lease     string    // its resource version
	heartbeat time.Time // the Ready condition's own time
	known     bool      // a status has been posted
	due       time.Time // of the next look; a late one means that this process stood still
	excused   bool      // for that, since it was last seen
	tainted   map[string]time.Time
}

// New registers with the informers and starts nothing.
func New(cfg Config) (*Controller, error) {
	if cfg.Grace == 0 {
		cfg.Grace = 40 * time.Second
	}
	if cfg.StartupGrace == 0 {
		cfg.StartupGrace = 60 * time.Second
	}
	f := cfg.Informers.Core().V1()
	c := &Controller{cfg: cfg, nodes: f.Nodes().Lister(), pods: f.Pods().Lister(), health: map[string]*health{}}
	c.nodeQ = keyqueue.New("nodelifecycle", 2, c.reconcileNode)
	c.podQ = keyqueue.New("tainteviction", 4, c.reconcilePod)
	var err error
	if c.onNode, err = informer.PodsByNode(cfg.Informers); err != nil {
		return nil, err
	}
	c.leases = coordinationinformers.NewLeaseInformer(cfg.Client, corev1.NamespaceNodeLease, 0, cache.Indexers{})
	if err := c.leases.SetTransform(informer.Trim); err != nil {
		return nil, err
	}
	leases, err := keyqueue.WatchChanges(c.leases, func(_, l *coordinationv1.Lease, gone bool) {
		if !gone {
			c.renewed(l)
		}
	})
	if err != nil {
		return nil, err
	}
	nodes, err := keyqueue.WatchChanges(f.Nodes().Informer(), c.nodeChanged)
	if err != nil {
		return nil, err
	}
	pods, err := keyqueue.WatchChanges(f.Pods().Informer(), c.podChanged)
	c.synced = []cache.InformerSynced{leases, nodes, pods}
	return c, err
}

// Run works until ctx is done.
func (c *Controller) Run(ctx context.Context) error {
	go c.leases.RunWithContext(ctx)
	if !cache.WaitForCacheSync(ctx.Done(), c.synced...) {
		return nil
	}
	var wg sync.WaitGroup
	wg.Go(func() { c.podQ.Run(ctx) })
	c.nodeQ.Run(ctx)
	wg.Wait()
	return nil
}

func (c *Controller) nodeChanged(old, n *corev1.Node, gone bool) {
	switch {
	case gone:
		c.mu.Lock()
		delete(c.health, n.Name)
		c.mu.Unlock()
		c.cfg.Recorder.Eventf(nodeRef(n), corev1.EventTypeNormal, "RemovingNode", "Node %s event: Removing Node %s from Controller", n.Name, n.Name)
		c.queueOthers(n.Name)
		return
	case old == nil:
		c.cfg.Recorder.Eventf(nodeRef(n), corev1.EventTypeNormal, "RegisteredNode", "Node %s event: Registered Node %s in Controller", n.Name, n.Name)
	}
	c.posted(n)
	if old == nil || old.Spec.Unschedulable != n.Spec.Unschedulable ||
		!equality.Semantic.DeepEqual(old.Spec.Taints, n.Spec.Taints) || statusesDiffer(old, n) {
		c.nodeQ.Add(n.Name)
	}
	if old == nil || ready(old) != ready(n) {
		c.queueOthers(n.Name) // whether pods may be moved depends on how many are ready
	}
}

func (c *Controller) queueOthers(name string) {
	all, err := c.nodes.List(labels.Everything())
	if err != nil {
		return // a lister over a cache doesn't fail
	}
	for _, n := range all {
		if n.Name != name && !ready(n) {
			c.nodeQ.Add(n.Name)
		}
	}
}

func statusesDiffer(a, b *corev1.Node) bool {
	if len(a.Status.Conditions) != len(b.Status.Conditions) {
		return true
	}
	for i := range a.Status.Conditions {
		if a.Status.Conditions[i].Type != b.Status.Conditions[i].Type || a.Status.Conditions[i].Status != b.Status.Conditions[i].Status {
			return true
		}
	}
	return false
}

func (c *Controller) of(name string) *health {
	h := c.health[name]
	if h == nil {
		h = &health{seen: time.Now(), tainted: map[string]time.Time{}}
		c.health[name] = h
	}
	return h
}

func (c *Controller) renewed(l *coordinationv1.Lease) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.of(l.Name)
	h.lease = l.ResourceVersion
	if l.Spec.RenewTime != nil && l.Spec.RenewTime.After(h.renewed) {
		h.renewed, h.seen, h.excused = l.Spec.RenewTime.Time, time.Now(), false
	}
}

// posted takes note of a node's status and of how long its taints have been there.
func (c *Controller) posted(n *corev1.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.of(n.Name)
	if r := condition(n, corev1.NodeReady); r != nil && r.Reason != "NodeStatusNeverUpdated" {
		if !h.known || !r.LastHeartbeatTime.Time.Equal(h.heartbeat) {
			h.seen, h.excused = time.Now(), false
		}
		h.known, h.heartbeat = true, r.LastHeartbeatTime.Time
	}
	present := map[string]bool{}
	for _, t := range n.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoExecute {
			id := t.Key + "=" + t.Value
			present[id] = true
			if _, ok := h.tainted[id]; !ok {
				h.tainted[id] = time.Now()
			}
		}
	}
	for id := range h.tainted {
		if !present[id] {
			delete(h.tainted, id)
		}
	}
}

func (c *Controller) reconcileNode(ctx context.Context, name string) error {
	n, err := c.nodes.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	silent, err := c.checkHealth(ctx, n)
	if err != nil {
		return err
	}
	if silent {
		if conditions, changed := silence(n, metav1.Now()); changed {
			return c.setConditions(ctx, n, conditions) // its event brings the node back for the rest
		}
	}
	if err := c.taint(ctx, n); err != nil {
		return err
	}
	for _, p := range c.onNode(name) {
		if hasNoExecute(n) {
			c.podQ.Add(types.NamespacedName{Namespace: p.Namespace, Name: p.Name})
		}
	}
	if r := condition(n, corev1.NodeReady); r != nil && r.Status != corev1.ConditionTrue {
		return c.markPodsNotReady(ctx, n)
	}
	return nil
}

// checkHealth says whether the node is silent, and otherwise has it looked at again when it might be.
func (c *Controller) checkHealth(ctx context.Context, n *corev1.Node) (bool, error) {
	h, grace, left := c.silentFor(n.Name, time.Now())
	if left > 0 {
		c.nodeQ.AddAfter(n.Name, left+time.Millisecond)
		return false, nil
	}
	// The watch may be what is silent: ask before declaring a node dead.
	l, err := c.cfg.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(ctx, n.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
	case err != nil:
		return false, fmt.Errorf("lease of node %s: %w", n.Name, err)
	case l.Spec.RenewTime != nil && l.Spec.RenewTime.After(h.renewed):
		c.renewed(l)
		c.nodeQ.AddAfter(n.Name, grace)
		return false, nil
	}
	c.nodeQ.AddAfter(n.Name, grace)
	return true, nil
}

// silentFor is a node's health, and how long its silence may last still. A look that comes late, though its time was known, means that
// this process stood still, with the API server in it: what nodes said meanwhile nobody heard. Each gets its grace anew then, once.
func (c *Controller) silentFor(name string, now time.Time) (h health, grace, left time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.of(name)
	if grace = c.cfg.Grace; !p.known {
		grace = c.cfg.StartupGrace
	}
	if left = grace - now.Sub(p.seen); left <= 0 && !p.excused && !p.due.IsZero() && now.Sub(p.due) > grace/late {
		p.seen, p.excused, left = now, true, grace
	}
	if p.due = now.Add(left); left <= 0 {
		p.due = now.Add(grace)
	}
	return *p, grace, left
}

func (c *Controller) setConditions(ctx context.Context, n *corev1.Node, conditions []corev1.NodeCondition) error {
	slog.WarnContext(ctx, "node is not heard of any more", "node", n.Name)
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": n.ResourceVersion},
		"status":   map[string]any{"conditions": conditions},
	})
	if err != nil {
		return err
	}
	_, err = c.cfg.Client.CoreV1().Nodes().Patch(ctx, n.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("conditions of node %s: %w", n.Name, err)
	}
	c.cfg.Recorder.Eventf(nodeRef(n), corev1.EventTypeNormal, "NodeNotReady", "Node %s status is now: NodeNotReady", n.Name)
	return nil
}

func (c *Controller) taint(ctx context.Context, n *corev1.Node) error {
	all, err := c.nodes.List(labels.Everything())
	if err != nil {
		return err
	}
	up, down := 0, 0
	for _, o := range all {
		if ready(o) {
			up++
		} else {
			down++
		}
	}
	taints, changed := desiredTaints(n, mayEvict(up, down), metav1.Now())
	if !changed {
		return nil
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": n.ResourceVersion},
		"spec":     map[string]any{"taints": taints},
	})
	if err != nil {
		return err
	}
	_, err = c.cfg.Client.CoreV1().Nodes().Patch(ctx, n.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("taints of node %s: %w", n.Name, err)
	}
	return nil
}

func hasNoExecute(n *corev1.Node) bool {
	for _, t := range n.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoExecute {
			return true
		}
	}
	return false
}

// nodeRef is what events about a node refer to: kubelets and controllers use the name as the UID.
func nodeRef(n *corev1.Node) *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: n.Name, UID: n.UID}
}
