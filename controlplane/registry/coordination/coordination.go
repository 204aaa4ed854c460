// Package coordination holds the leases of coordination.k8s.io/v1.
//
// Reads: the objects it serves.
// Writes: the objects it serves.
package coordination

import (
	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/mote-edge/mote/controlplane/registry/resource"
)

// Storages builds everything of coordination.k8s.io/v1.
func Storages(c *resource.Config) (resource.Storages, error) {
	to := resource.Storages{}
	return to, resource.AddAll(c, to, &leases)
}

var leases = resource.Descriptor[*coordinationv1.Lease]{
	GV: coordinationv1.SchemeGroupVersion, Plural: "leases", Cached: true, Singular: "lease",
	New:            func() *coordinationv1.Lease { return &coordinationv1.Lease{} },
	NewList:        func() runtime.Object { return &coordinationv1.LeaseList{} },
	CreateOnUpdate: true, NeedsResourceVersion: true,
	Columns: []resource.Column[*coordinationv1.Lease]{
		resource.Name[*coordinationv1.Lease](),
		{Name: "Holder", Value: func(l *coordinationv1.Lease) any { return ptr.Deref(l.Spec.HolderIdentity, "") }},
		resource.Age[*coordinationv1.Lease](),
	},
}
