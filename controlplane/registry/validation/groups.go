package validation

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func networkPolicy(n *networkingv1.NetworkPolicy) field.ErrorList {
	l := &list{}
	selector(l, &n.Spec.PodSelector, specPath.Child("podSelector"))
	ports := func(all []networkingv1.NetworkPolicyPort, p *field.Path) {
		for i, port := range all {
			ip := p.Index(i)
			if port.Protocol != nil {
				oneOf(l, ip.Child("protocol"), *port.Protocol, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)
			}
			if port.Port != nil {
				l.portRef(ip.Child("port"), *port.Port)
			}
			if port.EndPort != nil {
				switch {
				case port.Port == nil:
					l.add(field.Invalid(ip.Child("endPort"), *port.EndPort, "may not be specified when `port` is not specified"))
				case port.Port.Type == intstr.String:
					l.add(field.Invalid(ip.Child("endPort"), *port.EndPort, "may not be specified when `port` is non-numeric"))
				case *port.EndPort < port.Port.IntVal:
					l.add(field.Invalid(ip.Child("endPort"), *port.EndPort, "must be greater than or equal to `port`"))
				default:
					l.port(ip.Child("endPort"), *port.EndPort)
				}
			}
		}
	}
	peers := func(all []networkingv1.NetworkPolicyPeer, p *field.Path) {
		for i := range all {
			peer, ip := &all[i], p.Index(i)
			selector(l, peer.PodSelector, ip.Child("podSelector"))
			selector(l, peer.NamespaceSelector, ip.Child("namespaceSelector"))
			if b := peer.IPBlock; b != nil {
				if b.CIDR == "" {
					l.required(ip.Child("ipBlock", "cidr"), "")
				} else {
					l.addAll(validation.IsValidCIDR(ip.Child("ipBlock", "cidr"), b.CIDR))
				}
				for j, e := range b.Except {
					l.addAll(validation.IsValidCIDR(ip.Child("ipBlock", "except").Index(j), e))
				}
				if peer.PodSelector != nil || peer.NamespaceSelector != nil {
					l.add(field.Forbidden(ip, "may not specify both ipBlock and another peer"))
				}
			} else if peer.PodSelector == nil && peer.NamespaceSelector == nil {
				l.required(ip, "must specify a peer")
			}
		}
	}
	for i, r := range n.Spec.Ingress {
		ports(r.Ports, specPath.Child("ingress").Index(i).Child("ports"))
		peers(r.From, specPath.Child("ingress").Index(i).Child("from"))
	}
	for i, r := range n.Spec.Egress {
		ports(r.Ports, specPath.Child("egress").Index(i).Child("ports"))
		peers(r.To, specPath.Child("egress").Index(i).Child("to"))
	}
	if len(n.Spec.PolicyTypes) > 2 {
		l.add(field.Invalid(specPath.Child("policyTypes"), n.Spec.PolicyTypes, "may not specify more than two policyTypes"))
		return l.ErrorList
	}
	for i, t := range n.Spec.PolicyTypes {
		oneOf(l, specPath.Child("policyTypes").Index(i), t, networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress)
	}
	return l.ErrorList
}

func ingress(i *networkingv1.Ingress) field.ErrorList {
	l := &list{}
	if len(i.Spec.Rules) == 0 && i.Spec.DefaultBackend == nil {
		l.add(field.Invalid(specPath, i.Spec.Rules, "either `defaultBackend` or `rules` must be specified"))
	}
	if b := i.Spec.DefaultBackend; b != nil {
		backend(l, b, specPath.Child("defaultBackend"))
	}
	if c := i.Spec.IngressClassName; c != nil {
		l.dnsSubdomain(specPath.Child("ingressClassName"), *c)
	}
	host := func(h string, p *field.Path) {
		if strings.Contains(h, "*") {
			l.messages(p, h, validation.IsWildcardDNS1123Subdomain(h))
		} else {
			l.dnsSubdomain(p, h)
		}
	}
	for n, t := range i.Spec.TLS {
		for k, h := range t.Hosts {
			host(h, specPath.Child("tls").Index(n).Child("hosts").Index(k))
		}
		if t.SecretName != "" {
			l.dnsSubdomain(specPath.Child("tls").Index(n).Child("secretName"), t.SecretName)
		}
	}
	for n, r := range i.Spec.Rules {
		rp := specPath.Child("rules").Index(n)
		if r.Host != "" {
			host(r.Host, rp.Child("host"))
		}
		if r.HTTP == nil {
			continue
		}
		if len(r.HTTP.Paths) == 0 {
			l.required(rp.Child("http", "paths"), "")
		}
		for k, path := range r.HTTP.Paths {
			pp := rp.Child("http", "paths").Index(k)
			if path.PathType == nil {
				l.required(pp.Child("pathType"), "pathType must be specified")
			} else {
				oneOf(l, pp.Child("pathType"), *path.PathType, networkingv1.PathTypeExact, networkingv1.PathTypeImplementationSpecific, networkingv1.PathTypePrefix)
				if *path.PathType != networkingv1.PathTypeImplementationSpecific && !strings.HasPrefix(path.Path, "/") {
					l.add(field.Invalid(pp.Child("path"), path.Path, "must be an absolute path"))
				} else if *path.PathType != networkingv1.PathTypeImplementationSpecific {
					plainPath(l, path.Path, pp.Child("path"))
				}
			}
			backend(l, &path.Backend, pp.Child("backend"))
		}
	}
	return l.ErrorList
}

