package core

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/mote-edge/mote/controlplane/registry/resource"
)

const unset = "<unset>"

var persistentVolumes = resource.Descriptor[*corev1.PersistentVolume]{
	GV: corev1.SchemeGroupVersion, Plural: "persistentvolumes", Singular: "persistentvolume", Cluster: true, ShortNames: []string{"pv"},
	New:       func() *corev1.PersistentVolume { return &corev1.PersistentVolume{} },
	NewList:   func() runtime.Object { return &corev1.PersistentVolumeList{} },
	HasStatus: true, ReturnDeleted: true,
	Fields: func(v *corev1.PersistentVolume) fields.Set { return fields.Set{"name": v.Name} },
	PrepareCreate: func(_ context.Context, v *corev1.PersistentVolume) {
		now := metav1.Now()
		v.Status.Phase, v.Status.LastPhaseTransitionTime = corev1.VolumePending, &now
	},
	PrepareStatus: func(_ context.Context, v, old *corev1.PersistentVolume) {
		if v.Status.LastPhaseTransitionTime == nil {
			v.Status.LastPhaseTransitionTime = old.Status.LastPhaseTransitionTime
		}
		if v.Status.Phase != old.Status.Phase &&
			(v.Status.LastPhaseTransitionTime == nil || v.Status.LastPhaseTransitionTime.Equal(old.Status.LastPhaseTransitionTime)) {
			now := metav1.Now()
			v.Status.LastPhaseTransitionTime = &now
		}
	},
	Columns: []resource.Column[*corev1.PersistentVolume]{
		resource.Name[*corev1.PersistentVolume](),
		{Name: "Capacity", Value: func(v *corev1.PersistentVolume) any { return size(v.Spec.Capacity) }},
		{Name: "Access Modes", Value: func(v *corev1.PersistentVolume) any { return accessModes(v.Spec.AccessModes) }},
		{Name: "Reclaim Policy", Value: func(v *corev1.PersistentVolume) any { return string(v.Spec.PersistentVolumeReclaimPolicy) }},
		{Name: "Status", Value: func(v *corev1.PersistentVolume) any { return phase(v, string(v.Status.Phase)) }},
		{Name: "Claim", Value: func(v *corev1.PersistentVolume) any {
			if v.Spec.ClaimRef == nil {
				return ""
			}
			return v.Spec.ClaimRef.Namespace + "/" + v.Spec.ClaimRef.Name
		}},
		{Name: "StorageClass", Value: func(v *corev1.PersistentVolume) any {
			if c, ok := v.Annotations[corev1.BetaStorageClassAnnotation]; ok {
				return c
			}
			return v.Spec.StorageClassName
		}},
		{Name: "VolumeAttributesClass", Value: func(v *corev1.PersistentVolume) any { return ptr.Deref(v.Spec.VolumeAttributesClassName, unset) }},
		{Name: "Reason", Value: func(v *corev1.PersistentVolume) any { return v.Status.Reason }},
		resource.Age[*corev1.PersistentVolume](),
		{Name: "VolumeMode", Wide: true, Value: func(v *corev1.PersistentVolume) any { return string(ptr.Deref(v.Spec.VolumeMode, unset)) }},
	},
}

var persistentVolumeClaims = resource.Descriptor[*corev1.PersistentVolumeClaim]{
	GV: corev1.SchemeGroupVersion, Plural: "persistentvolumeclaims", Singular: "persistentvolumeclaim", ShortNames: []string{"pvc"},
	New:       func() *corev1.PersistentVolumeClaim { return &corev1.PersistentVolumeClaim{} },
	NewList:   func() runtime.Object { return &corev1.PersistentVolumeClaimList{} },
	HasStatus: true, ReturnDeleted: true,
	Fields: func(c *corev1.PersistentVolumeClaim) fields.Set { return fields.Set{"name": c.Name} },
	PrepareCreate: func(_ context.Context, c *corev1.PersistentVolumeClaim) {
		c.Status.Phase = corev1.ClaimPending
		normalizeDataSources(&c.Spec)
	},
	PrepareUpdate: func(_ context.Context, c, old *corev1.PersistentVolumeClaim) {
		// Old clients drop dataSourceRef when they write back what they read.
		if old.Spec.DataSource != nil && apiequality.Semantic.DeepEqual(c.Spec.DataSource, old.Spec.DataSource) && c.Spec.DataSourceRef == nil {
			normalizeDataSources(&c.Spec)
		}
	},
	Columns: []resource.Column[*corev1.PersistentVolumeClaim]{
		resource.Name[*corev1.PersistentVolumeClaim](),
		{Name: "Status", Value: func(c *corev1.PersistentVolumeClaim) any { return phase(c, string(c.Status.Phase)) }},
		{Name: "Volume", Value: func(c *corev1.PersistentVolumeClaim) any { return c.Spec.VolumeName }},
		{Name: "Capacity", Value: func(c *corev1.PersistentVolumeClaim) any {
			if c.Spec.VolumeName == "" {
				return ""
			}
			return size(c.Status.Capacity)
		}},
		{Name: "Access Modes", Value: func(c *corev1.PersistentVolumeClaim) any {
			if c.Spec.VolumeName == "" {
				return ""
			}
			return accessModes(c.Status.AccessModes)
		}},
		{Name: "StorageClass", Value: func(c *corev1.PersistentVolumeClaim) any {
			if class, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; ok {
				return class
			}
			return ptr.Deref(c.Spec.StorageClassName, "")
		}},
		{Name: "VolumeAttributesClass", Value: func(c *corev1.PersistentVolumeClaim) any { return ptr.Deref(c.Spec.VolumeAttributesClassName, unset) }},
		resource.Age[*corev1.PersistentVolumeClaim](),
		{Name: "VolumeMode", Wide: true, Value: func(c *corev1.PersistentVolumeClaim) any { return string(ptr.Deref(c.Spec.VolumeMode, unset)) }},
	},
}

// normalizeDataSources keeps the old and the new way to name a data source in
// step, for the kinds that both can name.
func normalizeDataSources(s *corev1.PersistentVolumeClaimSpec) {
	switch {
	case s.DataSource != nil && s.DataSourceRef == nil:
		s.DataSourceRef = &corev1.TypedObjectReference{APIGroup: s.DataSource.APIGroup, Kind: s.DataSource.Kind, Name: s.DataSource.Name}
	case s.DataSource == nil && s.DataSourceRef != nil && ptr.Deref(s.DataSourceRef.Namespace, "") == "":
		s.DataSource = &corev1.TypedLocalObjectReference{APIGroup: s.DataSourceRef.APIGroup, Kind: s.DataSourceRef.Kind, Name: s.DataSourceRef.Name}
	}
}

func size(list corev1.ResourceList) string {
	q := list[corev1.ResourceStorage]
	return q.String()
}

func phase(o metav1.Object, p string) string {
	if o.GetDeletionTimestamp() != nil {
		return "Terminating"
	}
	return p
}

// accessModes abbreviates, in a fixed order.
func accessModes(modes []corev1.PersistentVolumeAccessMode) string {
	has := map[corev1.PersistentVolumeAccessMode]bool{}
	for _, m := range modes {
		has[m] = true
	}
	var short []string
	for _, m := range []struct {
		mode  corev1.PersistentVolumeAccessMode
		short string
	}{{corev1.ReadWriteOnce, "RWO"}, {corev1.ReadOnlyMany, "ROX"}, {corev1.ReadWriteMany, "RWX"}, {corev1.ReadWriteOncePod, "RWOP"}} {
		if has[m.mode] {
			short = append(short, m.short)
		}
	}
	return strings.Join(short, ",")
}
