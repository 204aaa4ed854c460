package core

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/utils/ptr"
)

func zero(int) int { return 0 }

func TestPortClaim(t *testing.T) {
	r := utilnet.PortRange{Base: 30000, Size: 100}
	b := make(bitmap, 13)
	got, err := b.claim(r, claim{wanted: []int{30016}, any: 2}, zero)
	if err != nil || !slices.Equal(got, []int{30017, 30018}) {
		t.Fatalf("%v, %v", got, err) // the first 16 are left to those who choose
	}
	var pe *portError
	if _, err := b.claim(r, claim{wanted: []int{30017}}, zero); !errors.Is(err, errPortTaken) || !errors.As(err, &pe) || pe.port != 30017 {
		t.Errorf("a port in use: %v", err)
	}
	if _, err := b.claim(r, claim{wanted: []int{80}}, zero); err == nil {
		t.Error("a port outside of the range")
	}
	if got, err := b.claim(r, claim{any: 97}, zero); err != nil || len(got) != 97 {
		t.Errorf("the rest: %d, %v", len(got), err)
	}
	if _, err := b.claim(r, claim{any: 1}, zero); !errors.Is(err, errRangeFull) {
		t.Errorf("a full range: %v", err)
	}
	b.set(99, false)
	if got, err := b.claim(r, claim{any: 1}, zero); err != nil || got[0] != 30099 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestHosts(t *testing.T) {
	for _, c := range []struct {
		prefix, first, last string
		reserved            uint64
	}{
		{"10.43.0.0/16", "10.43.0.1", "10.43.255.254", 256},
		{"10.0.0.0/24", "10.0.0.1", "10.0.0.254", 16},
		{"10.0.0.0/29", "10.0.0.1", "10.0.0.6", 0},
		{"fd00::/112", "fd00::1", "fd00::ffff", 256},
	} {
		first, count, reserved := hosts(netip.MustParsePrefix(c.prefix))
		if first.String() != c.first || offset(first, count-1).String() != c.last || reserved != c.reserved {
			t.Errorf("%s: %s to %s, %d reserved", c.prefix, first, offset(first, count-1), reserved)
		}
	}
	p := netip.MustParsePrefix("10.0.0.0/24")
	for ip, want := range map[string]bool{"10.0.0.0": false, "10.0.0.1": true, "10.0.0.254": true, "10.0.0.255": false, "10.0.1.1": false} {
		if usable(p, netip.MustParseAddr(ip)) != want {
			t.Errorf("%s: want %v", ip, want)
		}
	}
}

func svc(t corev1.ServiceType, ports ...corev1.ServicePort) *corev1.Service {
	return &corev1.Service{Spec: corev1.ServiceSpec{Type: t, Ports: ports}}
}

func TestNormalizeClusterIPs(t *testing.T) {
	for _, c := range []struct {
		name   string
		ip     string
		ips    []string
		oldIP  string
		oldIPs []string
		update bool
		want   []string
	}{
		{"create, old client", "1.1.1.1", nil, "", nil, false, []string{"1.1.1.1"}},
		{"update, old client", "1.1.1.1", nil, "1.1.1.1", []string{"1.1.1.1"}, true, []string{"1.1.1.1"}},
		{"cleared by an old client", "", []string{"1.1.1.1"}, "1.1.1.1", []string{"1.1.1.1"}, true, nil},
		{"changed by an old client", "2.2.2.2", []string{"1.1.1.1"}, "1.1.1.1", []string{"1.1.1.1"}, true, []string{"2.2.2.2"}},
		{"changed by a new client", "2.2.2.2", []string{"3.3.3.3"}, "1.1.1.1", []string{"1.1.1.1"}, true, []string{"3.3.3.3"}},
	} {
		s, old := svc(corev1.ServiceTypeClusterIP), (*corev1.Service)(nil)
		s.Spec.ClusterIP, s.Spec.ClusterIPs = c.ip, c.ips
		if c.update {
			old = svc(corev1.ServiceTypeClusterIP)
			old.Spec.ClusterIP, old.Spec.ClusterIPs = c.oldIP, c.oldIPs
		}
		normalizeClusterIPs(s, old)
		if !slices.Equal(s.Spec.ClusterIPs, c.want) {
			t.Errorf("%s: %v, want %v", c.name, s.Spec.ClusterIPs, c.want)
		}
	}
}

func TestCarryAllocated(t *testing.T) {
	old := svc(corev1.ServiceTypeNodePort, corev1.ServicePort{Name: "a", NodePort: 30001}, corev1.ServicePort{Name: "b", NodePort: 30002})
	old.Spec.ClusterIP, old.Spec.ClusterIPs = "1.1.1.1", []string{"1.1.1.1"}
	s := svc(corev1.ServiceTypeNodePort, corev1.ServicePort{Name: "b"}, corev1.ServicePort{Name: "a", NodePort: 30002}, corev1.ServicePort{Name: "c"})
	carryAllocated(s, old)
	p := s.Spec.Ports
	if s.Spec.ClusterIP != "1.1.1.1" || p[0].NodePort != 0 || p[1].NodePort != 30002 || p[2].NodePort != 0 {
		t.Errorf("%+v: a port that was given to another name must not come back", s.Spec)
	}
}

func TestDropForType(t *testing.T) {
	old := svc(corev1.ServiceTypeLoadBalancer, corev1.ServicePort{NodePort: 30001})
	old.Spec.ClusterIP, old.Spec.ClusterIPs = "1.1.1.1", []string{"1.1.1.1"}
	old.Spec.ExternalTrafficPolicy, old.Spec.HealthCheckNodePort = corev1.ServiceExternalTrafficPolicyLocal, 30009
	old.Spec.AllocateLoadBalancerNodePorts = ptr.To(true)
	s := old.DeepCopy()
	s.Spec.Type = corev1.ServiceTypeClusterIP
	dropForType(s, old)
	if s.Spec.ClusterIP != "1.1.1.1" || s.Spec.Ports[0].NodePort != 0 || s.Spec.HealthCheckNodePort != 0 ||
		s.Spec.ExternalTrafficPolicy != "" || s.Spec.AllocateLoadBalancerNodePorts != nil {
		t.Errorf("%+v", s.Spec)
	}
	s = old.DeepCopy()
	s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeClusterIP, 30005
	dropForType(s, old)
	if s.Spec.Ports[0].NodePort != 30005 {
		t.Error("a node port that the writer chose was dropped instead of refused")
	}
}

func TestSetFamilies(t *testing.T) {
	headless := svc(corev1.ServiceTypeClusterIP)
	headless.Spec.ClusterIP, headless.Spec.ClusterIPs = "None", []string{"None"}
	if errs := setFamilies(headless, nil, corev1.IPv4Protocol); len(errs) > 0 || len(headless.Spec.IPFamilies) != 2 {
		t.Errorf("headless without a selector: %v, %v", headless.Spec.IPFamilies, errs)
	}
	plain := svc(corev1.ServiceTypeClusterIP)
	if errs := setFamilies(plain, nil, corev1.IPv4Protocol); len(errs) > 0 || *plain.Spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack {
		t.Errorf("plain: %+v, %v", plain.Spec, errs)
	}
	dual := svc(corev1.ServiceTypeClusterIP)
	dual.Spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicyRequireDualStack)
	if errs := setFamilies(dual, nil, corev1.IPv4Protocol); len(errs) != 1 || errs[0].Field != "spec.ipFamilyPolicy" {
		t.Errorf("dual stack: %v", errs)
	}
	prefer := svc(corev1.ServiceTypeClusterIP)
	prefer.Spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicyPreferDualStack)
	if errs := setFamilies(prefer, nil, corev1.IPv4Protocol); len(errs) > 0 || len(prefer.Spec.IPFamilies) != 1 {
		t.Errorf("dual stack if possible: %v, %v", prefer.Spec.IPFamilies, errs)
	}
	six := svc(corev1.ServiceTypeClusterIP)
	six.Spec.ClusterIPs = []string{"fd00::1"}
	if errs := setFamilies(six, nil, corev1.IPv4Protocol); len(errs) != 1 {
		t.Errorf("another family's address: %v", errs)
	}
}
