// Package admissionregistration holds the webhook configurations and admission
// policies of admissionregistration.k8s.io/v1.
//
// Reads: the objects it serves.
// Writes: the objects it serves.
package admissionregistration

import (
	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/mote-edge/mote/controlplane/registry/resource"
)

// Storages builds everything of admissionregistration.k8s.io/v1.
func Storages(c *resource.Config) (resource.Storages, error) {
	to := resource.Storages{}
	return to, resource.AddAll(c, to, &mutatingWebhooks, &validatingWebhooks,
		&validatingPolicies, &validatingBindings, &mutatingPolicies, &mutatingBindings)
}

const unset = "<unset>"

var extensions = []string{"api-extensions"}

var mutatingWebhooks = resource.Descriptor[*admissionv1.MutatingWebhookConfiguration]{
	GV: admissionv1.SchemeGroupVersion, Plural: "mutatingwebhookconfigurations", Singular: "mutatingwebhookconfiguration", Cluster: true,
	Categories: extensions,
	New:        func() *admissionv1.MutatingWebhookConfiguration { return &admissionv1.MutatingWebhookConfiguration{} },
	NewList:    func() runtime.Object { return &admissionv1.MutatingWebhookConfigurationList{} },
	Generation: true, GenerationOf: func(w *admissionv1.MutatingWebhookConfiguration) any { return w.Webhooks },
	NeedsResourceVersion: true,
	Columns: []resource.Column[*admissionv1.MutatingWebhookConfiguration]{
		resource.Name[*admissionv1.MutatingWebhookConfiguration](),
		{
			Name: "Webhooks", Type: "integer", Doc: "Webhooks indicates the number of webhooks registered in this configuration",
			Value: func(w *admissionv1.MutatingWebhookConfiguration) any { return int64(len(w.Webhooks)) },
		},
		resource.Age[*admissionv1.MutatingWebhookConfiguration](),
	},
}

var validatingWebhooks = resource.Descriptor[*admissionv1.ValidatingWebhookConfiguration]{
	GV: admissionv1.SchemeGroupVersion, Plural: "validatingwebhookconfigurations", Singular: "validatingwebhookconfiguration", Cluster: true,
	Categories: extensions,
	New: func() *admissionv1.ValidatingWebhookConfiguration {
		return &admissionv1.ValidatingWebhookConfiguration{}
	},
	NewList:    func() runtime.Object { return &admissionv1.ValidatingWebhookConfigurationList{} },
	Generation: true, GenerationOf: func(w *admissionv1.ValidatingWebhookConfiguration) any { return w.Webhooks },
	NeedsResourceVersion: true,
	Columns: []resource.Column[*admissionv1.ValidatingWebhookConfiguration]{
		resource.Name[*admissionv1.ValidatingWebhookConfiguration](),
		{
			Name: "Webhooks", Type: "integer", Doc: "Webhooks indicates the number of webhooks registered in this configuration",
			Value: func(w *admissionv1.ValidatingWebhookConfiguration) any { return int64(len(w.Webhooks)) },
		},
		resource.Age[*admissionv1.ValidatingWebhookConfiguration](),
	},
}

var validatingPolicies = resource.Descriptor[*admissionv1.ValidatingAdmissionPolicy]{
	GV: admissionv1.SchemeGroupVersion, Plural: "validatingadmissionpolicies", Singular: "validatingadmissionpolicy", Cluster: true,
	Categories: extensions,
	New:        func() *admissionv1.ValidatingAdmissionPolicy { return &admissionv1.ValidatingAdmissionPolicy{} },
	NewList:    func() runtime.Object { return &admissionv1.ValidatingAdmissionPolicyList{} },
	Generation: true, HasStatus: true, StatusKeepsMeta: true, NeedsResourceVersion: true,
	Columns: []resource.Column[*admissionv1.ValidatingAdmissionPolicy]{
		resource.Name[*admissionv1.ValidatingAdmissionPolicy](),
		{
			Name: "Validations", Type: "integer", Doc: "Validations indicates the number of validation rules defined in this configuration",
			Value: func(p *admissionv1.ValidatingAdmissionPolicy) any { return int64(len(p.Spec.Validations)) },
		},
		{
			Name: "ParamKind", Doc: "ParamKind specifies the kind of resources used to parameterize this policy",
			Value: func(p *admissionv1.ValidatingAdmissionPolicy) any { return paramKind(p.Spec.ParamKind) },
		},
		resource.Age[*admissionv1.ValidatingAdmissionPolicy](),
	},
}

