package admission

import (
	"context"
	"errors"
	"fmt"
	"sort"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/informers"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
)

// defaultStorageClass gives a claim without a class the cluster's default one.
type defaultStorageClass struct {
	classes storagelisters.StorageClassLister
}

var _ admission.MutationInterface = (*defaultStorageClass)(nil)

// Annotations that mark a default class.
const (
	defaultStorageAnnotation = "storageclass.kubernetes.io/is-default-class"
	betaStorageAnnotation    = "volume.beta.kubernetes.io/storage-class"
)

func (*defaultStorageClass) Handles(op admission.Operation) bool { return op == admission.Create }

func (d *defaultStorageClass) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	i := f.Storage().V1().StorageClasses()
	i.Informer()
	d.classes = i.Lister()
}

func (d *defaultStorageClass) ValidateInitialization() error {
	if d.classes == nil {
		return errors.New("the storage class informer is not set")
	}
	return nil
}

func (d *defaultStorageClass) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	claim, ok := a.GetObject().(*corev1.PersistentVolumeClaim)
	if !ok || !on(a, "", "persistentvolumeclaims", "") || claim.Spec.StorageClassName != nil || claim.Annotations[betaStorageAnnotation] != "" {
		return nil
	}
	list, err := d.classes.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list storage classes: %w", err)
	}
	var found *storagev1.StorageClass
	for _, c := range list {
		if c.Annotations[defaultStorageAnnotation] != "true" {
			continue
		}
		// Of several the newest wins, and of equally new ones the first by name.
		if found == nil || c.CreationTimestamp.After(found.CreationTimestamp.Time) ||
			(c.CreationTimestamp.Equal(&found.CreationTimestamp) && c.Name < found.Name) {
			found = c
		}
	}
	if found != nil {
		name := found.Name
		claim.Spec.StorageClassName = &name
	}
	return nil
}

// storageProtection keeps claims and volumes until nobody uses them.
type storageProtection struct{}

var _ admission.MutationInterface = storageProtection{}

func (storageProtection) Handles(op admission.Operation) bool { return op == admission.Create }

func (storageProtection) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	add := func(list *[]string, finalizer string) {
		for _, f := range *list {
			if f == finalizer {
				return
			}
		}
		*list = append(*list, finalizer)
	}
	switch obj := a.GetObject().(type) {
	case *corev1.PersistentVolume:
		if on(a, "", "persistentvolumes", "") {
			add(&obj.Finalizers, "kubernetes.io/pv-protection")
		}
	case *corev1.PersistentVolumeClaim:
		if on(a, "", "persistentvolumeclaims", "") {
			add(&obj.Finalizers, "kubernetes.io/pvc-protection")
		}
	}
	return nil
}

// claimResize lets a claim grow only if its class allows it.
type claimResize struct {
	classes storagelisters.StorageClassLister
}

var _ admission.ValidationInterface = (*claimResize)(nil)

func (*claimResize) Handles(op admission.Operation) bool { return op == admission.Update }

func (c *claimResize) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	c.classes = f.Storage().V1().StorageClasses().Lister()
}

func (c *claimResize) ValidateInitialization() error {
	if c.classes == nil {
		return errors.New("the storage class informer is not set")
	}
	return nil
}

func (c *claimResize) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	claim, ok := a.GetObject().(*corev1.PersistentVolumeClaim)
	old, okOld := a.GetOldObject().(*corev1.PersistentVolumeClaim)
	if !ok || !okOld || !on(a, "", "persistentvolumeclaims", "") {
		return nil
	}
	was, is := old.Spec.Resources.Requests[corev1.ResourceStorage], claim.Spec.Resources.Requests[corev1.ResourceStorage]
	if is.Cmp(was) <= 0 {
		return nil
	}
	if old.Status.Phase != corev1.ClaimBound {
		return admission.NewForbidden(a, errors.New("Only bound persistent volume claims can be expanded"))
	}
	if name := claim.Spec.StorageClassName; name != nil {
		if class, err := c.classes.Get(*name); err == nil && class.AllowVolumeExpansion != nil && *class.AllowVolumeExpansion {
			return nil
		}
	}
	return admission.NewForbidden(a, errors.New("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"))
}

// defaultIngressClass gives an Ingress without a class the cluster's default one.
type defaultIngressClass struct {
	classes networkinglisters.IngressClassLister
}

var _ admission.MutationInterface = (*defaultIngressClass)(nil)

func (*defaultIngressClass) Handles(op admission.Operation) bool { return op == admission.Create }

func (d *defaultIngressClass) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	i := f.Networking().V1().IngressClasses()
	i.Informer()
	d.classes = i.Lister()
}

func (d *defaultIngressClass) ValidateInitialization() error {
	if d.classes == nil {
		return errors.New("the ingress class informer is not set")
	}
	return nil
}

func (d *defaultIngressClass) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	ing, ok := a.GetObject().(*networkingv1.Ingress)
	if !ok || !on(a, networkingv1.GroupName, "ingresses", "") || ing.Spec.IngressClassName != nil || ing.Annotations["kubernetes.io/ingress.class"] != "" {
		return nil
	}
	list, err := d.classes.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list ingress classes: %w", err)
	}
	var defaults []*networkingv1.IngressClass
	for _, c := range list {
		if c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true" {
			defaults = append(defaults, c)
		}
	}
	if len(defaults) == 0 {
		return nil
	}
	sort.Slice(defaults, func(i, j int) bool {
		if defaults[i].CreationTimestamp.Equal(&defaults[j].CreationTimestamp) {
			return defaults[i].Name < defaults[j].Name
		}
		return defaults[i].CreationTimestamp.After(defaults[j].CreationTimestamp.Time)
	})
	name := defaults[0].Name
	ing.Spec.IngressClassName = &name
	return nil
}