// plainPath refuses what a proxy and a program behind it could read differently.
func plainPath(l *list, v string, p *field.Path) {
	for _, s := range []string{"//", "/./", "/../", "%2f", "%2F"} {
		if strings.Contains(v, s) {
			l.add(field.Invalid(p, v, fmt.Sprintf("must not contain '%s'", s)))
		}
	}
	for _, s := range []string{"/..", "/."} {
		if strings.HasSuffix(v, s) {
			l.add(field.Invalid(p, v, fmt.Sprintf("cannot end with '%s'", s)))
		}
	}
}

func backend(l *list, b *networkingv1.IngressBackend, p *field.Path) {
	switch {
	case b.Resource != nil && b.Service != nil:
		l.add(field.Invalid(p, "", "cannot set both resource and service backends"))
	case b.Resource == nil && b.Service == nil:
		l.add(field.Invalid(p, "", "resource or service backend is required"))
	case b.Resource != nil:
		rp := p.Child("resource")
		if b.Resource.APIGroup != nil {
			l.dnsSubdomain(rp.Child("apiGroup"), *b.Resource.APIGroup)
		}
		l.pathSegmentRequired(rp.Child("kind"), b.Resource.Kind)
		l.pathSegmentRequired(rp.Child("name"), b.Resource.Name)
	case b.Service != nil:
		if b.Service.Name == "" {
			l.required(p.Child("service", "name"), "")
		} else {
			l.messages(p.Child("service", "name"), b.Service.Name, validation.IsDNS1035Label(b.Service.Name))
		}
		port := b.Service.Port
		switch {
		case port.Name != "" && port.Number != 0:
			l.add(field.Invalid(p, "", "cannot set both port name & port number"))
		case port.Name != "":
			l.messages(p.Child("service", "port", "name"), port.Name, validation.IsValidPortName(port.Name))
		case port.Number != 0:
			l.port(p.Child("service", "port", "number"), port.Number)
		default:
			l.required(p, "port name or number is required")
		}
	}
}

func ingressClass(c *networkingv1.IngressClass) field.ErrorList {
	l := &list{}
	if c.Spec.Controller == "" {
		l.required(specPath.Child("controller"), "")
	} else {
		l.addAll(validation.IsDomainPrefixedPath(specPath.Child("controller"), c.Spec.Controller))
	}
	if r := c.Spec.Parameters; r != nil {
		pp := specPath.Child("parameters")
		if r.APIGroup != nil {
			l.dnsSubdomain(pp.Child("apiGroup"), *r.APIGroup)
		}
		for name, v := range map[string]string{"kind": r.Kind, "name": r.Name} {
			if v == "" {
				l.required(pp.Child(name), name+" is required")
			} else {
				l.pathSegment(pp.Child(name), v)
			}
		}
		if r.Scope == nil {
			l.required(pp.Child("scope"), "")
			return l.ErrorList
		}
		oneOf(l, pp.Child("scope"), *r.Scope, networkingv1.IngressClassParametersReferenceScopeCluster, networkingv1.IngressClassParametersReferenceScopeNamespace)
		switch namespaced := *r.Scope == networkingv1.IngressClassParametersReferenceScopeNamespace; {
		case namespaced && (r.Namespace == nil):
			l.required(pp.Child("namespace"), "`parameters.scope` is set to 'Namespace'")
		case namespaced:
			l.dnsLabel(pp.Child("namespace"), *r.Namespace)
		case r.Namespace != nil && *r.Scope == networkingv1.IngressClassParametersReferenceScopeCluster:
			l.add(field.Forbidden(pp.Child("namespace"), "`parameters.scope` is set to 'Cluster'"))
		}
	}
	return l.ErrorList
}

