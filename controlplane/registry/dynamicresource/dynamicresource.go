// Package dynamicresource holds the resources of resource.k8s.io/v1 (dynamic
// resource allocation). The scheduler allocates devices to claims, controllers make
// claims from templates and give them back.
//
// Reads: the objects it serves.
// Writes: the objects it serves.
package dynamicresource

import (
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/mote-edge/mote/controlplane/registry/resource"
)

// Storages builds everything of resource.k8s.io/v1.
func Storages(c *resource.Config) (resource.Storages, error) {
	to := resource.Storages{}
	return to, resource.AddAll(c, to, &classes, &claims, &templates, &slices, &taintRules)
}

var classes = resource.Descriptor[*resourcev1.DeviceClass]{
	GV: resourcev1.SchemeGroupVersion, Plural: "deviceclasses", Singular: "deviceclass", Cluster: true,
	New:           func() *resourcev1.DeviceClass { return &resourcev1.DeviceClass{} },
	NewList:       func() runtime.Object { return &resourcev1.DeviceClassList{} },
	Generation:    true,
	ReturnDeleted: true,
	Columns: []resource.Column[*resourcev1.DeviceClass]{
		resource.Name[*resourcev1.DeviceClass](), resource.Age[*resourcev1.DeviceClass](),
	},
}

var claims = resource.Descriptor[*resourcev1.ResourceClaim]{
	GV: resourcev1.SchemeGroupVersion, Plural: "resourceclaims", Singular: "resourceclaim",
	New:       func() *resourcev1.ResourceClaim { return &resourcev1.ResourceClaim{} },
	NewList:   func() runtime.Object { return &resourcev1.ResourceClaimList{} },
	HasStatus: true, StatusKeepsMeta: true, ReturnDeleted: true,
	Columns: []resource.Column[*resourcev1.ResourceClaim]{
		resource.Name[*resourcev1.ResourceClaim](),
		{Name: "State", Doc: "A summary of the current state (allocated, pending, reserved, etc.).", Value: claimState},
		resource.Age[*resourcev1.ResourceClaim](),
	},
}

func claimState(c *resourcev1.ResourceClaim) any {
	var states []string
	if c.DeletionTimestamp != nil {
		states = append(states, "deleted")
	}
	switch {
	case c.Status.Allocation != nil:
		states = append(states, "allocated")
		if len(c.Status.ReservedFor) > 0 {
			states = append(states, "reserved")
		}
	case c.DeletionTimestamp == nil:
		states = append(states, "pending")
	}
	return strings.Join(states, ",")
}

var templates = resource.Descriptor[*resourcev1.ResourceClaimTemplate]{
	GV: resourcev1.SchemeGroupVersion, Plural: "resourceclaimtemplates", Singular: "resourceclaimtemplate",
	New:           func() *resourcev1.ResourceClaimTemplate { return &resourcev1.ResourceClaimTemplate{} },
	NewList:       func() runtime.Object { return &resourcev1.ResourceClaimTemplateList{} },
	ReturnDeleted: true,
	Columns: []resource.Column[*resourcev1.ResourceClaimTemplate]{
		resource.Name[*resourcev1.ResourceClaimTemplate](), resource.Age[*resourcev1.ResourceClaimTemplate](),
	},
}

var slices = resource.Descriptor[*resourcev1.ResourceSlice]{
	GV: resourcev1.SchemeGroupVersion, Plural: "resourceslices", Singular: "resourceslice", Cluster: true,
	New:        func() *resourcev1.ResourceSlice { return &resourcev1.ResourceSlice{} },
	NewList:    func() runtime.Object { return &resourcev1.ResourceSliceList{} },
	Generation: true, ReturnDeleted: true,
	Fields: func(s *resourcev1.ResourceSlice) fields.Set {
		return fields.Set{
			resourcev1.ResourceSliceSelectorNodeName: ptr.Deref(s.Spec.NodeName, ""),
			resourcev1.ResourceSliceSelectorDriver:   s.Spec.Driver,
			resourcev1.ResourceSliceSelectorPoolName: s.Spec.Pool.Name,
		}
	},
	Columns: []resource.Column[*resourcev1.ResourceSlice]{
		resource.Name[*resourcev1.ResourceSlice](),
		{Name: "Node", Value: func(s *resourcev1.ResourceSlice) any { return ptr.Deref(s.Spec.NodeName, "") }},
		{Name: "Driver", Value: func(s *resourcev1.ResourceSlice) any { return s.Spec.Driver }},
		{Name: "Pool", Value: func(s *resourcev1.ResourceSlice) any { return s.Spec.Pool.Name }},
		resource.Age[*resourcev1.ResourceSlice](),
	},
}

var taintRules = resource.Descriptor[*resourcev1.DeviceTaintRule]{
	GV: resourcev1.SchemeGroupVersion, Plural: "devicetaintrules", Singular: "devicetaintrule", Cluster: true,
	New:        func() *resourcev1.DeviceTaintRule { return &resourcev1.DeviceTaintRule{} },
	NewList:    func() runtime.Object { return &resourcev1.DeviceTaintRuleList{} },
	Generation: true, HasStatus: true, StatusKeepsMeta: true, ReturnDeleted: true,
	Columns: []resource.Column[*resourcev1.DeviceTaintRule]{
		resource.Name[*resourcev1.DeviceTaintRule](),
		{Name: "Key", Value: func(r *resourcev1.DeviceTaintRule) any { return r.Spec.Taint.Key }},
		{Name: "Value", Value: func(r *resourcev1.DeviceTaintRule) any { return r.Spec.Taint.Value }},
		{Name: "Effect", Value: func(r *resourcev1.DeviceTaintRule) any { return string(r.Spec.Taint.Effect) }},
		{Name: "TimeAdded", Value: func(r *resourcev1.DeviceTaintRule) any {
			if r.Spec.Taint.TimeAdded == nil {
				return ""
			}
			return resource.Since(*r.Spec.Taint.TimeAdded)
		}},
		resource.Age[*resourcev1.DeviceTaintRule](),
	},
}
