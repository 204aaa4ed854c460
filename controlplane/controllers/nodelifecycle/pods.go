package nodelifecycle

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// podChanged queues pods that are on a node with NoExecute taints; in a healthy cluster there are none.
func (c *Controller) podChanged(old, p *corev1.Pod, gone bool) {
	if gone || p.Spec.NodeName == "" || p.DeletionTimestamp != nil {
		return
	}
	if old != nil && old.Spec.NodeName == p.Spec.NodeName && len(old.Spec.Tolerations) == len(p.Spec.Tolerations) {
		return
	}
	if n, err := c.nodes.Get(p.Spec.NodeName); err == nil && hasNoExecute(n) {
		c.podQ.Add(types.NamespacedName{Namespace: p.Namespace, Name: p.Name})
	}
}

func (c *Controller) reconcilePod(ctx context.Context, key types.NamespacedName) error {
	p, err := c.pods.Pods(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) || (err == nil && (p.Spec.NodeName == "" || p.DeletionTimestamp != nil)) {
		return nil
	}
	if err != nil {
		return err
	}
	n, err := c.nodes.Get(p.Spec.NodeName)
	if apierrors.IsNotFound(err) {
		return nil // pod GC's business
	}
	if err != nil {
		return err
	}
	c.mu.Lock()
	seen := map[string]time.Time{}
	if h := c.health[n.Name]; h != nil {
		for k, v := range h.tainted {
			seen[k] = v
		}
	}
	c.mu.Unlock()
	at, leaves := evictAt(p, n.Spec.Taints, func(t *corev1.Taint) time.Time {
		since, ok := seen[t.Key+"="+t.Value]
		if !ok {
			since = time.Now()
		}
		if p.CreationTimestamp.After(since) {
			return p.CreationTimestamp.Time
		}
		return since
	})
	if !leaves {
		return nil
	}
	if left := time.Until(at); left > 0 {
		c.podQ.AddAfter(key, left)
		return nil
	}
	return c.evict(ctx, p)
}

func (c *Controller) evict(ctx context.Context, p *corev1.Pod) error {
	c.cfg.Recorder.Eventf(p, corev1.EventTypeNormal, "TaintManagerEviction", "Marking for deletion Pod %s/%s", p.Namespace, p.Name)
	if err := c.patchCondition(ctx, p, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByTaintManager",
		Message: "Taint manager: deleting due to NoExecute taint", LastTransitionTime: metav1.Now(), ObservedGeneration: p.Generation,
	}); err != nil {
		return err
	}
	err := c.cfg.Client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &p.UID}})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("evicting pod %s/%s from node %s: %w", p.Namespace, p.Name, p.Spec.NodeName, err)
	}
	return nil
}

// markPodsNotReady takes the pods of a node that is not ready out of their Services.
func (c *Controller) markPodsNotReady(ctx context.Context, n *corev1.Node) error {
	for _, p := range c.onNode(n.Name) {
		for _, cond := range p.Status.Conditions {
			if cond.Type != corev1.PodReady || cond.Status != corev1.ConditionTrue {
				continue
			}
			cond.Status, cond.LastTransitionTime = corev1.ConditionFalse, metav1.Now()
			if err := c.patchCondition(ctx, p, cond); err != nil {
				return err
			}
			c.cfg.Recorder.Event(p, corev1.EventTypeWarning, "NodeNotReady", "Node is not ready")
		}
	}
	return nil
}

func (c *Controller) patchCondition(ctx context.Context, p *corev1.Pod, cond corev1.PodCondition) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": p.UID},
		"status":   map[string]any{"conditions": []corev1.PodCondition{cond}},
	})
	if err != nil {
		return err
	}
	_, err = c.cfg.Client.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("condition %s of pod %s/%s: %w", cond.Type, p.Namespace, p.Name, err)
	}
	return nil
}
