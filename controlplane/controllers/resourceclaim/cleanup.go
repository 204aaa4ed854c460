package resourceclaim

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// claim takes from a claim what nobody needs any more.
func (c *Controller) claim(ctx context.Context, namespace, name string) error {
	claim, err := c.claims.ResourceClaims(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	left, err := c.users(ctx, claim)
	if err != nil {
		return err
	}
	client := c.cfg.Client.ResourceV1().ResourceClaims(namespace)
	next := tidied(claim, left)
	if next != nil {
		if claim, err = client.UpdateStatus(ctx, next, metav1.UpdateOptions{}); err != nil {
			return gone(fmt.Errorf("status of resource claim %s/%s: %w", namespace, name, err))
		}
	}
	if claim.Status.Allocation == nil && slices.Contains(claim.Finalizers, resourcev1.Finalizer) {
		next = claim.DeepCopy()
		next.Finalizers = slices.DeleteFunc(next.Finalizers, func(f string) bool { return f == resourcev1.Finalizer })
		if claim, err = client.Update(ctx, next, metav1.UpdateOptions{}); err != nil {
			return gone(fmt.Errorf("finalizer of resource claim %s/%s: %w", namespace, name, err))
		}
	}
	if claim.DeletionTimestamp == nil && len(left) == 0 && c.ownerDone(claim) {
		err = client.Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &claim.UID}})
		return gone(err)
	}
	return nil
}

// gone makes success of a claim that has vanished.
func gone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// users are the reservations that still count. A pod that the cache doesn't know is asked for: it may be new.
func (c *Controller) users(ctx context.Context, claim *resourcev1.ResourceClaim) ([]resourcev1.ResourceClaimConsumerReference, error) {
	var left []resourcev1.ResourceClaimConsumerReference
	for _, r := range claim.Status.ReservedFor {
		if r.APIGroup != "" || r.Resource != "pods" {
			left = append(left, r) // not ours to judge
			continue
		}
		pod, err := c.pods.Pods(claim.Namespace).Get(r.Name)
		if apierrors.IsNotFound(err) {
			pod, err = c.cfg.Client.CoreV1().Pods(claim.Namespace).Get(ctx, r.Name, metav1.GetOptions{})
		}
		switch {
		case apierrors.IsNotFound(err):
		case err != nil:
			return nil, err
		case pod.UID == r.UID && !done(pod):
			left = append(left, r)
		}
	}
	return left, nil
}

// tidied is the claim without what nobody needs; nil if there is nothing to change. It is pure. An allocation goes with
// its last user, if it had one: what was just allocated waits for its pod.
func tidied(claim *resourcev1.ResourceClaim, left []resourcev1.ResourceClaimConsumerReference) *resourcev1.ResourceClaim {
	unused := claim.Status.Allocation != nil && len(left) == 0 && (len(claim.Status.ReservedFor) > 0 || claim.DeletionTimestamp != nil)
	if len(left) == len(claim.Status.ReservedFor) && !unused {
		return nil
	}
	next := claim.DeepCopy()
	next.Status.ReservedFor = left
	if unused {
		next.Status.Allocation, next.Status.Devices = nil, nil
	}
	return next
}

// ownerDone tells whether a claim was made for a pod that needs it no more: it isn't kept for as long as the pod's object.
func (c *Controller) ownerDone(claim *resourcev1.ResourceClaim) bool {
	owner := metav1.GetControllerOf(claim)
	if owner == nil || owner.Kind != "Pod" || owner.APIVersion != corev1.SchemeGroupVersion.String() {
		return false
	}
	pod, err := c.pods.Pods(claim.Namespace).Get(owner.Name)
	return err == nil && pod.UID == owner.UID && done(pod)
}
