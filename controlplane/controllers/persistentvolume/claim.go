package persistentvolume

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	volumehelper "k8s.io/component-helpers/storage/volume"
)

const defaultClassAnnotation = "storageclass.kubernetes.io/is-default-class"

func (c *Controller) reconcileClaim(ctx context.Context, k key) error {
	claim, err := c.claims.PersistentVolumeClaims(k.namespace).Get(k.name)
	if apierrors.IsNotFound(err) {
		c.forget(k)
		return nil
	}
	if err != nil {
		return err
	}
	if claim.DeletionTimestamp != nil {
		if err := c.releaseClaim(ctx, claim); err != nil {
			return err
		}
	} else if !slices.Contains(claim.Finalizers, claimFinalizer) {
		if err := c.protectClaim(ctx, claim); err != nil || claim.Status.Phase == "" {
			return err
		}
	}
	if metav1.HasAnnotation(claim.ObjectMeta, volumehelper.AnnBindCompleted) {
		return c.keepBound(ctx, claim)
	}
	if claim.DeletionTimestamp != nil {
		return nil
	}
	if claim.Spec.VolumeName == "" {
		return c.findVolume(ctx, k, claim)
	}
	return c.bindNamed(ctx, k, claim)
}

// keepBound checks that a bound claim still has its volume, and finishes a binding that was cut short.
func (c *Controller) keepBound(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	lost := func(reason, message string) error {
		if claim.Status.Phase != corev1.ClaimLost {
			c.cfg.Recorder.Event(claim, corev1.EventTypeWarning, reason, message)
		}
		return c.setClaimStatus(ctx, claim, corev1.ClaimLost, nil)
	}
	if claim.Spec.VolumeName == "" {
		return lost("ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
	}
	v, err := c.volumes.Get(claim.Spec.VolumeName)
	if apierrors.IsNotFound(err) {
		// The cache of volumes may be behind the one of claims.
		v, err = c.cfg.Client.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
	}
	switch {
	case apierrors.IsNotFound(err):
		return lost("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
	case err != nil:
		return err
	case v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID == claim.UID:
		return c.bind(ctx, v, claim)
	}
	return lost("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
}

// findVolume looks for a volume for a claim that doesn't name one.
func (c *Controller) findVolume(ctx context.Context, k key, claim *corev1.PersistentVolumeClaim) error {
	waits, err := volumehelper.IsDelayBindingMode(claim, c.classes)
	if err != nil {
		return fmt.Errorf("claim %s/%s: %w", k.namespace, k.name, err)
	}
	all, err := c.volumes.List(labels.Everything())
	if err != nil {
		return err
	}
	candidates := slices.DeleteFunc(slices.Clone(all), func(v *corev1.PersistentVolume) bool { return !volumehelper.CheckAccessModes(claim, v) })
	v, err := volumehelper.FindMatchingVolume(claim, candidates, nil, nil, waits, true)
	if err != nil {
		return fmt.Errorf("claim %s/%s: %w", k.namespace, k.name, err)
	}
	if v != nil {
		return c.bind(ctx, v, claim)
	}
	if claim.Spec.StorageClassName == nil && claim.Annotations[corev1.BetaStorageClassAnnotation] == "" {
		if class := c.defaultClass(); class != "" {
			fixed := claim.DeepCopy()
			fixed.Spec.StorageClassName = &class
			return c.updateClaim(ctx, fixed)
		}
	}
	class := volumehelper.GetPersistentVolumeClaimClass(claim)
	switch {
	case waits && !volumehelper.IsDelayBindingProvisioning(claim):
		c.tell(k, claim, corev1.EventTypeNormal, "WaitForFirstConsumer", "waiting for first consumer to be created before binding")
	case class != "":
		if err := c.provision(ctx, k, claim, class); err != nil {
			return err
		}
	default:
		c.tell(k, claim, corev1.EventTypeNormal, "FailedBinding", "no persistent volumes available for this claim and no storage class is set")
	}
	return c.setClaimStatus(ctx, claim, corev1.ClaimPending, nil)
}

// provision hands a claim to the provisioner of its class.
func (c *Controller) provision(ctx context.Context, k key, claim *corev1.PersistentVolumeClaim, name string) error {
	class, err := c.classes.Get(name)
	if apierrors.IsNotFound(err) {
		c.tell(k, claim, corev1.EventTypeWarning, "ProvisioningFailed", err.Error())
		return nil
	}
	if err != nil || class.Provisioner == volumehelper.NotSupportedProvisioner {
		return err
	}
	c.tell(k, claim, corev1.EventTypeNormal, "ExternalProvisioning", fmt.Sprintf(
		"Waiting for a volume to be created either by the external provisioner '%s' or manually by the system administrator. "+
			"If volume creation is delayed, please verify that the provisioner is running and correctly registered.", class.Provisioner,
	))
	if claim.Annotations[volumehelper.AnnStorageProvisioner] == class.Provisioner {
		return nil
	}
	fixed := claim.DeepCopy()
	metav1.SetMetaDataAnnotation(&fixed.ObjectMeta, volumehelper.AnnBetaStorageProvisioner, class.Provisioner)
	metav1.SetMetaDataAnnotation(&fixed.ObjectMeta, volumehelper.AnnStorageProvisioner, class.Provisioner)
	return c.updateClaim(ctx, fixed)
}

// defaultClass is the youngest of the classes marked as default.
func (c *Controller) defaultClass() string {
	all, err := c.classes.List(labels.Everything())
	if err != nil {
		return "" // a lister over a cache doesn't fail
	}
	var best *storagev1.StorageClass
	for _, s := range all {
		if s.Annotations[defaultClassAnnotation] != "true" {
			continue
		}
		if best == nil || best.CreationTimestamp.Before(&s.CreationTimestamp) || (best.CreationTimestamp.Equal(&s.CreationTimestamp) && s.Name < best.Name) {
			best = s
		}
	}
	if best == nil {
		return ""
	}
	return best.Name
}

// bindNamed binds a claim to the volume that it names.
func (c *Controller) bindNamed(ctx context.Context, k key, claim *corev1.PersistentVolumeClaim) error {
	v, err := c.volumes.Get(claim.Spec.VolumeName)
	switch {
	case apierrors.IsNotFound(err):
		return c.setClaimStatus(ctx, claim, corev1.ClaimPending, nil)
	case err != nil:
		return err
	case v.Spec.ClaimRef == nil:
		if err := satisfies(v, claim); err != nil {
			c.tell(k, claim, corev1.EventTypeWarning, "VolumeMismatch", fmt.Sprintf("Cannot bind to requested volume %q: %s", v.Name, err))
			return c.setClaimStatus(ctx, claim, corev1.ClaimPending, nil)
		}
		return c.bind(ctx, v, claim)
	case volumehelper.IsVolumeBoundToClaim(v, claim):
		return c.bind(ctx, v, claim)
	}
	c.tell(k, claim, corev1.EventTypeWarning, "FailedBinding", fmt.Sprintf("volume %q already bound to a different claim.", v.Name))
	return c.setClaimStatus(ctx, claim, corev1.ClaimPending, nil)
}

// satisfies says why a volume that a claim names can't be its.
func satisfies(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) error {
	want, have := claim.Spec.Resources.Requests[corev1.ResourceStorage], v.Spec.Capacity[corev1.ResourceStorage]
	switch {
	case v.DeletionTimestamp != nil:
		return errors.New("the volume is marked for deletion")
	case have.Cmp(want) < 0:
		return errors.New("requested PV is too small")
	case volumehelper.GetPersistentVolumeClass(v) != volumehelper.GetPersistentVolumeClaimClass(claim):
		return errors.New("storageClassName does not match")
	case volumehelper.CheckVolumeModeMismatches(&claim.Spec, &v.Spec):
		return errors.New("incompatible volumeMode")
	case !volumehelper.CheckAccessModes(claim, v):
		return errors.New("incompatible accessMode")
	}
	return nil
}

// bind ties a volume and a claim together, the volume first, in steps of which any may be the last for now.
func (c *Controller) bind(ctx context.Context, v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) error {
	api := c.cfg.Client.CoreV1()
	bound, dirty, err := volumehelper.GetBindVolumeToClaim(v, claim)
	if err != nil {
		return err
	}
	if dirty {
		if bound, err = api.PersistentVolumes().Update(ctx, bound, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("binding volume %s: %w", v.Name, err)
		}
	}
	if bound.Status.Phase != corev1.VolumeBound {
		if bound, err = c.setVolumeStatus(ctx, bound, corev1.VolumeBound, ""); err != nil {
			return err
		}
	}
	fixed := claim.DeepCopy()
	if fixed.Spec.VolumeName != v.Name {
		fixed.Spec.VolumeName = v.Name
		metav1.SetMetaDataAnnotation(&fixed.ObjectMeta, volumehelper.AnnBoundByController, "yes")
	}
	if !metav1.HasAnnotation(fixed.ObjectMeta, volumehelper.AnnBindCompleted) {
		metav1.SetMetaDataAnnotation(&fixed.ObjectMeta, volumehelper.AnnBindCompleted, "yes")
	}
	if !equality.Semantic.DeepEqual(fixed.ObjectMeta, claim.ObjectMeta) || fixed.Spec.VolumeName != claim.Spec.VolumeName {
		if fixed, err = api.PersistentVolumeClaims(claim.Namespace).Update(ctx, fixed, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("binding claim %s/%s: %w", claim.Namespace, claim.Name, err)
		}
	}
	return c.setClaimStatus(ctx, fixed, corev1.ClaimBound, bound)
}

func (c *Controller) updateClaim(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	_, err := c.cfg.Client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, claim, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("claim %s/%s: %w", claim.Namespace, claim.Name, err)
	}
	return nil
}

// setClaimStatus writes a claim's phase, and what it got from the volume, if that is new.
func (c *Controller) setClaimStatus(ctx context.Context, claim *corev1.PersistentVolumeClaim, phase corev1.PersistentVolumeClaimPhase, v *corev1.PersistentVolume) error {
	fixed := claim.DeepCopy()
	fixed.Status.Phase = phase
	if v == nil {
		fixed.Status.AccessModes, fixed.Status.Capacity = nil, nil
	} else {
		fixed.Status.AccessModes = slices.Clone(v.Spec.AccessModes)
		size := v.Spec.Capacity[corev1.ResourceStorage]
		// A volume that was expanded has its size in the claim's status before the volume's spec says so.
		if claim.Status.Phase != corev1.ClaimBound || claim.Status.Capacity == nil {
			fixed.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: size}
		}
		fixed.Status.CurrentVolumeAttributesClassName = v.Spec.VolumeAttributesClassName
	}
	if equality.Semantic.DeepEqual(fixed.Status, claim.Status) {
		return nil
	}
	_, err := c.cfg.Client.CoreV1().PersistentVolumeClaims(claim.Namespace).UpdateStatus(ctx, fixed, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("status of claim %s/%s: %w", claim.Namespace, claim.Name, err)
	}
	return nil
}
