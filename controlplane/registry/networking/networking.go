// Package networking holds the resources of networking.k8s.io/v1: ingresses,
// network policies, and the ranges and addresses of Services.
//
// Reads: the objects it serves.
// Writes: the objects it serves.
package networking

import (
	"fmt"
	"net/netip"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/ptr"

	"github.com/mote-edge/mote/controlplane/registry/resource"
)

// Storages builds everything of networking.k8s.io/v1.
func Storages(c *resource.Config) (resource.Storages, error) {
	to := resource.Storages{}
	return to, resource.AddAll(c, to, &ingresses, &ingressClasses, &policies, &ServiceCIDRs, &IPAddresses)
}

var ingresses = resource.Descriptor[*networkingv1.Ingress]{
	GV: networkingv1.SchemeGroupVersion, Plural: "ingresses", Singular: "ingress", ShortNames: []string{"ing"},
	New:       func() *networkingv1.Ingress { return &networkingv1.Ingress{} },
	NewList:   func() runtime.Object { return &networkingv1.IngressList{} },
	HasStatus: true, Generation: true,
	Columns: []resource.Column[*networkingv1.Ingress]{
		resource.Name[*networkingv1.Ingress](),
		{Name: "Class", Doc: "The name of the IngressClass resource that should be used for additional configuration", Value: func(i *networkingv1.Ingress) any {
			return ptr.Deref(i.Spec.IngressClassName, resource.None)
		}},
		{Name: "Hosts", Doc: "Hosts that incoming requests are matched against before the ingress rule", Value: hosts},
		{Name: "Address", Doc: "Address is a list containing ingress points for the load-balancer", Value: addresses},
		{Name: "Ports", Doc: "Ports of TLS configurations that open", Value: func(i *networkingv1.Ingress) any {
			if len(i.Spec.TLS) != 0 {
				return "80, 443"
			}
			return "80"
		}},
		resource.Age[*networkingv1.Ingress](),
	},
}

func hosts(i *networkingv1.Ingress) any {
	var list []string
	more := false
	for _, r := range i.Spec.Rules {
		if len(list) == 3 {
			more = true
		}
		if !more && r.Host != "" {
			list = append(list, r.Host)
		}
	}
	if len(list) == 0 {
		return "*"
	}
	all := strings.Join(list, ",")
	if more {
		return fmt.Sprintf("%s + %d more...", all, len(i.Spec.Rules)-3)
	}
	return all
}

func addresses(i *networkingv1.Ingress) any {
	set := sets.New[string]()
	for _, a := range i.Status.LoadBalancer.Ingress {
		if a.IP != "" {
			set.Insert(a.IP)
		} else if a.Hostname != "" {
			set.Insert(a.Hostname)
		}
	}
	return strings.Join(sets.List(set), ",")
}

var ingressClasses = resource.Descriptor[*networkingv1.IngressClass]{
	GV: networkingv1.SchemeGroupVersion, Plural: "ingressclasses", Singular: "ingressclass", Cluster: true,
	New:        func() *networkingv1.IngressClass { return &networkingv1.IngressClass{} },
	NewList:    func() runtime.Object { return &networkingv1.IngressClassList{} },
	Generation: true,
	Columns: []resource.Column[*networkingv1.IngressClass]{
		{Name: "Name", Value: func(c *networkingv1.IngressClass) any {
			if c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true" {
				return c.Name + " (default)"
			}
			return c.Name
		}},
		{Name: "Controller", Doc: "Controller that is responsible for handling this class", Value: func(c *networkingv1.IngressClass) any { return c.Spec.Controller }},
		{Name: "Parameters", Doc: "A reference to a resource with additional parameters", Value: func(c *networkingv1.IngressClass) any {
			p := c.Spec.Parameters
			if p == nil {
				return resource.None
			}
			kind := p.Kind
			if p.APIGroup != nil {
				kind += "." + *p.APIGroup
			}
			return kind + "/" + p.Name
		}},
		resource.Age[*networkingv1.IngressClass](),
	},
}

var policies = resource.Descriptor[*networkingv1.NetworkPolicy]{
	GV: networkingv1.SchemeGroupVersion, Plural: "networkpolicies", Singular: "networkpolicy", ShortNames: []string{"netpol"},
	New:        func() *networkingv1.NetworkPolicy { return &networkingv1.NetworkPolicy{} },
	NewList:    func() runtime.Object { return &networkingv1.NetworkPolicyList{} },
	Generation: true,
	Columns: []resource.Column[*networkingv1.NetworkPolicy]{
		resource.Name[*networkingv1.NetworkPolicy](),
		{Name: "Pod-Selector", Value: func(p *networkingv1.NetworkPolicy) any { return resource.Selector(&p.Spec.PodSelector) }},
		resource.Age[*networkingv1.NetworkPolicy](),
	},
}

// ServiceCIDRs are the ranges of cluster addresses.
var ServiceCIDRs = resource.Descriptor[*networkingv1.ServiceCIDR]{
	GV: networkingv1.SchemeGroupVersion, Plural: "servicecidrs", Singular: "servicecidr", Cluster: true,
	New:       func() *networkingv1.ServiceCIDR { return &networkingv1.ServiceCIDR{} },
	NewList:   func() runtime.Object { return &networkingv1.ServiceCIDRList{} },
	HasStatus: true, StatusKeepsMeta: true,
	Columns: []resource.Column[*networkingv1.ServiceCIDR]{
		resource.Name[*networkingv1.ServiceCIDR](),
		{Name: "CIDRs", Value: func(s *networkingv1.ServiceCIDR) any { return strings.Join(s.Spec.CIDRs, ",") }},
		resource.Age[*networkingv1.ServiceCIDR](),
	},
}

// IPAddresses are the cluster addresses in use, one object each: creating one
// is what allocates the address.
var IPAddresses = resource.Descriptor[*networkingv1.IPAddress]{
	GV: networkingv1.SchemeGroupVersion, Plural: "ipaddresses", Singular: "ipaddress", Cluster: true, ShortNames: []string{"ip"},
	NameRule: canonicalIP,
	New:      func() *networkingv1.IPAddress { return &networkingv1.IPAddress{} },
	NewList:  func() runtime.Object { return &networkingv1.IPAddressList{} },
	Columns: []resource.Column[*networkingv1.IPAddress]{
		resource.Name[*networkingv1.IPAddress](),
		{Name: "ParentRef", Value: func(a *networkingv1.IPAddress) any {
			p := a.Spec.ParentRef
			if p == nil {
				return resource.None
			}
			kind := p.Resource
			if p.Group != "" {
				kind += "." + p.Group
			}
			ref := strings.ToLower(kind)
			if p.Namespace != "" {
				ref += "/" + p.Namespace
			}
			return ref + "/" + p.Name
		}},
		resource.Age[*networkingv1.IPAddress](),
	},
}

// canonicalIP lets each address have one name only.
func canonicalIP(name string, _ bool) []string {
	ip, err := netip.ParseAddr(name)
	if err != nil || ip.Zone() != "" || ip.Is4In6() {
		return []string{"must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"}
	}
	if ip.String() != name {
		return []string{fmt.Sprintf("must be in canonical form (%q)", ip.String())}
	}
	return nil
}
