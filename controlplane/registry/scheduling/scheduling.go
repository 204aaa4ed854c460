// Package scheduling holds the priority classes of scheduling.k8s.io/v1.
//
// Reads: the objects it serves.
// Writes: the objects it serves.
package scheduling

import (
	"context"

	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/mote-edge/mote/controlplane/registry/resource"
)

// Storages builds everything of scheduling.k8s.io/v1.
func Storages(c *resource.Config) (resource.Storages, error) {
	to := resource.Storages{}
	return to, resource.AddAll(c, to, &classes)
}

var classes = resource.Descriptor[*schedulingv1.PriorityClass]{
	GV: schedulingv1.SchemeGroupVersion, Plural: "priorityclasses", Singular: "priorityclass", Cluster: true, ShortNames: []string{"pc"},
	New:           func() *schedulingv1.PriorityClass { return &schedulingv1.PriorityClass{} },
	NewList:       func() runtime.Object { return &schedulingv1.PriorityClassList{} },
	PrepareCreate: func(_ context.Context, p *schedulingv1.PriorityClass) { p.Generation = 1 },
	Columns: []resource.Column[*schedulingv1.PriorityClass]{
		resource.Name[*schedulingv1.PriorityClass](),
		{Name: "Value", Type: "integer", Value: func(p *schedulingv1.PriorityClass) any { return int64(p.Value) }},
		{Name: "Global-Default", Type: "boolean", Value: func(p *schedulingv1.PriorityClass) any { return p.GlobalDefault }},
		resource.Age[*schedulingv1.PriorityClass](),
		{Name: "PreemptionPolicy", Value: func(p *schedulingv1.PriorityClass) any { return string(ptr.Deref(p.PreemptionPolicy, "")) }},
	},
}