func serviceCIDR(c *networkingv1.ServiceCIDR) field.ErrorList {
	l := &list{}
	p := specPath.Child("cidrs")
	switch n := len(c.Spec.CIDRs); {
	case n == 0:
		l.required(p, "at least one CIDR required")
	case n > 2:
		l.add(field.Invalid(p, c.Spec.CIDRs, "may only hold up to 2 values"))
	case n == 2 && strings.Contains(c.Spec.CIDRs[0], ":") == strings.Contains(c.Spec.CIDRs[1], ":"):
		l.add(field.Invalid(p, c.Spec.CIDRs, "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"))
	}
	for i, cidr := range c.Spec.CIDRs {
		l.addAll(validation.IsValidCIDR(p.Index(i), cidr))
	}
	return l.ErrorList
}

func ipAddress(a *networkingv1.IPAddress) field.ErrorList {
	l := &list{}
	r, p := a.Spec.ParentRef, specPath.Child("parentRef")
	if r == nil {
		l.required(p, "")
		return l.ErrorList
	}
	if r.Group != "" {
		l.dnsSubdomain(p.Child("group"), r.Group)
	}
	l.pathSegmentRequired(p.Child("resource"), r.Resource)
	l.pathSegmentRequired(p.Child("name"), r.Name)
	if r.Namespace != "" {
		l.pathSegment(p.Child("namespace"), r.Namespace)
	}
	return l.ErrorList
}

func rules(l *list, rs []rbacv1.PolicyRule, namespaced bool) {
	for i, r := range rs {
		p := field.NewPath("rules").Index(i)
		if len(r.Verbs) == 0 {
			l.required(p.Child("verbs"), "verbs must contain at least one value")
		}
		if len(r.NonResourceURLs) > 0 {
			if namespaced {
				l.add(field.Invalid(p.Child("nonResourceURLs"), r.NonResourceURLs, "namespaced rules cannot apply to non-resource URLs"))
			}
			if len(r.APIGroups)+len(r.Resources)+len(r.ResourceNames) > 0 {
				l.add(field.Invalid(p.Child("nonResourceURLs"), r.NonResourceURLs, "rules cannot apply to both regular resources and non-resource URLs"))
			}
			continue
		}
		if len(r.APIGroups) == 0 {
			l.required(p.Child("apiGroups"), "resource rules must supply at least one api group")
		}
		if len(r.Resources) == 0 {
			l.required(p.Child("resources"), "resource rules must supply at least one resource")
		}
	}
}

func role(r *rbacv1.Role) field.ErrorList {
	l := &list{}
	rules(l, r.Rules, true)
	return l.ErrorList
}

func clusterRole(r *rbacv1.ClusterRole) field.ErrorList {
	l := &list{}
	rules(l, r.Rules, false)
	if a := r.AggregationRule; a != nil {
		if len(a.ClusterRoleSelectors) == 0 {
			l.required(field.NewPath("aggregationRule", "clusterRoleSelectors"), "at least one clusterRoleSelector required if aggregationRule is non-nil")
		}
		for i := range a.ClusterRoleSelectors {
			selector(l, &a.ClusterRoleSelectors[i], field.NewPath("aggregationRule", "clusterRoleSelectors").Index(i))
		}
	}
	return l.ErrorList
}

func binding(ref rbacv1.RoleRef, subjects []rbacv1.Subject, kinds ...string) field.ErrorList {
	l := &list{}
	p := field.NewPath("roleRef")
	oneOf(l, p.Child("apiGroup"), ref.APIGroup, rbacv1.GroupName)
	oneOf(l, p.Child("kind"), ref.Kind, kinds...)
	l.pathSegmentRequired(p.Child("name"), ref.Name)
	for i, s := range subjects {
		sp := field.NewPath("subjects").Index(i)
		if s.Name == "" {
			l.required(sp.Child("name"), "")
		}
		switch s.Kind {
		case rbacv1.ServiceAccountKind:
			if s.Name != "" {
				l.dnsSubdomain(sp.Child("name"), s.Name)
			}
			if s.APIGroup != "" {
				l.add(field.NotSupported(sp.Child("apiGroup"), s.APIGroup, []string{""}))
			}
			if s.Namespace == "" && len(kinds) == 1 {
				l.required(sp.Child("namespace"), "")
			}
		case rbacv1.UserKind, rbacv1.GroupKind:
			oneOf(l, sp.Child("apiGroup"), s.APIGroup, rbacv1.GroupName)
		default:
			oneOf(l, sp.Child("kind"), s.Kind, rbacv1.ServiceAccountKind, rbacv1.UserKind, rbacv1.GroupKind)
		}
	}
	return l.ErrorList
}

