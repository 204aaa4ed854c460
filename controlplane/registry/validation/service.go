package validation

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func service(s *corev1.Service) field.ErrorList {
	l := &list{}
	spec, p := &s.Spec, field.NewPath("spec")
	headless := spec.ClusterIP == corev1.ClusterIPNone
	if len(spec.Ports) == 0 && !headless && spec.Type != corev1.ServiceTypeExternalName {
		l.required(p.Child("ports"), "")
	}
	oneOf(l, p.Child("type"), spec.Type, corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort)
	switch spec.Type {
	case corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort:
		if headless {
			l.add(field.Invalid(p.Child("clusterIPs").Index(0), spec.ClusterIP, fmt.Sprintf("may not be set to 'None' for %s services", spec.Type)))
		}
	case corev1.ServiceTypeExternalName:
		if spec.ExternalName == "" {
			l.required(p.Child("externalName"), "")
		} else {
			l.messages(p.Child("externalName"), spec.ExternalName, validation.IsDNS1123Subdomain(trimDot(spec.ExternalName)))
		}
		if spec.ClusterIP != "" && !headless || len(spec.ClusterIPs) > 0 && !headless {
			l.add(field.Forbidden(p.Child("clusterIPs"), "may not be set when `type` is 'ExternalName'"))
		}
	}
	servicePorts(l, spec, headless, p.Child("ports"))
	l.addAll(metav1validation.ValidateLabels(spec.Selector, p.Child("selector")))
	oneOf(l, p.Child("sessionAffinity"), spec.SessionAffinity, corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)
	if c := spec.SessionAffinityConfig; spec.SessionAffinity == corev1.ServiceAffinityClientIP && c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		if t := *c.ClientIP.TimeoutSeconds; t <= 0 || t > 86400 {
			l.add(field.Invalid(p.Child("sessionAffinityConfig", "clientIP", "timeoutSeconds"), t, "must be greater than 0 and less than 86400"))
		}
	}
	if !headless && spec.ClusterIP != "" {
		l.ip(p.Child("clusterIPs").Index(0), spec.ClusterIP)
	}
	for i, ip := range spec.ExternalIPs {
		ep := p.Child("externalIPs").Index(i)
		if a, err := netip.ParseAddr(ip); err != nil {
			l.add(field.Invalid(ep, ip, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"))
		} else if a.IsUnspecified() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsLinkLocalMulticast() {
			l.add(field.Invalid(ep, ip, "may not be unspecified, loopback or link-local"))
		}
	}
	if spec.ExternalTrafficPolicy != "" {
		oneOf(l, p.Child("externalTrafficPolicy"), spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)
	}
	if f := spec.IPFamilyPolicy; f != nil {
		oneOf(l, p.Child("ipFamilyPolicy"), *f, corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicySingleStack)
	}
	if spec.HealthCheckNodePort != 0 && !(spec.Type == corev1.ServiceTypeLoadBalancer && spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal) {
		l.add(field.Invalid(p.Child("healthCheckNodePort"), spec.HealthCheckNodePort, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"))
	}
	if spec.InternalTrafficPolicy != nil {
		oneOf(l, p.Child("internalTrafficPolicy"), *spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)
	}
	for i, r := range spec.LoadBalancerSourceRanges {
		rp := p.Child("loadBalancerSourceRanges").Index(i)
		if spec.Type != corev1.ServiceTypeLoadBalancer {
			l.add(field.Forbidden(p.Child("LoadBalancerSourceRanges"), "may only be used when `type` is 'LoadBalancer'"))
			break
		}
		l.addAll(validation.IsValidCIDR(rp, r))
	}
	if c := spec.LoadBalancerClass; c != nil {
		if spec.Type != corev1.ServiceTypeLoadBalancer {
			l.add(field.Forbidden(p.Child("loadBalancerClass"), "may only be used when `type` is 'LoadBalancer'"))
		}
		l.qualifiedName(p.Child("loadBalancerClass"), *c)
	}
	if d := spec.TrafficDistribution; d != nil {
		oneOf(l, p.Child("trafficDistribution"), *d, corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode)
	}
	return l.ErrorList
}

func trimDot(s string) string {
	if n := len(s); n > 0 && s[n-1] == '.' {
		return s[:n-1]
	}
	return s
}

func servicePorts(l *list, spec *corev1.ServiceSpec, headless bool, p *field.Path) {
	names, ports, nodePorts := unique[string]{}, unique[string]{}, unique[string]{}
	for i := range spec.Ports {
		port, ip := &spec.Ports[i], p.Index(i)
		if port.Name == "" {
			if len(spec.Ports) > 1 {
				l.required(ip.Child("name"), "")
			}
		} else {
			l.dnsLabel(ip.Child("name"), port.Name)
			names.check(l, ip.Child("name"), port.Name, port.Name)
		}
		l.port(ip.Child("port"), port.Port)
		l.protocol(ip.Child("protocol"), port.Protocol)
		l.portRef(ip.Child("targetPort"), port.TargetPort)
		if port.AppProtocol != nil {
			l.qualifiedName(ip.Child("appProtocol"), *port.AppProtocol)
		}
		if headless && spec.Type == corev1.ServiceTypeClusterIP && port.TargetPort.Type == intstr.Int && port.TargetPort.IntVal == 0 {
			l.add(field.Invalid(ip.Child("port"), port.Port, "must be equal to targetPort when clusterIP = None"))
		}
		ports.check(l, ip, fmt.Sprintf("%s/%d", port.Protocol, port.Port), *port)
		if port.NodePort != 0 {
			l.port(ip.Child("nodePort"), port.NodePort)
			if spec.Type != corev1.ServiceTypeNodePort && spec.Type != corev1.ServiceTypeLoadBalancer {
				l.add(field.Forbidden(ip.Child("nodePort"), fmt.Sprintf("may not be used when `type` is '%s'", spec.Type)))
			}
			nodePorts.check(l, ip.Child("nodePort"), fmt.Sprintf("%s/%d", port.Protocol, port.NodePort), port.NodePort)
		}
	}
}

func serviceUpdate(s, old *corev1.Service) field.ErrorList {
	l := &list{service(s)}
	p := field.NewPath("spec")
	if old.Spec.Type != corev1.ServiceTypeExternalName && s.Spec.Type != corev1.ServiceTypeExternalName && old.Spec.ClusterIP != "" && s.Spec.ClusterIP != old.Spec.ClusterIP {
		l.add(field.Invalid(p.Child("clusterIPs").Index(0), s.Spec.ClusterIPs, "may not change once set"))
	}
	local := func(s *corev1.Service) bool {
		return s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	}
	if local(old) && local(s) && old.Spec.HealthCheckNodePort != 0 && s.Spec.HealthCheckNodePort != old.Spec.HealthCheckNodePort {
		l.add(field.Forbidden(p.Child("healthCheckNodePort"), "field is immutable"))
	}
	if a, b := old.Spec.LoadBalancerClass, s.Spec.LoadBalancerClass; old.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.Type == corev1.ServiceTypeLoadBalancer &&
		(a == nil) != (b == nil) || (a != nil && b != nil && *a != *b) {
		l.add(field.Invalid(p.Child("loadBalancerClass"), b, "may not change once set"))
	}
	return l.ErrorList
}

func endpoints(e *corev1.Endpoints) field.ErrorList {
	l := &list{}
	for i, s := range e.Subsets {
		p := field.NewPath("subsets").Index(i)
		if len(s.Addresses)+len(s.NotReadyAddresses) == 0 {
			l.required(p, "must specify `addresses` or `notReadyAddresses`")
		}
		for name, addrs := range map[string][]corev1.EndpointAddress{"addresses": s.Addresses, "notReadyAddresses": s.NotReadyAddresses} {
			for j, a := range addrs {
				ap := p.Child(name).Index(j)
				endpointAddress(l, a.IP, ap.Child("ip"))
				if a.Hostname != "" {
					l.dnsLabel(ap.Child("hostname"), a.Hostname)
				}
				if a.NodeName != nil {
					l.dnsSubdomain(ap.Child("nodeName"), *a.NodeName)
				}
			}
		}
		for j, port := range s.Ports {
			pp := p.Child("ports").Index(j)
			if port.Name == "" && len(s.Ports) > 1 {
				l.required(pp.Child("name"), "")
			} else if port.Name != "" {
				l.dnsLabel(pp.Child("name"), port.Name)
			}
			l.port(pp.Child("port"), port.Port)
			l.protocol(pp.Child("protocol"), port.Protocol)
		}
	}
	return l.ErrorList
}

func endpointAddress(l *list, ip string, p *field.Path) {
	a, err := netip.ParseAddr(ip)
	switch {
	case err != nil:
		l.add(field.Invalid(p, ip, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"))
	case a.IsUnspecified():
		l.add(field.Invalid(p, ip, fmt.Sprintf("may not be unspecified (%v)", ip)))
	case a.IsLoopback():
		l.add(field.Invalid(p, ip, "may not be in the loopback range (127.0.0.0/8, ::1/128)"))
	case a.IsLinkLocalUnicast():
		l.add(field.Invalid(p, ip, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"))
	case a.IsLinkLocalMulticast():
		l.add(field.Invalid(p, ip, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"))
	}
}

// hints name the zones and nodes that should use an endpoint.
func hints(l *list, h *discoveryv1.EndpointHints, p *field.Path) {
	if n := len(h.ForZones); n > 8 {
		l.add(field.TooMany(p.Child("forZones"), n, 8))
		return
	}
	if n := len(h.ForNodes); n > 8 {
		l.add(field.TooMany(p.Child("forNodes"), n, 8))
		return
	}
	zones, nodes := unique[string]{}, unique[string]{}
	for i, z := range h.ForZones {
		zp := p.Child("forZones").Index(i).Child("name")
		zones.check(l, zp, z.Name, z.Name)
		l.messages(zp, z.Name, validation.IsValidLabelValue(z.Name))
	}
	for i, n := range h.ForNodes {
		np := p.Child("forNodes").Index(i).Child("name")
		nodes.check(l, np, n.Name, n.Name)
		l.dnsSubdomain(np, n.Name)
	}
}

func endpointSlice(s *discoveryv1.EndpointSlice) field.ErrorList {
	l := &list{}
	if s.AddressType == "" {
		l.required(field.NewPath("addressType"), "")
	} else {
		oneOf(l, field.NewPath("addressType"), s.AddressType, discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6)
	}
	if n := len(s.Endpoints); n > 1000 {
		l.add(field.TooMany(field.NewPath("endpoints"), n, 1000))
	}
	if n := len(s.Ports); n > 20000 {
		l.add(field.TooMany(field.NewPath("ports"), n, 20000))
	}
	for i, e := range s.Endpoints {
		p := field.NewPath("endpoints").Index(i)
		if n := len(e.Addresses); n == 0 {
			l.required(p.Child("addresses"), "must contain at least 1 address")
		} else if n > 100 {
			l.add(field.TooMany(p.Child("addresses"), n, 100))
		}
		for j, a := range e.Addresses {
			ap := p.Child("addresses").Index(j)
			if s.AddressType == discoveryv1.AddressTypeFQDN {
				l.addAll(validation.IsFullyQualifiedDomainName(ap, a))
				continue
			}
			endpointAddress(l, a, ap)
			known := s.AddressType == discoveryv1.AddressTypeIPv4 || s.AddressType == discoveryv1.AddressTypeIPv6
			if ip, err := netip.ParseAddr(a); known && err == nil && ip.Is4() != (s.AddressType == discoveryv1.AddressTypeIPv4) {
				l.add(field.Invalid(ap, a, "must be an "+string(s.AddressType)+" address"))
			}
		}
		if e.Hostname != nil {
			l.dnsLabel(p.Child("hostname"), *e.Hostname)
		}
		if e.NodeName != nil {
			l.dnsSubdomain(p.Child("nodeName"), *e.NodeName)
		}
		if e.Hints != nil {
			hints(l, e.Hints, p.Child("hints"))
		}
	}
	names := unique[string]{}
	for i, port := range s.Ports {
		p := field.NewPath("ports").Index(i)
		if port.Name != nil {
			if *port.Name != "" {
				l.dnsLabel(p.Child("name"), *port.Name)
			}
			names.check(l, p.Child("name"), *port.Name, *port.Name)
		}
		if port.Protocol == nil {
			l.required(p.Child("protocol"), "")
		} else {
			oneOf(l, p.Child("protocol"), *port.Protocol, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)
		}
		if port.AppProtocol != nil {
			l.qualifiedName(p.Child("appProtocol"), *port.AppProtocol)
		}
	}
	return l.ErrorList
}
