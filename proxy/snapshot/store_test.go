package snapshot

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func service(name, ip string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: []corev1.ServicePort{{Port: 80}}}}
}

func slice(name, service string, ips ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: new(int32(80))}},
	}
	for _, ip := range ips {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{ip}})
	}
	return s
}

func TestStoreTellsOfWhatChanged(t *testing.T) {
	t.Parallel()
	s := NewStore("here")
	var told []string
	s.OnChange(func(names []Name) {
		for _, n := range names {
			told = append(told, n.Name)
		}
		if names == nil {
			told = append(told, "(zone)")
		}
	})
	expect := func(what string, want ...string) {
		t.Helper()
		slices.Sort(told)
		if !slices.Equal(told, want) {
			t.Errorf("%s: told of %v, want %v", what, told, want)
		}
		told = nil
	}
	s.SetService(service("a", "10.43.0.1"))
	expect("new service", "a")
	again := service("a", "10.43.0.1")
	again.Annotations = map[string]string{"nobody": "reads this"}
	s.SetService(again)
	expect("nothing that matters changed")
	s.SetSlice(slice("a-1", "a", "10.42.0.2"))
	expect("new slice", "a")
	s.SetSlice(slice("a-1", "a", "10.42.0.2"))
	expect("same slice")
	s.SetSlice(slice("a-1", "b", "10.42.0.2"))
	expect("slice moved", "a", "b")
	if got := s.Slices(Name{"ns", "a"}); len(got) != 0 {
		t.Errorf("the former service still has %d slices", len(got))
	}
	s.SetSlice(slice("x", "", "10.42.0.2"))
	expect("slice of no service")
	s.ReplaceServices([]*corev1.Service{service("a", "10.43.0.1"), service("c", "10.43.0.3")})
	expect("relist", "c")
	s.ReplaceServices([]*corev1.Service{service("c", "10.43.0.1")})
	expect("relist after changes were missed", "a", "c")
	if got := s.ByClusterIP(netip.MustParseAddr("10.43.0.1")); len(got) != 1 || got[0].Name.Name != "c" {
		t.Errorf("owner of the address: %v", got)
	}
	if got := s.ByClusterIP(netip.MustParseAddr("10.43.0.3")); len(got) != 0 {
		t.Errorf("an address that was given up belongs to %v", got)
	}
	s.ReplaceSlices(nil)
	expect("slices gone", "b")
	s.SetZone("west")
	expect("zone", "(zone)")
	s.SetZone("west")
	expect("same zone")
	s.DeleteService(Name{"ns", "c"})
	s.DeleteService(Name{"ns", "c"})
	expect("deleted twice", "c")
	s.DeleteSlice(Name{"ns", "nobody"})
	expect("deleted what was not there")
}

func TestReadyWaitsForEveryKind(t *testing.T) {
	t.Parallel()
	s := NewStore("here")
	ready := func() bool {
		select {
		case <-s.Ready():
			return true
		default:
			return false
		}
	}
	for i, list := range []func(){func() { s.ReplaceServices(nil) }, func() { s.ReplaceSlices(nil) }, func() { s.SetZone("") }} {
		if ready() {
			t.Errorf("ready after %d of 3 kinds", i)
		}
		list()
	}
	if !ready() {
		t.Error("not ready")
	}
	s.ReplaceServices(nil) // a later relist must not close the channel again
}

