// Package flowcontrol holds the resources of flowcontrol.apiserver.k8s.io/v1:
// the API server's own fairness between clients.
//
// Reads: the objects it serves.
// Writes: the objects it serves.
package flowcontrol

import (
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/mote-edge/mote/controlplane/registry/resource"
)

// Storages builds everything of flowcontrol.apiserver.k8s.io/v1.
func Storages(c *resource.Config) (resource.Storages, error) {
	to := resource.Storages{}
	return to, resource.AddAll(c, to, &schemas, &levels)
}

var schemas = resource.Descriptor[*flowcontrolv1.FlowSchema]{
	GV: flowcontrolv1.SchemeGroupVersion, Plural: "flowschemas", Singular: "flowschema", Cluster: true,
	New:       func() *flowcontrolv1.FlowSchema { return &flowcontrolv1.FlowSchema{} },
	NewList:   func() runtime.Object { return &flowcontrolv1.FlowSchemaList{} },
	HasStatus: true, StatusKeepsMeta: true, Generation: true,
	Columns: []resource.Column[*flowcontrolv1.FlowSchema]{
		resource.Name[*flowcontrolv1.FlowSchema](),
		{Name: "PriorityLevel", Value: func(f *flowcontrolv1.FlowSchema) any { return f.Spec.PriorityLevelConfiguration.Name }},
		{Name: "MatchingPrecedence", Value: func(f *flowcontrolv1.FlowSchema) any { return int64(f.Spec.MatchingPrecedence) }},
		{Name: "DistinguisherMethod", Value: func(f *flowcontrolv1.FlowSchema) any {
			if f.Spec.DistinguisherMethod == nil {
				return resource.None
			}
			return string(f.Spec.DistinguisherMethod.Type)
		}},
		resource.Age[*flowcontrolv1.FlowSchema](),
		{Name: "MissingPL", Doc: "references a broken or non-existent PriorityLevelConfiguration", Value: func(f *flowcontrolv1.FlowSchema) any {
			for _, c := range f.Status.Conditions {
				if c.Type == flowcontrolv1.FlowSchemaConditionDangling {
					return string(c.Status)
				}
			}
			return "?"
		}},
	},
}

var levels = resource.Descriptor[*flowcontrolv1.PriorityLevelConfiguration]{
	GV: flowcontrolv1.SchemeGroupVersion, Plural: "prioritylevelconfigurations", Singular: "prioritylevelconfiguration", Cluster: true,
	New:       func() *flowcontrolv1.PriorityLevelConfiguration { return &flowcontrolv1.PriorityLevelConfiguration{} },
	NewList:   func() runtime.Object { return &flowcontrolv1.PriorityLevelConfigurationList{} },
	HasStatus: true, StatusKeepsMeta: true, Generation: true,
	Columns: []resource.Column[*flowcontrolv1.PriorityLevelConfiguration]{
		resource.Name[*flowcontrolv1.PriorityLevelConfiguration](),
		{Name: "Type", Value: func(l *flowcontrolv1.PriorityLevelConfiguration) any { return string(l.Spec.Type) }},
		{Name: "NominalConcurrencyShares", Value: func(l *flowcontrolv1.PriorityLevelConfiguration) any {
			if l.Spec.Limited == nil {
				return resource.None
			}
			return ptr.Deref(l.Spec.Limited.NominalConcurrencyShares, 0)
		}},
		{Name: "Queues", Value: queuing(func(q *flowcontrolv1.QueuingConfiguration) int32 { return q.Queues })},
		{Name: "HandSize", Value: queuing(func(q *flowcontrolv1.QueuingConfiguration) int32 { return q.HandSize })},
		{Name: "QueueLengthLimit", Value: queuing(func(q *flowcontrolv1.QueuingConfiguration) int32 { return q.QueueLengthLimit })},
		resource.Age[*flowcontrolv1.PriorityLevelConfiguration](),
	},
}

func queuing(of func(*flowcontrolv1.QueuingConfiguration) int32) func(*flowcontrolv1.PriorityLevelConfiguration) any {
	return func(l *flowcontrolv1.PriorityLevelConfiguration) any {
		if l.Spec.Limited == nil || l.Spec.Limited.LimitResponse.Queuing == nil {
			return resource.None
		}
		return of(l.Spec.Limited.LimitResponse.Queuing)
	}
}
