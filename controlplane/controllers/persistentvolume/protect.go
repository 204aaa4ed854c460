package persistentvolume

import (
	"context"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/storage/ephemeral"
)

const (
	claimFinalizer  = "kubernetes.io/pvc-protection"
	volumeFinalizer = "kubernetes.io/pv-protection"
)

func (c *Controller) protectClaim(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	fixed := claim.DeepCopy()
	fixed.Finalizers = append(fixed.Finalizers, claimFinalizer)
	return c.updateClaim(ctx, fixed)
}

// releaseClaim lets a claim that is being deleted go, unless a pod on a node uses it. The API is asked, because the
// cache may not show the newest pod.
func (c *Controller) releaseClaim(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	if !slices.Contains(claim.Finalizers, claimFinalizer) {
		return nil
	}
	cached, err := c.pods.Pods(claim.Namespace).List(labels.Everything())
	if err != nil {
		return err
	}
	for _, p := range cached {
		if uses(p, claim) {
			return nil // its end brings the claim back here
		}
	}
	live, err := c.cfg.Client.CoreV1().Pods(claim.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("pods that use claim %s/%s: %w", claim.Namespace, claim.Name, err)
	}
	for i := range live.Items {
		if uses(&live.Items[i], claim) {
			return nil
		}
	}
	fixed := claim.DeepCopy()
	fixed.Finalizers = slices.DeleteFunc(fixed.Finalizers, func(f string) bool { return f == claimFinalizer })
	return c.updateClaim(ctx, fixed)
}

// uses says whether a pod has a claim's volume, or may get it any moment. A pod without a node doesn't: the scheduler
// refuses it a claim that is being deleted.
func uses(p *corev1.Pod, claim *corev1.PersistentVolumeClaim) bool {
	if p.Spec.NodeName == "" {
		return false
	}
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		switch {
		case v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == claim.Name:
			return true
		case v.Ephemeral != nil && ephemeral.VolumeClaimName(p, v) == claim.Name && ephemeral.VolumeIsForPod(p, claim) == nil:
			return true
		}
	}
	return false
}

func (c *Controller) protectVolume(ctx context.Context, v *corev1.PersistentVolume) error {
	fixed := v.DeepCopy()
	fixed.Finalizers = append(fixed.Finalizers, volumeFinalizer)
	return c.updateVolume(ctx, fixed)
}

func (c *Controller) releaseVolume(ctx context.Context, v *corev1.PersistentVolume) error {
	fixed := v.DeepCopy()
	fixed.Finalizers = slices.DeleteFunc(fixed.Finalizers, func(f string) bool { return f == volumeFinalizer })
	return c.updateVolume(ctx, fixed)
}

func (c *Controller) updateVolume(ctx context.Context, v *corev1.PersistentVolume) error {
	_, err := c.cfg.Client.CoreV1().PersistentVolumes().Update(ctx, v, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("volume %s: %w", v.Name, err)
	}
	return nil
}

// reconcilePod creates the claims of a pod's generic ephemeral volumes. They belong to the pod and go with it.
func (c *Controller) reconcilePod(ctx context.Context, k key) error {
	p, err := c.pods.Pods(k.namespace).Get(k.name)
	if apierrors.IsNotFound(err) || (err == nil && p.DeletionTimestamp != nil) {
		return nil
	}
	if err != nil {
		return err
	}
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		if v.Ephemeral == nil || v.Ephemeral.VolumeClaimTemplate == nil {
			continue
		}
		name := ephemeral.VolumeClaimName(p, v)
		if claim, err := c.claims.PersistentVolumeClaims(p.Namespace).Get(name); err == nil {
			if err := ephemeral.VolumeIsForPod(p, claim); err != nil {
				c.tell(k, p, corev1.EventTypeWarning, "FailedBinding", "ephemeral volume: "+err.Error())
				return fmt.Errorf("pod %s/%s: %w", p.Namespace, p.Name, err)
			}
			continue
		}
		yes := true
		t := v.Ephemeral.VolumeClaimTemplate
		claim := &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: p.Namespace, Name: name, Labels: maps.Clone(t.Labels), Annotations: maps.Clone(t.Annotations),
				OwnerReferences: []metav1.OwnerReference{{
					APIVersion: "v1", Kind: "Pod", Name: p.Name, UID: p.UID, Controller: &yes, BlockOwnerDeletion: &yes,
				}},
			},
			Spec: *t.Spec.DeepCopy(),
		}
		if _, err := c.cfg.Client.CoreV1().PersistentVolumeClaims(p.Namespace).Create(ctx, claim, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("ephemeral claim %s/%s: %w", p.Namespace, name, err)
		}
	}
	return nil
}
