package core

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/mote-edge/mote/controlplane/registry/resource"
)

var services = resource.Descriptor[*corev1.Service]{
	GV: corev1.SchemeGroupVersion, Plural: "services", Cached: true, Singular: "service",
	ShortNames: []string{"svc"}, Categories: []string{"all"},
	New:            func() *corev1.Service { return &corev1.Service{} },
	NewList:        func() runtime.Object { return &corev1.ServiceList{} },
	HasStatus:      true,
	ReturnDeleted:  true,
	CreateOnUpdate: true,
	NameRule:       validation.NameIsDNSLabel,
	WarnCreate:     func(_ context.Context, s *corev1.Service) []string { return serviceWarnings(s) },
	WarnUpdate:     func(_ context.Context, s, _ *corev1.Service) []string { return serviceWarnings(s) },
	PrepareUpdate:  func(_ context.Context, s, old *corev1.Service) { dropForType(s, old) },
	Fields: func(s *corev1.Service) fields.Set {
		return fields.Set{"spec.clusterIP": s.Spec.ClusterIP, "spec.type": string(s.Spec.Type)}
	},
	Columns: []resource.Column[*corev1.Service]{
		resource.Name[*corev1.Service](),
		{Name: "Type", Value: func(s *corev1.Service) any { return string(s.Spec.Type) }},
		{Name: "Cluster-IP", Value: func(s *corev1.Service) any {
			if len(s.Spec.ClusterIPs) > 0 {
				return s.Spec.ClusterIPs[0]
			}
			return resource.OrNone(s.Spec.ClusterIP)
		}},
		{Name: "External-IP", Value: func(s *corev1.Service) any { return externalIPs(s) }},
		{Name: "Port(s)", Value: func(s *corev1.Service) any { return servicePorts(s.Spec.Ports) }},
		resource.Age[*corev1.Service](),
		{Name: "Selector", Wide: true, Value: func(s *corev1.Service) any { return resource.Labels(s.Spec.Selector) }},
	},
}

// serviceWarnings tells of fields that are there for old clients' sake.
func serviceWarnings(s *corev1.Service) (out []string) {
	if len(s.Spec.ExternalIPs) > 0 {
		out = append(out, "spec.externalIPs is deprecated and may no longer be implemented in some clusters")
	}
	if d := s.Spec.TrafficDistribution; d != nil && *d == corev1.ServiceTrafficDistributionPreferClose {
		out = append(out, `spec.trafficDistribution: "PreferClose" is deprecated; use "PreferSameZone"`)
	}
	if s.Spec.SessionAffinity == corev1.ServiceAffinityClientIP && s.Spec.ClusterIP == corev1.ClusterIPNone {
		out = append(out, "spec.SessionAffinity is ignored for headless services")
	}
	if s.Spec.Type != corev1.ServiceTypeExternalName && s.Spec.ExternalName != "" {
		out = append(out, fmt.Sprintf("spec.externalName is ignored when spec.type is not %q", "ExternalName"))
	}
	return out
}

func externalIPs(s *corev1.Service) string {
	switch s.Spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort:
		return resource.OrNone(strings.Join(s.Spec.ExternalIPs, ","))
	case corev1.ServiceTypeExternalName:
		return s.Spec.ExternalName
	case corev1.ServiceTypeLoadBalancer:
		ingress := sets.New[string]()
		for _, i := range s.Status.LoadBalancer.Ingress {
			if i.IP != "" {
				ingress.Insert(i.IP)
			} else if i.Hostname != "" {
				ingress.Insert(i.Hostname)
			}
		}
		all := append(sets.List(ingress), s.Spec.ExternalIPs...)
		if len(all) > 0 {
			return strings.Join(all, ",")
		}
		return "<pending>"
	}
	return "<unknown>"
}

func servicePorts(ports []corev1.ServicePort) string {
	parts := make([]string, len(ports))
	for i, p := range ports {
		parts[i] = fmt.Sprintf("%d/%s", p.Port, p.Protocol)
		if p.NodePort > 0 {
			parts[i] = fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol)
		}
	}
	return resource.OrNone(strings.Join(parts, ","))
}
