// Package storage holds the resources of storage.k8s.io/v1: classes of volumes,
// CSI drivers and what they report, and volume attachments.
//
// Reads: the objects it serves.
// Writes: the objects it serves.
package storage

import (
	"context"
	"strings"

	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/mote-edge/mote/controlplane/registry/resource"
)

// Storages builds everything of storage.k8s.io/v1.
func Storages(c *resource.Config) (resource.Storages, error) {
	to := resource.Storages{}
	return to, resource.AddAll(c, to, &classes, &attributesClasses, &drivers, &nodes, &capacities, &attachments)
}

const unset = "<unset>"

var classes = resource.Descriptor[*storagev1.StorageClass]{
	GV: storagev1.SchemeGroupVersion, Plural: "storageclasses", Singular: "storageclass", Cluster: true, ShortNames: []string{"sc"},
	New:           func() *storagev1.StorageClass { return &storagev1.StorageClass{} },
	NewList:       func() runtime.Object { return &storagev1.StorageClassList{} },
	ReturnDeleted: true,
	Columns: []resource.Column[*storagev1.StorageClass]{
		{Name: "Name", Value: func(c *storagev1.StorageClass) any {
			// The beta key is what old charts still set.
			if c.Annotations["storageclass.kubernetes.io/is-default-class"] == "true" ||
				c.Annotations["storageclass.beta.kubernetes.io/is-default-class"] == "true" {
				return c.Name + " (default)"
			}
			return c.Name
		}},
		{Name: "Provisioner", Value: func(c *storagev1.StorageClass) any { return c.Provisioner }},
		{Name: "ReclaimPolicy", Value: func(c *storagev1.StorageClass) any { return string(ptr.Deref(c.ReclaimPolicy, "Delete")) }},
		{Name: "VolumeBindingMode", Value: func(c *storagev1.StorageClass) any { return string(ptr.Deref(c.VolumeBindingMode, "Immediate")) }},
		{Name: "AllowVolumeExpansion", Value: func(c *storagev1.StorageClass) any { return ptr.Deref(c.AllowVolumeExpansion, false) }},
		resource.Age[*storagev1.StorageClass](),
	},
}

var attributesClasses = resource.Descriptor[*storagev1.VolumeAttributesClass]{
	GV: storagev1.SchemeGroupVersion, Plural: "volumeattributesclasses", Singular: "volumeattributesclass", Cluster: true, ShortNames: []string{"vac"},
	New:           func() *storagev1.VolumeAttributesClass { return &storagev1.VolumeAttributesClass{} },
	NewList:       func() runtime.Object { return &storagev1.VolumeAttributesClassList{} },
	ReturnDeleted: true,
	Columns: []resource.Column[*storagev1.VolumeAttributesClass]{
		resource.Name[*storagev1.VolumeAttributesClass](),
		{Name: "DriverName", Value: func(c *storagev1.VolumeAttributesClass) any { return c.DriverName }},
		resource.Age[*storagev1.VolumeAttributesClass](),
	},
}