func TestConvertService(t *testing.T) {
	t.Parallel()
	proxyMode, local := corev1.LoadBalancerIPModeProxy, corev1.ServiceInternalTrafficPolicyLocal
	s := service("a", "10.43.0.1")
	s.Labels = map[string]string{"service.kubernetes.io/service-proxy-name": "other"}
	s.Spec.Type = corev1.ServiceTypeLoadBalancer
	s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	s.Spec.ExternalIPs = []string{"203.0.113.7", "junk"}
	s.Spec.LoadBalancerSourceRanges = []string{"192.0.2.7/24", "junk"}
	s.Spec.InternalTrafficPolicy = &local
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	s.Spec.HealthCheckNodePort = 30999
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "198.51.100.1"}, {IP: "198.51.100.2", IPMode: &proxyMode}, {Hostname: "lb.example.com"}}
	got := convertService(s)
	want := &Service{
		Name: Name{"ns", "a"}, Type: corev1.ServiceTypeLoadBalancer, ClusterIPs: addrs([]string{"10.43.0.1"}),
		ExternalIPs: addrs([]string{"203.0.113.7"}), LBIPs: addrs([]string{"198.51.100.1"}),
		SourceRanges: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Ports: []Port{{Protocol: corev1.ProtocolTCP, Port: 80}},
		AffinitySeconds: 10800, InternalLocal: true, ExternalLocal: true, HealthCheckPort: 30999, OtherProxy: true,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %#v\nwant %#v", *got, *want)
	}
	s = service("b", corev1.ClusterIPNone)
	s.Spec.HealthCheckNodePort = 30999
	if got := convertService(s); !got.Headless || got.ClusterIPs != nil || got.HealthCheckPort != 0 {
		t.Errorf("headless: %+v", got)
	}
}

// The API's defaults of EndpointConditions: unknown ready is true, unknown serving is as ready, unknown terminating is false.
func TestConvertSlice(t *testing.T) {
	t.Parallel()
	s := slice("a-1", "a", "10.42.0.2", "10.42.0.3", "10.42.0.4", "junk")
	s.Endpoints[0].NodeName = new("here")
	s.Endpoints[1].Conditions = discoveryv1.EndpointConditions{Ready: new(false), Serving: new(true), Terminating: new(true)}
	s.Endpoints[2].Conditions = discoveryv1.EndpointConditions{Ready: new(false)}
	s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{})
	s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: new("none")}, discoveryv1.EndpointPort{Port: new(int32(70000))})
	got := convertSlice(s, "here")
	want := "{ns/a [{ TCP 80}] [{10.42.0.2  true true true false [] []} {10.42.0.3  false false true true [] []} {10.42.0.4  false false false false [] []}] false}"
	if fmt.Sprint(*got) != want {
		t.Errorf("got  %v\nwant %s", *got, want)
	}
	s.AddressType = discoveryv1.AddressTypeFQDN
	if got := convertSlice(s, "here"); got != nil {
		t.Errorf("a slice of names: %v", got)
	}
}

func TestCheckpoint(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "proxy", "snapshot.json")
	s := NewStore("here")
	s.ReplaceServices([]*corev1.Service{service("a", "10.43.0.1"), service("b", corev1.ClusterIPNone)})
	s.ReplaceSlices([]*discoveryv1.EndpointSlice{slice("a-1", "a", "10.42.0.2", "10.42.0.3")})
	if err := s.Save(path); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("an incomplete snapshot was saved")
	}
	s.SetZone("west")
	if err := s.Save(path); err != nil {
		t.Fatal(err)
	}
	again := NewStore("here")
	told := 0
	again.OnChange(func(names []Name) { told += len(names) })
	if loaded, err := again.Load(path); !loaded || err != nil {
		t.Fatalf("loaded %v, %v", loaded, err)
	}
	select {
	case <-again.Ready():
	default:
		t.Error("not ready after Load")
	}
	if told == 0 {
		t.Error("nobody was told of what was loaded")
	}
	if !reflect.DeepEqual(again.services, s.services) || !reflect.DeepEqual(again.slices, s.slices) || again.Zone() != "west" {
		t.Errorf("loaded %+v %+v %s", again.services, again.slices, again.Zone())
	}
	// The API server's lists replace it: what is gone meanwhile goes.
	again.ReplaceServices([]*corev1.Service{service("a", "10.43.0.1")})
	again.ReplaceSlices(nil)
	again.SetZone("west")
	if again.Service(Name{"ns", "b"}) != nil || len(again.Slices(Name{"ns", "a"})) != 0 {
		t.Error("what was loaded outlives the first list")
	}
	for content, wantErr := range map[string]bool{"{": true, `{"Version":99}`: false, "null": false, `{"Version":1,"Services":[null],"Slices":[{}]}`: false} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := NewStore("here").Load(path); (err != nil) != wantErr {
			t.Errorf("%s: %v", content, err)
		}
	}
	if loaded, err := NewStore("here").Load(path + "-none"); loaded || err != nil {
		t.Errorf("no file: %v, %v", loaded, err)
	}
}
