// Package podgc removes pods that no kubelet will ever remove: those whose node is gone, those that were deleted before
// they had a node, those terminating on a node declared out of service, and the oldest of very many finished ones.
//
// Reads: Pods, Nodes. Writes: deletes pods without grace, after setting phase Failed and the DisruptionTarget condition
// where that says why.
package podgc

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/mote-edge/mote/controlplane/controllers/keyqueue"
	"github.com/mote-edge/mote/controlplane/informer"
)

// Config is what the controller is given.
type Config struct {
	Client      kubernetes.Interface
	Informers   informers.SharedInformerFactory
	Quarantine  time.Duration // optional: how long a node must be gone before its pods are, 40 s
	MaxFinished int           // optional: how many finished pods are kept, 12500
}

// Controller looks at pods when something about them or their node changes.
type Controller struct {
	cfg    Config
	pods   corelisters.PodLister
	nodes  corelisters.NodeLister
	onNode func(string) []*corev1.Pod
	queue  *keyqueue.Queue[types.NamespacedName]
	synced []cache.InformerSynced

	mu      sync.Mutex
	missing map[string]time.Time // nodes that pods name and that aren't there, since when
}

// finished is the key for the count of finished pods.
var finished = types.NamespacedName{}

// New registers with the informers and starts nothing.
func New(cfg Config) (*Controller, error) {
	if cfg.Quarantine == 0 {
		cfg.Quarantine = 40 * time.Second
	}
	if cfg.MaxFinished == 0 {
		cfg.MaxFinished = 12500
	}
	f := cfg.Informers.Core().V1()
	c := &Controller{cfg: cfg, pods: f.Pods().Lister(), nodes: f.Nodes().Lister(), missing: map[string]time.Time{}}
	c.queue = keyqueue.New("podgc", 2, c.reconcile)
	var err error
	if c.onNode, err = informer.PodsByNode(cfg.Informers); err != nil {
		return nil, err
	}
	nodes, err := keyqueue.WatchChanges(f.Nodes().Informer(), func(_, n *corev1.Node, gone bool) {
		c.mu.Lock()
		delete(c.missing, n.Name)
		c.mu.Unlock()
		if gone || outOfService(n) {
			for _, p := range c.onNode(n.Name) {
				c.queue.Add(keyOf(p))
			}
		}
	})
	if err != nil {
		return nil, err
	}
	pods, err := keyqueue.WatchChanges(f.Pods().Informer(), func(old, p *corev1.Pod, gone bool) {
		if gone {
			return
		}
		if over(p) && (old == nil || !over(old)) {
			c.queue.AddAfter(finished, time.Second)
		}
		if old == nil || p.DeletionTimestamp != nil || old.Spec.NodeName != p.Spec.NodeName {
			c.queue.Add(keyOf(p))
		}
	})
	c.synced = []cache.InformerSynced{nodes, pods}
	return c, err
}

// Run works until ctx is done.
func (c *Controller) Run(ctx context.Context) error { return c.queue.RunWhenSynced(ctx, c.synced...) }

func keyOf(p *corev1.Pod) types.NamespacedName {
	return types.NamespacedName{Namespace: p.Namespace, Name: p.Name}
}

func over(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

func outOfService(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			return false
		}
	}
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

func (c *Controller) reconcile(ctx context.Context, key types.NamespacedName) error {
	if key == finished {
		return c.thin(ctx)
	}
	p, err := c.pods.Pods(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if p.Spec.NodeName == "" {
		if p.DeletionTimestamp != nil {
			return c.remove(ctx, p, "")
		}
		return nil
	}
	n, err := c.nodes.Get(p.Spec.NodeName)
	switch {
	case apierrors.IsNotFound(err):
		return c.orphaned(ctx, p)
	case err != nil:
		return err
	case p.DeletionTimestamp != nil && outOfService(n):
		return c.remove(ctx, p, "DeletionByPodGC")
	}
	return nil
}

// orphaned waits for a while, and then asks the API whether the node is really gone: the cache may be behind, and a
// node that is being replaced comes back under its name.
func (c *Controller) orphaned(ctx context.Context, p *corev1.Pod) error {
	c.mu.Lock()
	since, waiting := c.missing[p.Spec.NodeName]
	if !waiting {
		since = time.Now()
		c.missing[p.Spec.NodeName] = since
	}
	c.mu.Unlock()
	if left := c.cfg.Quarantine - time.Since(since); left > 0 {
		c.queue.AddAfter(keyOf(p), left)
		return nil
	}
	_, err := c.cfg.Client.CoreV1().Nodes().Get(ctx, p.Spec.NodeName, metav1.GetOptions{})
	if err == nil {
		return nil
	}
	if !apierrors.IsNotFound(err) {
		return fmt.Errorf("node %s of pod %s/%s: %w", p.Spec.NodeName, p.Namespace, p.Name, err)
	}
	return c.remove(ctx, p, "DeletionByPodGC")
}

// remove deletes a pod at once. A reason becomes its DisruptionTarget condition.
func (c *Controller) remove(ctx context.Context, p *corev1.Pod, reason string) error {
	pods := c.cfg.Client.CoreV1().Pods(p.Namespace)
	slog.InfoContext(ctx, "removing a pod that no kubelet will", "pod", p.Namespace+"/"+p.Name, "node", p.Spec.NodeName)
	if reason != "" && !over(p) {
		patch, err := json.Marshal(map[string]any{
			"metadata": map[string]any{"uid": p.UID},
			"status": map[string]any{"phase": corev1.PodFailed, "conditions": []corev1.PodCondition{{
				Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason, Message: "PodGC: node no longer exists",
				LastTransitionTime: metav1.Now(), ObservedGeneration: p.Generation,
			}}},
		})
		if err != nil {
			return err
		}
		if _, err := pods.Patch(ctx, p.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("pod %s/%s: %w", p.Namespace, p.Name, err)
		}
	}
	var now int64
	err := pods.Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &p.UID}})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	return nil
}

// thin deletes the oldest finished pods beyond the number that is kept.
func (c *Controller) thin(ctx context.Context) error {
	all, err := c.pods.List(labels.Everything())
	if err != nil {
		return err
	}
	var done []*corev1.Pod
	for _, p := range all {
		if over(p) && p.DeletionTimestamp == nil {
			done = append(done, p)
		}
	}
	if len(done) <= c.cfg.MaxFinished {
		return nil
	}
	slices.SortFunc(done, func(a, b *corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	for _, p := range done[:len(done)-c.cfg.MaxFinished] {
		if err := c.remove(ctx, p, ""); err != nil {
			return err
		}
	}
	return nil
}
