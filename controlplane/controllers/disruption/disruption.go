// Package disruption keeps the status of PodDisruptionBudgets: how many pods there should be, how many are healthy, and
// so how many may be evicted now.
//
// Reads: PodDisruptionBudgets, Pods, and the scale of the pods' controllers. Writes: status of PodDisruptionBudgets; the
// DisruptionTarget condition of pods that were to be disrupted and weren't; events.
package disruption

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	policylisters "k8s.io/client-go/listers/policy/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	pdbhelper "k8s.io/component-helpers/apps/poddisruptionbudget"

	"github.com/mote-edge/mote/controlplane/controllers/keyqueue"
)

// Config is what the controller is given.
type Config struct {
	Client    kubernetes.Interface
	Discovery discovery.DiscoveryInterface
	Informers informers.SharedInformerFactory
	Recorder  record.EventRecorder
}

// Controller works on budgets.
type Controller struct {
	cfg     Config
	budgets policylisters.PodDisruptionBudgetLister
	pods    corelisters.PodLister
	scales  *scales
	queue   *keyqueue.Queue[types.NamespacedName]
	synced  []cache.InformerSynced
}

// New registers with the informers and starts nothing.
func New(cfg Config) (*Controller, error) {
	f := cfg.Informers
	c := &Controller{cfg: cfg, budgets: f.Policy().V1().PodDisruptionBudgets().Lister(), pods: f.Core().V1().Pods().Lister()}
	c.scales = newScales(cfg)
	c.queue = keyqueue.New("disruption", 2, c.reconcile)
	budgets, err := keyqueue.WatchChanges(f.Policy().V1().PodDisruptionBudgets().Informer(), func(_, b *policyv1.PodDisruptionBudget, gone bool) {
		if !gone {
			c.queue.Add(keyOf(b))
		}
	})
	if err != nil {
		return nil, err
	}
	pods, err := keyqueue.WatchChanges(f.Core().V1().Pods().Informer(), func(old, p *corev1.Pod, gone bool) {
		if old != nil && !gone {
			c.podChanged(old)
		}
		c.podChanged(p)
	})
	if err != nil {
		return nil, err
	}
	c.synced = append(c.scales.synced, budgets, pods)
	err = c.scales.watch(func(namespace string) {
		for _, b := range c.in(namespace) {
			c.queue.Add(keyOf(b))
		}
	})
	return c, err
}

// Run works until ctx is done.
func (c *Controller) Run(ctx context.Context) error { return c.queue.RunWhenSynced(ctx, c.synced...) }

func keyOf(b *policyv1.PodDisruptionBudget) types.NamespacedName {
	return types.NamespacedName{Namespace: b.Namespace, Name: b.Name}
}

func (c *Controller) in(namespace string) []*policyv1.PodDisruptionBudget {
	all, err := c.budgets.PodDisruptionBudgets(namespace).List(labels.Everything())
	if err != nil {
		return nil // a lister over a cache doesn't fail
	}
	return all
}

func (c *Controller) podChanged(p *corev1.Pod) {
	for _, b := range c.in(p.Namespace) {
		if s, err := metav1.LabelSelectorAsSelector(b.Spec.Selector); err == nil && s.Matches(labels.Set(p.Labels)) {
			c.queue.Add(keyOf(b))
		}
	}
	for _, cond := range p.Status.Conditions {
		if stale := staleAt(p, cond); !stale.IsZero() {
			c.queue.AddAfter(types.NamespacedName{Namespace: p.Namespace, Name: podPrefix + p.Name}, time.Until(stale))
		}
	}
}

// podPrefix marks keys of pods among those of budgets; no object's name has a slash.
const podPrefix = "pod/"

// staleAt is when a pod that was to be disrupted, and isn't being deleted, is taken to stay after all.
func staleAt(p *corev1.Pod, c corev1.PodCondition) time.Time {
	if c.Type != corev1.DisruptionTarget || c.Status != corev1.ConditionTrue || p.DeletionTimestamp != nil ||
		p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return time.Time{}
	}
	return c.LastTransitionTime.Add(deletionTimeout)
}

