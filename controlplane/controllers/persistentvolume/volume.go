package persistentvolume

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	volumehelper "k8s.io/component-helpers/storage/volume"
)

func (c *Controller) reconcileVolume(ctx context.Context, name string) error {
	v, err := c.volumes.Get(name)
	if apierrors.IsNotFound(err) {
		c.forget(key{name: name})
		return nil
	}
	if err != nil {
		return err
	}
	if v.DeletionTimestamp != nil {
		if v.Status.Phase != corev1.VolumeBound && slices.Contains(v.Finalizers, volumeFinalizer) {
			return c.releaseVolume(ctx, v)
		}
	} else if !slices.Contains(v.Finalizers, volumeFinalizer) {
		return c.protectVolume(ctx, v)
	}
	ref := v.Spec.ClaimRef
	if ref == nil || ref.UID == "" {
		_, err := c.setVolumeStatus(ctx, v, corev1.VolumeAvailable, "")
		return err
	}
	claim, err := c.claimOf(ctx, ref)
	switch {
	case err != nil:
		return err
	case claim == nil:
		return c.reclaim(ctx, v)
	case claim.Spec.VolumeName == v.Name:
		if _, done := claim.Annotations[volumehelper.AnnBindCompleted]; !done {
			c.queue.Add(claimKey(claim))
			return nil
		}
		_, err := c.setVolumeStatus(ctx, v, corev1.VolumeBound, "")
		return err
	case claim.Spec.VolumeName == "":
		if volumehelper.CheckVolumeModeMismatches(&claim.Spec, &v.Spec) {
			c.tell(key{name: v.Name}, v, corev1.EventTypeWarning, "VolumeMismatch", fmt.Sprintf(
				"Cannot bind PersistentVolume to requested PersistentVolumeClaim %q due to incompatible volumeMode.", claim.Name,
			))
			return nil
		}
		c.queue.Add(claimKey(claim)) // the claim's own turn binds it
		return nil
	}
	return c.unbind(ctx, v) // its claim chose another one
}

// claimOf returns the claim that a volume refers to, nil if it is gone. A volume's loss of its claim can't be undone, so
// the API has the last word.
func (c *Controller) claimOf(ctx context.Context, ref *corev1.ObjectReference) (*corev1.PersistentVolumeClaim, error) {
	claim, err := c.claims.PersistentVolumeClaims(ref.Namespace).Get(ref.Name)
	if err == nil && claim.UID == ref.UID {
		return claim, nil
	}
	claim, err = c.cfg.Client.CoreV1().PersistentVolumeClaims(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || (err == nil && claim.UID != ref.UID) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("claim %s/%s: %w", ref.Namespace, ref.Name, err)
	}
	return claim, nil
}

// reclaim does with a volume whose claim is gone what its policy says.
func (c *Controller) reclaim(ctx context.Context, v *corev1.PersistentVolume) error {
	var err error
	if v.Status.Phase != corev1.VolumeReleased && v.Status.Phase != corev1.VolumeFailed {
		if v, err = c.setVolumeStatus(ctx, v, corev1.VolumeReleased, ""); err != nil {
			return err
		}
	}
	fail := func(reason, message string) error {
		if v.Status.Phase == corev1.VolumeFailed {
			return nil
		}
		c.cfg.Recorder.Event(v, corev1.EventTypeWarning, reason, message)
		_, err := c.setVolumeStatus(ctx, v, corev1.VolumeFailed, message)
		return err
	}
	switch v.Spec.PersistentVolumeReclaimPolicy {
	case corev1.PersistentVolumeReclaimDelete:
		if v.Annotations[volumehelper.AnnDynamicallyProvisioned] != "" || v.Spec.CSI != nil {
			return nil // its provisioner deletes it
		}
		return fail("VolumeFailedDelete", fmt.Sprintf("error getting deleter volume plugin for volume %q: no deletable volume plugin matched", v.Name))
	case corev1.PersistentVolumeReclaimRecycle:
		return fail("VolumeFailedRecycle", "No recycler plugin found for the volume!")
	}
	return nil
}

// unbind frees a volume whose claim is bound to another one. A reference that the user set stays, without the UID.
func (c *Controller) unbind(ctx context.Context, v *corev1.PersistentVolume) error {
	fixed := v.DeepCopy()
	if metav1.HasAnnotation(v.ObjectMeta, volumehelper.AnnBoundByController) {
		fixed.Spec.ClaimRef = nil
		delete(fixed.Annotations, volumehelper.AnnBoundByController)
	} else {
		fixed.Spec.ClaimRef.UID = ""
	}
	fixed, err := c.cfg.Client.CoreV1().PersistentVolumes().Update(ctx, fixed, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("volume %s: %w", v.Name, err)
	}
	_, err = c.setVolumeStatus(ctx, fixed, corev1.VolumeAvailable, "")
	return err
}

func (c *Controller) setVolumeStatus(ctx context.Context, v *corev1.PersistentVolume, phase corev1.PersistentVolumePhase, message string) (*corev1.PersistentVolume, error) {
	if v.Status.Phase == phase && v.Status.Message == message {
		return v, nil
	}
	fixed := v.DeepCopy()
	if fixed.Status.Phase != phase {
		now := metav1.Now()
		fixed.Status.LastPhaseTransitionTime = &now
	}
	fixed.Status.Phase, fixed.Status.Message = phase, message
	fixed, err := c.cfg.Client.CoreV1().PersistentVolumes().UpdateStatus(ctx, fixed, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return v, nil
	}
	if err != nil {
		return nil, fmt.Errorf("status of volume %s: %w", v.Name, err)
	}
	return fixed, nil
}
