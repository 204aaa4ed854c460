package endpoints

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

func svc(headless bool, ports ...int32) *corev1.Service {
	s := &corev1.Service{Spec: corev1.ServiceSpec{ClusterIP: "10.43.0.9", IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}}}
	if headless {
		s.Spec.ClusterIP = corev1.ClusterIPNone
	}
	for _, p := range ports {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Port: p})
	}
	return s
}

// slice makes one from ports and endpoints like "10.0.0.1", "10.0.0.2!" (not ready), "10.0.0.3x" (terminating).
func slice(family discoveryv1.AddressType, ports []int32, eps ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{AddressType: family}
	for _, p := range ports {
		name, proto := fmt.Sprintf("p%d", p), corev1.ProtocolTCP
		s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: &name, Port: &p, Protocol: &proto})
	}
	for _, e := range eps {
		ip := strings.TrimRight(e, "!x")
		ready, dying := ip == e, strings.HasSuffix(e, "x")
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{ip},
			Conditions: discoveryv1.EndpointConditions{Ready: &ready, Terminating: &dying},
			TargetRef:  &corev1.ObjectReference{UID: types.UID("pod-" + ip)},
		})
	}
	return s
}

func show(subsets []corev1.EndpointSubset) string {
	var out []string
	for _, s := range subsets {
		var b strings.Builder
		for _, a := range s.Addresses {
			b.WriteString(a.IP + " ")
		}
		for _, a := range s.NotReadyAddresses {
			b.WriteString(a.IP + "! ")
		}
		b.WriteString(":")
		for _, p := range s.Ports {
			fmt.Fprintf(&b, " %d", p.Port)
		}
		out = append(out, b.String())
	}
	return strings.Join(out, "; ")
}

func TestDerive(t *testing.T) {
	v4, v6 := discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6
	for _, c := range []struct {
		name   string
		svc    *corev1.Service
		slices []*discoveryv1.EndpointSlice
		want   string
	}{
		{"empty placeholder", svc(false, 80), []*discoveryv1.EndpointSlice{slice(v4, nil)}, ""},
		{"ready and not, sorted", svc(false, 80), []*discoveryv1.EndpointSlice{slice(v4, []int32{8080}, "10.0.0.2", "10.0.0.3!", "10.0.0.1")}, "10.0.0.1 10.0.0.2 10.0.0.3! : 8080"},
		{"terminating pods are left out", svc(false, 80), []*discoveryv1.EndpointSlice{slice(v4, []int32{80}, "10.0.0.1x", "10.0.0.2")}, "10.0.0.2 : 80"},
		{"slices of equal ports merge, doubles go", svc(false, 80), []*discoveryv1.EndpointSlice{
			slice(v4, []int32{80}, "10.0.0.1"), slice(v4, []int32{80}, "10.0.0.2", "10.0.0.1"),
		}, "10.0.0.1 10.0.0.2 : 80"},
		{"different ports are subsets", svc(false, 80), []*discoveryv1.EndpointSlice{
			slice(v4, []int32{8080}, "10.0.0.1"), slice(v4, []int32{9090}, "10.0.0.2"),
		}, "10.0.0.1 : 8080; 10.0.0.2 : 9090"},
		{"a port that a pod lacks", svc(false, 80), []*discoveryv1.EndpointSlice{slice(v4, nil, "10.0.0.1")}, ""},
		{"headless without ports", svc(true), []*discoveryv1.EndpointSlice{slice(v4, nil, "10.0.0.1")}, "10.0.0.1 :"},
		{"the first family only", svc(false, 80), []*discoveryv1.EndpointSlice{slice(v6, []int32{80}, "fd00::1"), slice(v4, []int32{80}, "10.0.0.1")}, "10.0.0.1 : 80"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, over := derive(c.svc, c.slices)
			if s := show(got); s != c.want || over {
				t.Errorf("got %q (over %v), want %q", s, over, c.want)
			}
		})
	}
}

func TestCapacity(t *testing.T) {
	many := func(port int32, n int, suffix string) *discoveryv1.EndpointSlice {
		var eps []string
		for i := range n {
			eps = append(eps, fmt.Sprintf("10.%d.%d.%d%s", port%200, i/250, i%250, suffix))
		}
		return slice(discoveryv1.AddressTypeIPv4, []int32{port}, eps...)
	}
	for _, c := range []struct {
		slices      []*discoveryv1.EndpointSlice
		ready, not  int
		over        bool
		description string
	}{
		{[]*discoveryv1.EndpointSlice{many(80, 1000, "")}, 1000, 0, false, "as many as fit"},
		{[]*discoveryv1.EndpointSlice{many(80, 900, ""), many(81, 900, "")}, 1000, 0, true, "too many ready ones"},
		{[]*discoveryv1.EndpointSlice{many(80, 900, ""), many(81, 900, "!")}, 900, 100, true, "unready ones make way"},
	} {
		got, over := derive(svc(false, 80), c.slices)
		ready, not := 0, 0
		for _, s := range got {
			ready, not = ready+len(s.Addresses), not+len(s.NotReadyAddresses)
		}
		if ready != c.ready || not != c.not || over != c.over {
			t.Errorf("%s: %d ready, %d not, over %v", c.description, ready, not, over)
		}
	}
}