func (c *Controller) reconcile(ctx context.Context, key types.NamespacedName) error {
	if len(key.Name) > len(podPrefix) && key.Name[:len(podPrefix)] == podPrefix {
		return c.clearStale(ctx, key.Namespace, key.Name[len(podPrefix):])
	}
	b, err := c.budgets.PodDisruptionBudgets(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	s, err := c.status(ctx, b)
	if err != nil {
		return errors.Join(err, c.failSafe(ctx, b, err))
	}
	if upToDate(b, s) {
		return nil
	}
	return c.write(ctx, b, s, true)
}

func (c *Controller) status(ctx context.Context, b *policyv1.PodDisruptionBudget) (policyv1.PodDisruptionBudgetStatus, error) {
	var none policyv1.PodDisruptionBudgetStatus
	selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	if err != nil {
		return none, fmt.Errorf("selector: %w", err)
	}
	pods, err := c.pods.Pods(b.Namespace).List(selector)
	if err != nil {
		return none, err
	}
	if len(pods) == 0 && b.Status.ObservedGeneration != b.Generation {
		c.cfg.Recorder.Event(b, corev1.EventTypeNormal, "NoPods", "No matching pods found")
	}
	unmanaged := false
	desired, expected, err := desiredHealthy(b, len(pods), func() (int, error) {
		sum, alone, err := c.scales.sum(ctx, pods)
		unmanaged = alone
		return sum, err
	})
	if err != nil {
		c.cfg.Recorder.Eventf(b, corev1.EventTypeWarning, "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: %v", err)
		return none, err
	}
	if unmanaged {
		c.cfg.Recorder.Eventf(b, corev1.EventTypeWarning, "UnmanagedPods", "Pods selected by this PodDisruptionBudget (selector: %v) were found "+
			"to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. "+
			"To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.", b.Spec.Selector)
	}
	s, next, stale := status(b, pods, desired, expected, time.Now())
	for _, p := range stale {
		c.cfg.Recorder.Eventf(p, corev1.EventTypeWarning, "NotDeleted", "Pod was expected by PDB %s/%s to be deleted but it wasn't", b.Namespace, b.Name)
	}
	if !next.IsZero() {
		c.queue.AddAfter(keyOf(b), time.Until(next))
	}
	return s, nil
}

func (c *Controller) write(ctx context.Context, b *policyv1.PodDisruptionBudget, s policyv1.PodDisruptionBudgetStatus, condition bool) error {
	fixed := b.DeepCopy()
	fixed.Status = s
	if condition {
		pdbhelper.UpdateDisruptionAllowedCondition(fixed)
	}
	// An update: evictions write the same status, and the resource version tells if one just did.
	_, err := c.cfg.Client.PolicyV1().PodDisruptionBudgets(b.Namespace).UpdateStatus(ctx, fixed, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("pod disruption budget %s/%s: %w", b.Namespace, b.Name, err)
	}
	return nil
}

// failSafe allows no disruption as long as the budget can't be worked out.
func (c *Controller) failSafe(ctx context.Context, b *policyv1.PodDisruptionBudget, why error) error {
	s := *b.Status.DeepCopy()
	s.DisruptionsAllowed = 0
	changed := meta.SetStatusCondition(&s.Conditions, metav1.Condition{
		Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.SyncFailedReason,
		Message: why.Error(), ObservedGeneration: s.ObservedGeneration,
	})
	if !changed && b.Status.DisruptionsAllowed == 0 {
		return nil
	}
	return c.write(ctx, b, s, false)
}

// clearStale takes the DisruptionTarget condition back from a pod that nobody deleted.
func (c *Controller) clearStale(ctx context.Context, namespace, name string) error {
	p, err := c.pods.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, cond := range p.Status.Conditions {
		at := staleAt(p, cond)
		if at.IsZero() {
			continue
		}
		if left := time.Until(at); left > 0 {
			c.queue.AddAfter(types.NamespacedName{Namespace: namespace, Name: podPrefix + name}, left)
			return nil
		}
		patch, err := json.Marshal(map[string]any{
			"metadata": map[string]any{"uid": p.UID},
			"status": map[string]any{"conditions": []corev1.PodCondition{{
				Type: corev1.DisruptionTarget, Status: corev1.ConditionFalse, LastTransitionTime: metav1.Now(), ObservedGeneration: p.Generation,
			}}},
		})
		if err != nil {
			return err
		}
		_, err = c.cfg.Client.CoreV1().Pods(namespace).Patch(ctx, name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("pod %s/%s: %w", namespace, name, err)
		}
	}
	return nil
}
