package statefulset

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// create makes a pod, after its claims.
func (c *Controller) create(ctx context.Context, set *appsv1.StatefulSet, pod *corev1.Pod) error {
	if err := c.ensureClaims(ctx, set, pod); err != nil {
		c.tell(set, pod, "Create", err)
		return err
	}
	made, err := c.client.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{})
	switch {
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil
	case apierrors.IsAlreadyExists(err):
		return err // the cache is behind, or someone else's pod has the name
	case err != nil:
		c.tell(set, pod, "Create", err)
		return err
	}
	c.pending.Created(set.UID, made.UID, types.NamespacedName{Namespace: made.Namespace, Name: made.Name})
	c.tell(set, pod, "Create", nil)
	return nil
}

func (c *Controller) remove(ctx context.Context, set *appsv1.StatefulSet, pod *corev1.Pod) error {
	err := c.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &pod.UID},
	})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	c.tell(set, pod, "Delete", err)
	if err == nil {
		c.pending.Deleted(set.UID, pod.UID, types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name})
	}
	return err
}

// check puts right the label that Services select a single pod by, and who owns the claims.
func (c *Controller) check(ctx context.Context, set *appsv1.StatefulSet, pod *corev1.Pod) error {
	if pod.Labels[appsv1.StatefulSetPodNameLabel] != pod.Name {
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
			"uid": pod.UID, "labels": map[string]string{appsv1.StatefulSetPodNameLabel: pod.Name},
		}})
		if err != nil {
			return fmt.Errorf("label pod %s: %w", pod.Name, err)
		}
		err = c.patchPod(ctx, pod, patch)
		if err != nil && !apierrors.IsNotFound(err) {
			c.tell(set, pod, "Update", err)
			return err
		}
		c.tell(set, pod, "Update", nil)
	}
	for _, want := range claims(set, pod) {
		have, err := c.claims.PersistentVolumeClaims(set.Namespace).Get(want.Name)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return err
		}
		refs, conflict := claimOwners(have, set, pod)
		if equality.Semantic.DeepEqual(refs, have.OwnerReferences) {
			continue
		}
		if conflict {
			c.rec.Eventf(set, corev1.EventTypeWarning, "ConflictingController",
				"PersistentVolumeClaim %s has a conflicting OwnerReference that acts as a manging controller, the retention policy is ignored for this claim", have.Name)
		}
		have = have.DeepCopy()
		have.OwnerReferences = refs
		if _, err := c.client.CoreV1().PersistentVolumeClaims(have.Namespace).Update(ctx, have, metav1.UpdateOptions{}); err != nil {
			err = fmt.Errorf("could not update claim %s for delete policy ownerRefs: %w", have.Name, err)
			c.tell(set, pod, "Update", err)
			return err
		}
	}
	return nil
}

// ensureClaims creates the claims of a pod that are not there.
func (c *Controller) ensureClaims(ctx context.Context, set *appsv1.StatefulSet, pod *corev1.Pod) error {
	var errs []error
	for _, want := range claims(set, pod) {
		have, err := c.claims.PersistentVolumeClaims(want.Namespace).Get(want.Name)
		switch {
		case apierrors.IsNotFound(err):
			_, err = c.client.CoreV1().PersistentVolumeClaims(want.Namespace).Create(ctx, want, metav1.CreateOptions{})
			if apierrors.IsAlreadyExists(err) {
				continue // the cache is behind
			}
			c.tellClaim(set, pod, want.Name, err)
			if err != nil {
				errs = append(errs, fmt.Errorf("failed to create PVC %s: %w", want.Name, err))
			}
		case err != nil:
			errs = append(errs, err)
		case have.DeletionTimestamp != nil:
			errs = append(errs, fmt.Errorf("pvc %s is being deleted", want.Name))
		}
	}
	return errors.Join(errs...)
}

// blocked says whether a claim is still owned by an earlier pod of the name, with which it will be deleted.
func (c *Controller) blocked(set *appsv1.StatefulSet, pod string) bool {
	if _, whenScaled := retention(set); !whenScaled {
		return false
	}
	for i := range set.Spec.VolumeClaimTemplates {
		name := set.Spec.VolumeClaimTemplates[i].Name + "-" + pod
		have, err := c.claims.PersistentVolumeClaims(set.Namespace).Get(name)
		if err == nil && orphanedClaim(have, pod) {
			return true
		}
	}
	return false
}

func (c *Controller) patchPod(ctx context.Context, pod *corev1.Pod, patch []byte) error {
	_, err := c.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	return err
}

func (c *Controller) tell(set *appsv1.StatefulSet, pod *corev1.Pod, verb string, err error) {
	if err == nil {
		c.rec.Eventf(set, corev1.EventTypeNormal, "Successful"+verb, "%s Pod %s in StatefulSet %s successful", verb, pod.Name, set.Name)
	} else {
		c.rec.Eventf(set, corev1.EventTypeWarning, "Failed"+verb, "%s Pod %s in StatefulSet %s failed error: %s", verb, pod.Name, set.Name, err)
	}
}

func (c *Controller) tellClaim(set *appsv1.StatefulSet, pod *corev1.Pod, claim string, err error) {
	if err == nil {
		c.rec.Eventf(set, corev1.EventTypeNormal, "SuccessfulCreate", "Create Claim %s Pod %s in StatefulSet %s success", claim, pod.Name, set.Name)
	} else {
		c.rec.Eventf(set, corev1.EventTypeWarning, "FailedCreate", "Create Claim %s for Pod %s in StatefulSet %s failed error: %s", claim, pod.Name, set.Name, err)
	}
}