func bindingUpdate(now, old rbacv1.RoleRef) field.ErrorList {
	l := &list{}
	if now != old {
		l.add(field.Invalid(field.NewPath("roleRef"), now, "cannot change roleRef"))
	}
	return l.ErrorList
}

func priorityClass(c *schedulingv1.PriorityClass) field.ErrorList {
	l := &list{}
	if strings.HasPrefix(c.Name, "system-") {
		want, ok := map[string]int32{"system-node-critical": 2000001000, "system-cluster-critical": 2000000000}[c.Name]
		if !ok || want != c.Value {
			l.add(field.Forbidden(field.NewPath("metadata", "name"), "priority class names with 'system-' prefix are reserved for system use only. error: "+c.Name))
		}
	} else if c.Value > highestUserPriority {
		l.add(field.Forbidden(field.NewPath("value"), fmt.Sprintf("maximum allowed value of a user defined priority is %d", highestUserPriority)))
	}
	if c.PreemptionPolicy != nil {
		oneOf(l, field.NewPath("preemptionPolicy"), *c.PreemptionPolicy, corev1.PreemptLowerPriority, corev1.PreemptNever)
	}
	return l.ErrorList
}

func priorityClassUpdate(c, old *schedulingv1.PriorityClass) field.ErrorList {
	l := &list{}
	if c.Value != old.Value {
		l.add(field.Forbidden(field.NewPath("value"), "may not be changed in an update."))
	}
	l.immutable(field.NewPath("preemptionPolicy"), apiequality.Semantic.DeepEqual(c.PreemptionPolicy, old.PreemptionPolicy), c.PreemptionPolicy)
	return l.ErrorList
}

func runtimeClass(c *nodev1.RuntimeClass) field.ErrorList {
	l := &list{}
	l.dnsLabel(field.NewPath("handler"), c.Handler)
	if c.Overhead != nil {
		resourceNames(l, c.Overhead.PodFixed, field.NewPath("overhead", "podFixed"))
	}
	if c.Scheduling != nil {
		tolerations(l, c.Scheduling.Tolerations, field.NewPath("scheduling", "tolerations"))
		l.addAll(metav1validation.ValidateLabels(c.Scheduling.NodeSelector, field.NewPath("scheduling", "nodeSelector")))
	}
	return l.ErrorList
}

func runtimeClassUpdate(c, old *nodev1.RuntimeClass) field.ErrorList {
	l := &list{}
	l.immutable(field.NewPath("handler"), c.Handler == old.Handler, c.Handler)
	return l.ErrorList
}

func lease(x *coordinationv1.Lease) field.ErrorList {
	l := &list{}
	if d := x.Spec.LeaseDurationSeconds; d != nil {
		l.positive(specPath.Child("leaseDurationSeconds"), int64(*d))
	}
	if n := x.Spec.LeaseTransitions; n != nil {
		l.notNegative(specPath.Child("leaseTransitions"), int64(*n))
	}
	return l.ErrorList
}

func signingRequest(c *certificatesv1.CertificateSigningRequest) field.ErrorList {
	l := &list{}
	block, _ := pem.Decode(c.Spec.Request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		l.add(field.Invalid(specPath.Child("request"), c.Spec.Request, "PEM block type must be CERTIFICATE REQUEST"))
	} else if req, err := x509.ParseCertificateRequest(block.Bytes); err != nil {
		l.add(field.Invalid(specPath.Child("request"), c.Spec.Request, err.Error()))
	} else if err := req.CheckSignature(); err != nil {
		l.add(field.Invalid(specPath.Child("request"), c.Spec.Request, err.Error()))
	}
	if len(c.Spec.Usages) == 0 {
		l.required(specPath.Child("usages"), "usages must be provided")
	}
	switch {
	case c.Spec.SignerName == "":
		l.required(specPath.Child("signerName"), "")
	case !strings.Contains(c.Spec.SignerName, "/"):
		l.add(field.Invalid(specPath.Child("signerName"), c.Spec.SignerName, "must be a fully qualified domain and path of the form 'example.com/signer-name'"))
	}
	if s := c.Spec.ExpirationSeconds; s != nil && *s < 600 {
		l.add(field.Invalid(specPath.Child("expirationSeconds"), *s, "may not specify a duration less than 600 seconds (10 minutes)"))
	}
	return l.ErrorList
}

// highestUserPriority is the most that a user's priority class may have; what is above is the system's.
const highestUserPriority = 1000000000