var validatingBindings = resource.Descriptor[*admissionv1.ValidatingAdmissionPolicyBinding]{
	GV: admissionv1.SchemeGroupVersion, Plural: "validatingadmissionpolicybindings", Singular: "validatingadmissionpolicybinding", Cluster: true,
	Categories: extensions,
	New: func() *admissionv1.ValidatingAdmissionPolicyBinding {
		return &admissionv1.ValidatingAdmissionPolicyBinding{}
	},
	NewList:    func() runtime.Object { return &admissionv1.ValidatingAdmissionPolicyBindingList{} },
	Generation: true, NeedsResourceVersion: true,
	Columns: []resource.Column[*admissionv1.ValidatingAdmissionPolicyBinding]{
		resource.Name[*admissionv1.ValidatingAdmissionPolicyBinding](),
		{Name: "PolicyName", Value: func(b *admissionv1.ValidatingAdmissionPolicyBinding) any { return b.Spec.PolicyName }},
		{Name: "ParamRef", Value: func(b *admissionv1.ValidatingAdmissionPolicyBinding) any { return paramRef(b.Spec.ParamRef) }},
		resource.Age[*admissionv1.ValidatingAdmissionPolicyBinding](),
	},
}

var mutatingPolicies = resource.Descriptor[*admissionv1.MutatingAdmissionPolicy]{
	GV: admissionv1.SchemeGroupVersion, Plural: "mutatingadmissionpolicies", Singular: "mutatingadmissionpolicy", Cluster: true,
	Categories: extensions,
	New:        func() *admissionv1.MutatingAdmissionPolicy { return &admissionv1.MutatingAdmissionPolicy{} },
	NewList:    func() runtime.Object { return &admissionv1.MutatingAdmissionPolicyList{} },
	Generation: true, NeedsResourceVersion: true,
	Columns: []resource.Column[*admissionv1.MutatingAdmissionPolicy]{
		resource.Name[*admissionv1.MutatingAdmissionPolicy](),
		{
			Name: "Mutations", Type: "integer", Doc: "Mutation indicates the number of mutations rules defined in this configuration",
			Value: func(p *admissionv1.MutatingAdmissionPolicy) any { return int64(len(p.Spec.Mutations)) },
		},
		{
			Name: "ParamKind", Doc: "ParamKind specifies the kind of resources used to parameterize this policy",
			Value: func(p *admissionv1.MutatingAdmissionPolicy) any { return paramKind(p.Spec.ParamKind) },
		},
		resource.Age[*admissionv1.MutatingAdmissionPolicy](),
	},
}

var mutatingBindings = resource.Descriptor[*admissionv1.MutatingAdmissionPolicyBinding]{
	GV: admissionv1.SchemeGroupVersion, Plural: "mutatingadmissionpolicybindings", Singular: "mutatingadmissionpolicybinding", Cluster: true,
	Categories: extensions,
	New: func() *admissionv1.MutatingAdmissionPolicyBinding {
		return &admissionv1.MutatingAdmissionPolicyBinding{}
	},
	NewList:    func() runtime.Object { return &admissionv1.MutatingAdmissionPolicyBindingList{} },
	Generation: true, NeedsResourceVersion: true,
	Columns: []resource.Column[*admissionv1.MutatingAdmissionPolicyBinding]{
		resource.Name[*admissionv1.MutatingAdmissionPolicyBinding](),
		{Name: "PolicyName", Value: func(b *admissionv1.MutatingAdmissionPolicyBinding) any { return b.Spec.PolicyName }},
		{Name: "ParamRef", Value: func(b *admissionv1.MutatingAdmissionPolicyBinding) any { return paramRef(b.Spec.ParamRef) }},
		resource.Age[*admissionv1.MutatingAdmissionPolicyBinding](),
	},
}

func paramKind(k *admissionv1.ParamKind) string {
	if k == nil {
		return unset
	}
	return k.APIVersion + "/" + k.Kind
}

func paramRef(r *admissionv1.ParamRef) string {
	switch {
	case r == nil:
		return unset
	case r.Name != "" && r.Namespace != "":
		return r.Namespace + "/" + r.Name
	case r.Name != "":
		return "*/" + r.Name // the binding doesn't say whether params have namespaces
	case r.Selector != nil:
		return r.Selector.String()
	}
	return unset
}
