package endpoints

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/utils/net"
)

// capacity is the most addresses that one Endpoints object holds; a Service with more is cut and marked.
const capacity = 1000

const (
	managedByLabel = "endpoints.kubernetes.io/managed-by"
	manager        = "endpoint-controller"
)

// derive makes the subsets of a Service's Endpoints from its slices. Endpoints hold one IP family only, the Service's
// first, and no terminating pods, unless unready addresses are published too. over says that some were left out.
func derive(svc *corev1.Service, all []*discoveryv1.EndpointSlice) (subsets []corev1.EndpointSubset, over bool) {
	family := discoveryv1.AddressTypeIPv4
	if len(svc.Spec.IPFamilies) > 0 && svc.Spec.IPFamilies[0] == corev1.IPv6Protocol ||
		len(svc.Spec.IPFamilies) == 0 && utilnet.IsIPv6String(svc.Spec.ClusterIP) {
		family = discoveryv1.AddressTypeIPv6
	}
	groups := map[string]*corev1.EndpointSubset{}
	for _, s := range all {
		if s.AddressType != family || len(s.Endpoints) == 0 || (len(s.Ports) == 0 && len(svc.Spec.Ports) > 0) {
			continue
		}
		ports, key := portsOf(s)
		g := groups[key]
		if g == nil {
			g = &corev1.EndpointSubset{Ports: ports}
			groups[key] = g
		}
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			switch {
			case len(e.Addresses) == 0:
			case e.Conditions.Ready == nil || *e.Conditions.Ready:
				g.Addresses = append(g.Addresses, address(e))
			case e.Conditions.Terminating == nil || !*e.Conditions.Terminating:
				g.NotReadyAddresses = append(g.NotReadyAddresses, address(e))
			}
		}
	}
	ready, notReady := 0, 0
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		g := groups[key]
		if len(g.Addresses)+len(g.NotReadyAddresses) == 0 {
			continue
		}
		g.Addresses, g.NotReadyAddresses = tidy(g.Addresses), tidy(g.NotReadyAddresses)
		ready, notReady = ready+len(g.Addresses), notReady+len(g.NotReadyAddresses)
		subsets = append(subsets, *g)
	}
	if ready+notReady <= capacity {
		return subsets, false
	}
	truncate(subsets, ready, notReady)
	return subsets, true
}

// truncate keeps as many addresses as fit, ready ones first, spread over the subsets in proportion to their sizes.
func truncate(subsets []corev1.EndpointSubset, ready, notReady int) {
	room := capacity
	cut := func(list []corev1.EndpointAddress, total, room int, left *int) []corev1.EndpointAddress {
		n := min(*left, (len(list)*room+total-1)/max(total, 1), len(list))
		*left -= n
		return list[:n:n]
	}
	if ready > capacity {
		left := room
		for i := range subsets {
			subsets[i].Addresses = cut(subsets[i].Addresses, ready, room, &left)
			subsets[i].NotReadyAddresses = nil
		}
		return
	}
	room -= ready
	left := room
	for i := range subsets {
		subsets[i].NotReadyAddresses = cut(subsets[i].NotReadyAddresses, notReady, room, &left)
	}
}

func address(e *discoveryv1.Endpoint) corev1.EndpointAddress {
	a := corev1.EndpointAddress{IP: e.Addresses[0], NodeName: e.NodeName, TargetRef: e.TargetRef}
	if e.Hostname != nil {
		a.Hostname = *e.Hostname
	}
	return a
}

// tidy sorts addresses and drops doubles: a pod may stand in two slices while it moves from one to the other.
func tidy(list []corev1.EndpointAddress) []corev1.EndpointAddress {
	slices.SortFunc(list, func(a, b corev1.EndpointAddress) int {
		return cmp.Or(strings.Compare(a.IP, b.IP), strings.Compare(string(target(a)), string(target(b))))
	})
	return slices.CompactFunc(list, func(a, b corev1.EndpointAddress) bool { return a.IP == b.IP && target(a) == target(b) })
}

func target(a corev1.EndpointAddress) types.UID {
	if a.TargetRef == nil {
		return ""
	}
	return a.TargetRef.UID
}

// portsOf returns a slice's ports in a fixed order, and a key that slices with equal ports share.
func portsOf(s *discoveryv1.EndpointSlice) (ports []corev1.EndpointPort, key string) {
	for _, p := range s.Ports {
		if p.Port == nil {
			continue
		}
		port := corev1.EndpointPort{Port: *p.Port, Protocol: corev1.ProtocolTCP, AppProtocol: p.AppProtocol}
		if p.Name != nil {
			port.Name = *p.Name
		}
		if p.Protocol != nil {
			port.Protocol = *p.Protocol
		}
		ports = append(ports, port)
	}
	slices.SortFunc(ports, func(a, b corev1.EndpointPort) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.Port, b.Port), strings.Compare(string(a.Protocol), string(b.Protocol)))
	})
	var b strings.Builder
	for _, p := range ports {
		b.WriteString(p.String())
	}
	return ports, b.String()
}

// labelsFor are the labels of the Endpoints: the Service's, who manages them, and whether the Service is headless.
func labelsFor(svc *corev1.Service) map[string]string {
	l := maps.Clone(svc.Labels)
	if l == nil {
		l = map[string]string{}
	}
	delete(l, corev1.IsHeadlessService)
	if svc.Spec.ClusterIP == corev1.ClusterIPNone {
		l[corev1.IsHeadlessService] = ""
	}
	l[managedByLabel] = manager
	return l
}

// annotationsFor keeps what others put there, and adds when the last change was caused, and whether addresses are missing.
func annotationsFor(have map[string]string, all []*discoveryv1.EndpointSlice, over bool) map[string]string {
	a := maps.Clone(have)
	if a == nil {
		a = map[string]string{}
	}
	delete(a, corev1.EndpointsLastChangeTriggerTime)
	for _, s := range all {
		if t := s.Annotations[corev1.EndpointsLastChangeTriggerTime]; t > a[corev1.EndpointsLastChangeTriggerTime] {
			a[corev1.EndpointsLastChangeTriggerTime] = t
		}
	}
	delete(a, corev1.EndpointsOverCapacity)
	if over {
		a[corev1.EndpointsOverCapacity] = "truncated"
	}
	return a
}