var drivers = resource.Descriptor[*storagev1.CSIDriver]{
	GV: storagev1.SchemeGroupVersion, Plural: "csidrivers", Singular: "csidriver", Cluster: true,
	New:           func() *storagev1.CSIDriver { return &storagev1.CSIDriver{} },
	NewList:       func() runtime.Object { return &storagev1.CSIDriverList{} },
	ReturnDeleted: true, NeedsResourceVersion: true,
	PrepareUpdate: func(_ context.Context, d, old *storagev1.CSIDriver) {
		// Of a CSIDriver's spec only these may change.
		if !apiequality.Semantic.DeepEqual(d.Spec.TokenRequests, old.Spec.TokenRequests) ||
			!apiequality.Semantic.DeepEqual(d.Spec.RequiresRepublish, old.Spec.RequiresRepublish) {
			d.Generation = old.Generation + 1
		}
	},
	Columns: []resource.Column[*storagev1.CSIDriver]{
		resource.Name[*storagev1.CSIDriver](),
		{Name: "AttachRequired", Type: "boolean", Value: func(d *storagev1.CSIDriver) any { return ptr.Deref(d.Spec.AttachRequired, true) }},
		{Name: "PodInfoOnMount", Type: "boolean", Value: func(d *storagev1.CSIDriver) any { return ptr.Deref(d.Spec.PodInfoOnMount, false) }},
		{Name: "StorageCapacity", Type: "boolean", Value: func(d *storagev1.CSIDriver) any { return ptr.Deref(d.Spec.StorageCapacity, false) }},
		{Name: "TokenRequests", Value: func(d *storagev1.CSIDriver) any {
			if d.Spec.TokenRequests == nil {
				return unset
			}
			var audiences []string
			for _, t := range d.Spec.TokenRequests {
				audiences = append(audiences, t.Audience)
			}
			return strings.Join(audiences, ",")
		}},
		{Name: "RequiresRepublish", Type: "boolean", Value: func(d *storagev1.CSIDriver) any { return ptr.Deref(d.Spec.RequiresRepublish, false) }},
		{Name: "Modes", Value: func(d *storagev1.CSIDriver) any {
			var modes []string
			for _, m := range d.Spec.VolumeLifecycleModes {
				modes = append(modes, string(m))
			}
			return resource.OrNone(strings.Join(modes, ","))
		}},
		resource.Age[*storagev1.CSIDriver](),
	},
}

var nodes = resource.Descriptor[*storagev1.CSINode]{
	GV: storagev1.SchemeGroupVersion, Plural: "csinodes", Singular: "csinode", Cluster: true,
	New:       func() *storagev1.CSINode { return &storagev1.CSINode{} },
	NewList:   func() runtime.Object { return &storagev1.CSINodeList{} },
	HasStatus: true, ReturnDeleted: true, NeedsResourceVersion: true,
	Columns: []resource.Column[*storagev1.CSINode]{
		resource.Name[*storagev1.CSINode](),
		{Name: "Drivers", Type: "integer", Value: func(n *storagev1.CSINode) any { return int64(len(n.Spec.Drivers)) }},
		resource.Age[*storagev1.CSINode](),
	},
}

var capacities = resource.Descriptor[*storagev1.CSIStorageCapacity]{
	GV: storagev1.SchemeGroupVersion, Plural: "csistoragecapacities", Singular: "csistoragecapacity",
	New:                  func() *storagev1.CSIStorageCapacity { return &storagev1.CSIStorageCapacity{} },
	NewList:              func() runtime.Object { return &storagev1.CSIStorageCapacityList{} },
	NeedsResourceVersion: true,
}

var attachments = resource.Descriptor[*storagev1.VolumeAttachment]{
	GV: storagev1.SchemeGroupVersion, Plural: "volumeattachments", Singular: "volumeattachment", Cluster: true,
	New:       func() *storagev1.VolumeAttachment { return &storagev1.VolumeAttachment{} },
	NewList:   func() runtime.Object { return &storagev1.VolumeAttachmentList{} },
	HasStatus: true, StatusKeepsMeta: true, ReturnDeleted: true, NeedsResourceVersion: true,
	Columns: []resource.Column[*storagev1.VolumeAttachment]{
		resource.Name[*storagev1.VolumeAttachment](),
		{Name: "Attacher", Value: func(a *storagev1.VolumeAttachment) any { return a.Spec.Attacher }},
		{Name: "PV", Value: func(a *storagev1.VolumeAttachment) any { return ptr.Deref(a.Spec.Source.PersistentVolumeName, "") }},
		{Name: "Node", Value: func(a *storagev1.VolumeAttachment) any { return a.Spec.NodeName }},
		{Name: "Attached", Type: "boolean", Value: func(a *storagev1.VolumeAttachment) any { return a.Status.Attached }},
		resource.Age[*storagev1.VolumeAttachment](),
	},
}
