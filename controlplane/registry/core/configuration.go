package core

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/mote-edge/mote/controlplane/registry/resource"
)

var configMaps = resource.Descriptor[*corev1.ConfigMap]{
	GV: corev1.SchemeGroupVersion, Plural: "configmaps", Cached: true, Singular: "configmap", ShortNames: []string{"cm"},
	New:     func() *corev1.ConfigMap { return &corev1.ConfigMap{} },
	NewList: func() runtime.Object { return &corev1.ConfigMapList{} },
	Columns: []resource.Column[*corev1.ConfigMap]{
		resource.Name[*corev1.ConfigMap](),
		{Name: "Data", Value: func(c *corev1.ConfigMap) any { return int64(len(c.Data) + len(c.BinaryData)) }},
		resource.Age[*corev1.ConfigMap](),
	},
}

var secrets = resource.Descriptor[*corev1.Secret]{
	GV: corev1.SchemeGroupVersion, Plural: "secrets", Cached: true, Singular: "secret",
	New:     func() *corev1.Secret { return &corev1.Secret{} },
	NewList: func() runtime.Object { return &corev1.SecretList{} },
	Columns: []resource.Column[*corev1.Secret]{
		resource.Name[*corev1.Secret](),
		{Name: "Type", Value: func(s *corev1.Secret) any { return string(s.Type) }},
		{Name: "Data", Value: func(s *corev1.Secret) any { return int64(len(s.Data)) }},
		resource.Age[*corev1.Secret](),
	},
	Fields: func(s *corev1.Secret) fields.Set { return fields.Set{"type": string(s.Type)} },
	PrepareUpdate: func(_ context.Context, s, old *corev1.Secret) {
		// Clients that never learnt of the type leave it out.
		if s.Type == "" {
			s.Type = old.Type
		}
	},
}

var serviceAccounts = resource.Descriptor[*corev1.ServiceAccount]{
	GV: corev1.SchemeGroupVersion, Plural: "serviceaccounts", Cached: true, Singular: "serviceaccount", ShortNames: []string{"sa"},
	New:           func() *corev1.ServiceAccount { return &corev1.ServiceAccount{} },
	NewList:       func() runtime.Object { return &corev1.ServiceAccountList{} },
	ReturnDeleted: true,
	Columns: []resource.Column[*corev1.ServiceAccount]{
		resource.Name[*corev1.ServiceAccount](),
		resource.Age[*corev1.ServiceAccount](),
	},
}

var limitRanges = resource.Descriptor[*corev1.LimitRange]{
	GV: corev1.SchemeGroupVersion, Plural: "limitranges", Singular: "limitrange", ShortNames: []string{"limits"},
	New:            func() *corev1.LimitRange { return &corev1.LimitRange{} },
	NewList:        func() runtime.Object { return &corev1.LimitRangeList{} },
	CreateOnUpdate: true,
}

var resourceQuotas = resource.Descriptor[*corev1.ResourceQuota]{
	GV: corev1.SchemeGroupVersion, Plural: "resourcequotas", Singular: "resourcequota", ShortNames: []string{"quota"},
	New:           func() *corev1.ResourceQuota { return &corev1.ResourceQuota{} },
	NewList:       func() runtime.Object { return &corev1.ResourceQuotaList{} },
	HasStatus:     true,
	ReturnDeleted: true,
	Columns: []resource.Column[*corev1.ResourceQuota]{
		resource.Name[*corev1.ResourceQuota](),
		{
			Name: "Request", Doc: "Request represents a minimum amount of cpu/memory that a container may consume.",
			Value: func(q *corev1.ResourceQuota) any { return quotaCells(q, false) },
		},
		{
			Name: "Limit", Doc: "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node.",
			Value: func(q *corev1.ResourceQuota) any { return quotaCells(q, true) },
		},
		resource.Age[*corev1.ResourceQuota](),
	},
}

// quotaCells lists "name: used/hard" for the limits, or for all the rest.
func quotaCells(q *corev1.ResourceQuota, limits bool) string {
	var parts []string
	for _, name := range sortedNames(q.Status.Hard) {
		if strings.HasPrefix(string(name), "limits") != limits {
			continue
		}
		used, hard := q.Status.Used[name], q.Status.Hard[name]
		parts = append(parts, string(name)+": "+used.String()+"/"+hard.String())
	}
	return strings.Join(parts, ", ")
}

var podTemplates = resource.Descriptor[*corev1.PodTemplate]{
	GV: corev1.SchemeGroupVersion, Plural: "podtemplates", Singular: "podtemplate",
	New:           func() *corev1.PodTemplate { return &corev1.PodTemplate{} },
	NewList:       func() runtime.Object { return &corev1.PodTemplateList{} },
	Generation:    true,
	GenerationOf:  func(t *corev1.PodTemplate) any { return t.Template },
	ReturnDeleted: true,
	Columns: []resource.Column[*corev1.PodTemplate]{
		resource.Name[*corev1.PodTemplate](),
		{Name: "Containers", Value: func(t *corev1.PodTemplate) any { return resource.ContainerNames(t.Template.Spec.Containers) }},
		{Name: "Images", Value: func(t *corev1.PodTemplate) any { return resource.ContainerImages(t.Template.Spec.Containers) }},
		{Name: "Pod Labels", Value: func(t *corev1.PodTemplate) any { return resource.Labels(t.Template.Labels) }},
	},
}
