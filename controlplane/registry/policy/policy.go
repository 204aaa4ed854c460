// Package policy holds the pod disruption budgets of policy/v1.
//
// Reads: the objects it serves.
// Writes: the objects it serves.
package policy

import (
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/mote-edge/mote/controlplane/registry/resource"
)

// Storages builds everything of policy/v1.
func Storages(c *resource.Config) (resource.Storages, error) {
	to := resource.Storages{}
	return to, resource.AddAll(c, to, &Budgets)
}

// Budgets are the pod disruption budgets.
var Budgets = resource.Descriptor[*policyv1.PodDisruptionBudget]{
	GV: policyv1.SchemeGroupVersion, Plural: "poddisruptionbudgets", Singular: "poddisruptionbudget", ShortNames: []string{"pdb"},
	New:       func() *policyv1.PodDisruptionBudget { return &policyv1.PodDisruptionBudget{} },
	NewList:   func() runtime.Object { return &policyv1.PodDisruptionBudgetList{} },
	HasStatus: true, Generation: true, NeedsResourceVersion: true,
	Columns: []resource.Column[*policyv1.PodDisruptionBudget]{
		resource.Name[*policyv1.PodDisruptionBudget](),
		{
			Name: "Min Available", Doc: "The minimum number of pods that must be available.",
			Value: func(p *policyv1.PodDisruptionBudget) any { return orNA(p.Spec.MinAvailable) },
		},
		{
			Name: "Max Unavailable", Doc: "The maximum number of pods that may be unavailable.",
			Value: func(p *policyv1.PodDisruptionBudget) any { return orNA(p.Spec.MaxUnavailable) },
		},
		{
			Name: "Allowed Disruptions", Type: "integer", Doc: "Calculated number of pods that may be disrupted at this time.",
			Value: func(p *policyv1.PodDisruptionBudget) any { return int64(p.Status.DisruptionsAllowed) },
		},
		resource.Age[*policyv1.PodDisruptionBudget](),
	},
}

func orNA(v *intstr.IntOrString) string {
	if v == nil {
		return "N/A"
	}
	return v.String()
}
