// Package node holds the runtime classes of node.k8s.io/v1.
//
// Reads: the objects it serves.
// Writes: the objects it serves.
package node

import (
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/mote-edge/mote/controlplane/registry/resource"
)

// Storages builds everything of node.k8s.io/v1.
func Storages(c *resource.Config) (resource.Storages, error) {
	to := resource.Storages{}
	return to, resource.AddAll(c, to, &classes)
}

var classes = resource.Descriptor[*nodev1.RuntimeClass]{
	GV: nodev1.SchemeGroupVersion, Plural: "runtimeclasses", Singular: "runtimeclass", Cluster: true,
	New:            func() *nodev1.RuntimeClass { return &nodev1.RuntimeClass{} },
	NewList:        func() runtime.Object { return &nodev1.RuntimeClassList{} },
	CreateOnUpdate: true, NeedsResourceVersion: true,
	Columns: []resource.Column[*nodev1.RuntimeClass]{
		resource.Name[*nodev1.RuntimeClass](),
		{Name: "Handler", Value: func(c *nodev1.RuntimeClass) any { return c.Handler }},
		resource.Age[*nodev1.RuntimeClass](),
	},
}
