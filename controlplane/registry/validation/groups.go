package validation

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
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
				l.protocol(ip.Child("protocol"), *port.Protocol)
			}
			if port.Port != nil {
				l.portRef(ip.Child("port"), *port.Port)
			}
			if port.EndPort != nil {
				switch {
				case port.Port == nil:
					l.required(ip.Child("port"), "must be specified when `endPort` is")
				case port.Port.Type == intstr.String:
					l.add(field.Invalid(ip.Child("endPort"), *port.EndPort, "may not be specified when `port` is non-numeric"))
				case *port.EndPort < port.Port.IntVal:
					l.add(field.Invalid(ip.Child("endPort"), *port.EndPort, "must be greater than or equal to `port`"))
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
				l.addAll(validation.IsValidCIDR(ip.Child("ipBlock", "cidr"), b.CIDR))
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
				}
			}
			backend(l, &path.Backend, pp.Child("backend"))
		}
	}
	return l.ErrorList
}

func backend(l *list, b *networkingv1.IngressBackend, p *field.Path) {
	switch {
	case b.Resource != nil && b.Service != nil:
		l.add(field.Invalid(p, "", "cannot set both resource and service backends"))
	case b.Resource == nil && b.Service == nil:
		l.required(p, "must specify a service or a resource")
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
		for name, v := range map[string]string{"kind": r.Kind, "name": r.Name} {
			if v == "" {
				l.required(pp.Child(name), name+" is required")
			}
		}
		if r.Scope != nil && *r.Scope == networkingv1.IngressClassParametersReferenceScopeNamespace && r.Namespace == nil {
			l.required(pp.Child("namespace"), "`parameters.scope` is set to 'Namespace'")
		}
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
	if ref.Name == "" {
		l.required(p.Child("name"), "")
	}
	for i, s := range subjects {
		sp := field.NewPath("subjects").Index(i)
		if s.Name == "" {
			l.required(sp.Child("name"), "")
		}
		switch s.Kind {
		case rbacv1.ServiceAccountKind:
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

func storageClass(c *storagev1.StorageClass) field.ErrorList {
	l := &list{}
	if c.Provisioner == "" {
		l.required(field.NewPath("provisioner"), "")
	} else {
		l.messages(field.NewPath("provisioner"), c.Provisioner, validation.IsQualifiedName(strings.ToLower(c.Provisioner)))
	}
	if c.ReclaimPolicy != nil {
		oneOf(l, field.NewPath("reclaimPolicy"), *c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain)
	}
	if c.VolumeBindingMode == nil {
		l.required(field.NewPath("volumeBindingMode"), "")
	} else {
		oneOf(l, field.NewPath("volumeBindingMode"), *c.VolumeBindingMode, storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer)
	}
	return l.ErrorList
}

func storageClassUpdate(c, old *storagev1.StorageClass) field.ErrorList {
	l := &list{storageClass(c)}
	if !apiequality.Semantic.DeepEqual(c.Parameters, old.Parameters) {
		l.add(field.Forbidden(field.NewPath("parameters"), "updates to parameters are forbidden."))
	}
	if c.Provisioner != old.Provisioner {
		l.add(field.Forbidden(field.NewPath("provisioner"), "updates to provisioner are forbidden."))
	}
	if !apiequality.Semantic.DeepEqual(c.ReclaimPolicy, old.ReclaimPolicy) {
		l.add(field.Forbidden(field.NewPath("reclaimPolicy"), "updates to reclaimPolicy are forbidden."))
	}
	l.immutable(field.NewPath("volumeBindingMode"), apiequality.Semantic.DeepEqual(c.VolumeBindingMode, old.VolumeBindingMode), c.VolumeBindingMode)
	return l.ErrorList
}

func csiNode(n *storagev1.CSINode) field.ErrorList {
	l := &list{}
	names := unique[string]{}
	for i, d := range n.Spec.Drivers {
		p := specPath.Child("drivers").Index(i)
		for name, v := range map[string]string{"name": d.Name, "nodeID": d.NodeID} {
			if v == "" {
				l.required(p.Child(name), "")
			}
		}
		names.check(l, p.Child("name"), d.Name, d.Name)
	}
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

func webhookConfig[W any](webhooks []W, view func(*W) (name string, client *admissionregistrationv1.WebhookClientConfig, sideEffects *admissionregistrationv1.SideEffectClass, versions []string, timeout *int32, rules []admissionregistrationv1.RuleWithOperations, conditions []admissionregistrationv1.MatchCondition)) field.ErrorList {
	l := &list{}
	names := unique[string]{}
	for i := range webhooks {
		name, client, side, versions, timeout, rs, conditions := view(&webhooks[i])
		p := field.NewPath("webhooks").Index(i)
		l.addAll(validation.IsFullyQualifiedName(p.Child("name"), name))
		names.check(l, p.Child("name"), name, name)
		if side == nil {
			l.required(p.Child("sideEffects"), fmt.Sprintf("must specify one of %v", []string{"None", "NoneOnDryRun"}))
		} else {
			oneOf(l, p.Child("sideEffects"), *side, admissionregistrationv1.SideEffectClassNone, admissionregistrationv1.SideEffectClassNoneOnDryRun)
		}
		if len(versions) == 0 {
			l.required(p.Child("admissionReviewVersions"), fmt.Sprintf("must specify one of %v", []string{"v1", "v1beta1"}))
		}
		if timeout != nil && (*timeout < 1 || *timeout > 30) {
			l.add(field.Invalid(p.Child("timeoutSeconds"), *timeout, "the timeout value must be between 1 and 30 seconds"))
		}
		if (client.URL == nil) == (client.Service == nil) {
			l.required(p.Child("clientConfig"), "exactly one of url or service is required")
		}
		for k, r := range rs {
			operations(l, r.Operations, r.APIGroups, r.APIVersions, r.Resources, p.Child("rules").Index(k))
		}
		seen := unique[string]{}
		for k, c := range conditions {
			matchCondition(l, c.Name, c.Expression, p.Child("matchConditions").Index(k))
			seen.check(l, p.Child("matchConditions").Index(k).Child("name"), c.Name, c.Name)
		}
	}
	return l.ErrorList
}

func operations(l *list, ops []admissionregistrationv1.OperationType, groups, versions, resources []string, p *field.Path) {
	if len(ops) == 0 {
		l.required(p.Child("operations"), "")
	}
	for i, op := range ops {
		oneOf(l, p.Child("operations").Index(i), op, admissionregistrationv1.OperationAll, admissionregistrationv1.Create, admissionregistrationv1.Update, admissionregistrationv1.Delete, admissionregistrationv1.Connect)
	}
	for name, v := range map[string][]string{"apiGroups": groups, "apiVersions": versions, "resources": resources} {
		if len(v) == 0 {
			l.required(p.Child(name), "")
		}
	}
}

func matchCondition(l *list, name, expression string, p *field.Path) {
	if strings.TrimSpace(expression) == "" {
		l.required(p.Child("expression"), "")
	} else if err := compiles(expression); err != nil {
		l.add(field.Invalid(p.Child("expression"), expression, "compilation failed: "+err.Error()))
	}
	if name == "" {
		l.required(p.Child("name"), "")
	} else {
		l.qualifiedName(p.Child("name"), name)
	}
}

func flowSchema(f *flowcontrolv1.FlowSchema) field.ErrorList {
	l := &list{}
	if f.Spec.MatchingPrecedence < 1 || f.Spec.MatchingPrecedence > flowcontrolv1.FlowSchemaMaxMatchingPrecedence {
		l.add(field.Invalid(specPath.Child("matchingPrecedence"), f.Spec.MatchingPrecedence, "must be between 1 and 10000"))
	}
	if f.Spec.PriorityLevelConfiguration.Name == "" {
		l.required(specPath.Child("priorityLevelConfiguration").Child("name"), "must reference a priority level")
	}
	if m := f.Spec.DistinguisherMethod; m != nil {
		oneOf(l, specPath.Child("distinguisherMethod", "type"), m.Type, flowcontrolv1.FlowDistinguisherMethodByNamespaceType, flowcontrolv1.FlowDistinguisherMethodByUserType)
	}
	return l.ErrorList
}

func priorityLevel(c *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	l := &list{}
	switch c.Spec.Type {
	case flowcontrolv1.PriorityLevelEnablementExempt:
		if c.Spec.Limited != nil {
			l.add(field.Forbidden(specPath.Child("limited"), "must be nil if the type is Exempt"))
		}
	case flowcontrolv1.PriorityLevelEnablementLimited:
		if c.Spec.Limited == nil {
			l.required(specPath.Child("limited"), "must not be empty when type is Limited")
		} else {
			oneOf(l, specPath.Child("limited", "limitResponse", "type"), c.Spec.Limited.LimitResponse.Type, flowcontrolv1.LimitResponseTypeQueue, flowcontrolv1.LimitResponseTypeReject)
		}
	default:
		oneOf(l, specPath.Child("type"), c.Spec.Type, flowcontrolv1.PriorityLevelEnablementExempt, flowcontrolv1.PriorityLevelEnablementLimited)
	}
	return l.ErrorList
}

// highestUserPriority is the most that a user's priority class may have; what is above is the system's.
const highestUserPriority = 1000000000
