package endpointslicemirroring

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	utilnet "k8s.io/utils/net"
)

// Manager is the value of the managed-by label on mirrored slices.
const Manager = "endpointslicemirroring-controller.k8s.io"

// maxPerSubset bounds what is mirrored of one subset, so that a subset becomes one slice an IP family.
const maxPerSubset = 1000

var endpointsKind = corev1.SchemeGroupVersion.WithKind("Endpoints")

// mirrored says whether Endpoints ask to be mirrored. A Service of the name, without a selector, must exist too.
func mirrored(ep *corev1.Endpoints) bool {
	_, election := ep.Annotations[resourcelock.LeaderElectionRecordAnnotationKey]
	return ep.Labels[discoveryv1.LabelSkipMirror] != "true" && !election
}

// mirror makes the slices that say the same as the Endpoints, one for each set of ports and IP family.
// invalid addresses, and those beyond the limit, are left out and counted.
func mirror(ep *corev1.Endpoints) (out []*discoveryv1.EndpointSlice, invalid, skipped int) {
	byKey := map[string]*discoveryv1.EndpointSlice{}
	for i := range ep.Subsets {
		sub := &ep.Subsets[i]
		ports, key := portsOf(sub)
		added := 0
		add := func(list []corev1.EndpointAddress, ready bool) {
			for j := range list {
				if added >= maxPerSubset {
					skipped++
					continue
				}
				e, family, ok := endpoint(&list[j], ready)
				if !ok {
					invalid++
					continue
				}
				s := byKey[string(family)+key]
				if s == nil {
					s = newSlice(ep, ports, family)
					byKey[string(family)+key] = s
				}
				s.Endpoints = append(s.Endpoints, e)
				added++
			}
		}
		add(sub.Addresses, true)
		add(sub.NotReadyAddresses, false)
	}
	for _, key := range slices.Sorted(maps.Keys(byKey)) {
		tidy(byKey[key])
		out = append(out, byKey[key])
	}
	return out, invalid, skipped
}

// tidy sorts a slice's endpoints and drops doubles; an address that is listed as ready and as not ready is ready.
func tidy(s *discoveryv1.EndpointSlice) {
	slices.SortStableFunc(s.Endpoints, func(a, b discoveryv1.Endpoint) int {
		return cmp.Or(strings.Compare(a.Addresses[0], b.Addresses[0]), strings.Compare(target(a), target(b)))
	})
	s.Endpoints = slices.CompactFunc(s.Endpoints, func(a, b discoveryv1.Endpoint) bool {
		return a.Addresses[0] == b.Addresses[0] && target(a) == target(b)
	})
}

func target(e discoveryv1.Endpoint) string {
	if e.TargetRef == nil {
		return ""
	}
	return string(e.TargetRef.UID)
}

func endpoint(a *corev1.EndpointAddress, ready bool) (discoveryv1.Endpoint, discoveryv1.AddressType, bool) {
	ip := utilnet.ParseIPSloppy(a.IP) // old Endpoints may hold leading zeros
	addr, ok := netip.AddrFromSlice(ip)
	if !ok {
		return discoveryv1.Endpoint{}, "", false
	}
	addr = addr.Unmap()
	family := discoveryv1.AddressTypeIPv6
	if addr.Is4() {
		family = discoveryv1.AddressTypeIPv4
	}
	e := discoveryv1.Endpoint{
		Addresses:  []string{addr.String()},
		Conditions: discoveryv1.EndpointConditions{Ready: &ready},
		NodeName:   a.NodeName,
		TargetRef:  a.TargetRef,
	}
	if a.Hostname != "" {
		e.Hostname = &a.Hostname
	}
	return e, family, true
}

func portsOf(sub *corev1.EndpointSubset) ([]discoveryv1.EndpointPort, string) {
	ports := make([]discoveryv1.EndpointPort, 0, len(sub.Ports))
	for i := range sub.Ports {
		p := &sub.Ports[i]
		ports = append(ports, discoveryv1.EndpointPort{Name: &p.Name, Port: &p.Port, Protocol: &p.Protocol, AppProtocol: p.AppProtocol})
	}
	slices.SortFunc(ports, func(a, b discoveryv1.EndpointPort) int {
		return cmp.Or(strings.Compare(*a.Name, *b.Name), cmp.Compare(*a.Port, *b.Port), strings.Compare(string(*a.Protocol), string(*b.Protocol)))
	})
	return ports, portsKey(ports)
}

func portsKey(ports []discoveryv1.EndpointPort) string {
	var b strings.Builder
	for i := range ports {
		b.WriteString(ports[i].String())
	}
	return b.String()
}

func newSlice(ep *corev1.Endpoints, ports []discoveryv1.EndpointPort, family discoveryv1.AddressType) *discoveryv1.EndpointSlice {
	l := maps.Clone(ep.Labels)
	if l == nil {
		l = map[string]string{}
	}
	l[discoveryv1.LabelServiceName] = ep.Name
	l[discoveryv1.LabelManagedBy] = Manager
	a := maps.Clone(ep.Annotations)
	delete(a, corev1.EndpointsLastChangeTriggerTime)
	delete(a, corev1.LastAppliedConfigAnnotation)
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: ep.Name + "-", Namespace: ep.Namespace, Labels: l, Annotations: a,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(ep, endpointsKind)},
		},
		AddressType: family,
		Ports:       ports,
	}
}

// changes are what turns the slices that there are into the wanted ones.
type changes struct {
	create, update, remove []*discoveryv1.EndpointSlice
}

// diff keeps slices that are right, reuses others of the same IP family, which can't change, and deletes the rest.
func diff(have, want []*discoveryv1.EndpointSlice) changes {
	var c changes
	left := slices.Clone(have)
	take := func(fits func(*discoveryv1.EndpointSlice) bool) *discoveryv1.EndpointSlice {
		i := slices.IndexFunc(left, fits)
		if i < 0 {
			return nil
		}
		s := left[i]
		left = slices.Delete(left, i, i+1)
		return s
	}
	var open []*discoveryv1.EndpointSlice
	for _, w := range want {
		if take(func(h *discoveryv1.EndpointSlice) bool { return equal(h, w) }) == nil {
			open = append(open, w)
		}
	}
	for _, w := range open {
		h := take(func(h *discoveryv1.EndpointSlice) bool {
			return h.AddressType == w.AddressType && portsKey(h.Ports) == portsKey(w.Ports)
		})
		if h == nil {
			h = take(func(h *discoveryv1.EndpointSlice) bool { return h.AddressType == w.AddressType })
		}
		if h == nil {
			c.create = append(c.create, w)
			continue
		}
		next := h.DeepCopy()
		next.Labels, next.Annotations, next.OwnerReferences = w.Labels, w.Annotations, w.OwnerReferences
		next.Ports, next.Endpoints = w.Ports, w.Endpoints
		c.update = append(c.update, next)
	}
	c.remove = left
	return c
}

func equal(a, b *discoveryv1.EndpointSlice) bool {
	return a.AddressType == b.AddressType && maps.Equal(a.Labels, b.Labels) && maps.Equal(a.Annotations, b.Annotations) &&
		equality.Semantic.DeepEqual(a.OwnerReferences, b.OwnerReferences) &&
		equality.Semantic.DeepEqual(a.Ports, b.Ports) && equality.Semantic.DeepEqual(a.Endpoints, b.Endpoints)
}
