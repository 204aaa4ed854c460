package rules

import (
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/mote-edge/mote/proxy/snapshot"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var config = Config{
	ClusterCIDR: netip.MustParsePrefix("10.42.0.0/16"),
	ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16"),
	LocalVIPs:   []netip.Addr{netip.MustParseAddr("10.43.0.10")},
}

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

// service is ns/<name> with TCP port "web" 80, to be edited.
func service(name, clusterIP string, edit func(*snapshot.Service)) *snapshot.Service {
	s := &snapshot.Service{
		Name: snapshot.Name{Namespace: "ns", Name: name}, Type: corev1.ServiceTypeClusterIP,
		ClusterIPs: []netip.Addr{ip(clusterIP)}, Ports: []snapshot.Port{{Name: "web", Protocol: corev1.ProtocolTCP, Port: 80}},
	}
	if edit != nil {
		edit(s)
	}
	return s
}

func slice(endpoints ...snapshot.Endpoint) []*snapshot.Slice {
	return []*snapshot.Slice{{Ports: []snapshot.SlicePort{
		{Name: "web", Protocol: corev1.ProtocolTCP, Port: 8080}, {Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53},
	}, Endpoints: endpoints}}
}

func local(s string) snapshot.Endpoint {
	return snapshot.Endpoint{Addr: ip(s), Local: true, Ready: true, Serving: true}
}

func remote(s string) snapshot.Endpoint {
	return snapshot.Endpoint{Addr: ip(s), Ready: true, Serving: true}
}

// text renders everything as one restore text.
func text(services ...Service) string {
	var pointers []*Service
	for i := range services {
		pointers = append(pointers, &services[i])
	}
	nat, filter := Assemble(config, slices.Values(pointers))
	for _, s := range services {
		maps.Copy(nat, s.Chains)
	}
	var b strings.Builder
	for _, table := range []struct {
		name   string
		chains Chains
	}{{"nat", nat}, {"filter", filter}} {
		fmt.Fprintf(&b, "*%s\n", table.name)
		names := slices.Sorted(maps.Keys(table.chains))
		for _, c := range names {
			fmt.Fprintf(&b, ":%s - [0:0]\n", c)
		}
		for _, c := range names {
			for _, line := range table.chains[c] {
				fmt.Fprintf(&b, "-A %s %s\n", c, line)
			}
		}
		b.WriteString("COMMIT\n")
	}
	return b.String()
}

func TestGolden(t *testing.T) {
	t.Parallel()
	lb := func(s *snapshot.Service) {
		s.Type = corev1.ServiceTypeLoadBalancer
		s.LBIPs = []netip.Addr{ip("198.51.100.9")}
		s.ExternalIPs = []netip.Addr{ip("203.0.113.7")}
		s.Ports[0].NodePort = 30080
	}
	for name, services := range map[string][]Service{
		"empty":         nil,
		"cluster-ip":    {Build(config, service("a", "10.43.1.5", nil), slice(local("10.42.0.5"), remote("10.42.1.5"), remote("10.42.1.6")), Topology{})},
		"two-buckets":   {Build(config, service("a", "10.43.1.5", nil), slice(remote("10.42.1.5")), Topology{}), Build(config, service("b", "10.43.2.5", nil), slice(remote("10.42.1.5")), Topology{}), Build(config, service("c", "10.43.1.6", nil), slice(remote("10.42.1.6")), Topology{})},
		"no-endpoints":  {Build(config, service("a", "10.43.1.5", lb), nil, Topology{})},
		"load-balancer": {Build(config, service("a", "10.43.1.5", lb), slice(local("10.42.0.5"), remote("10.42.1.5")), Topology{})},
		"load-balancer-local": {Build(config, service("a", "10.43.1.5", func(s *snapshot.Service) {
			lb(s)
			s.ExternalLocal, s.HealthCheckPort = true, 30999
			s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		}), slice(local("10.42.0.5"), remote("10.42.1.5")), Topology{})},
		"affinity": {Build(config, service("a", "10.43.1.5", func(s *snapshot.Service) { s.AffinitySeconds = 10800 }), slice(remote("10.42.1.5"), remote("10.42.1.6")), Topology{})},
		"udp": {Build(config, service("a", "10.43.1.5", func(s *snapshot.Service) {
			s.Ports = []snapshot.Port{{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53, NodePort: 30053}}
		}), slice(local("10.42.0.5")), Topology{})},
	} {
		got := text(services...)
		file := filepath.Join("testdata", name+".rules")
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s (run with -update if this is meant):\n%s", file, got)
		}
	}
}

func TestServicesWithoutRules(t *testing.T) {
	t.Parallel()
	eps := slice(local("10.42.0.5"))
	for name, s := range map[string]*snapshot.Service{
		"deleted":       nil,
		"headless":      service("a", "10.43.1.5", func(s *snapshot.Service) { s.Headless, s.ClusterIPs = true, nil }),
		"ExternalName":  service("a", "10.43.1.5", func(s *snapshot.Service) { s.Type = corev1.ServiceTypeExternalName }),
		"other proxy":   service("a", "10.43.1.5", func(s *snapshot.Service) { s.OtherProxy = true }),
		"cluster DNS":   service("a", "10.43.0.10", nil),
		"IPv6":          service("a", "fd00::5", nil),
		"no cluster IP": service("a", "10.43.1.5", func(s *snapshot.Service) { s.ClusterIPs = nil }),
	} {
		if got := Build(config, s, eps, Topology{}); len(got.Chains)+len(got.Routes)+len(got.Refusals) > 0 {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestSelectEndpoints(t *testing.T) {
	t.Parallel()
	zones := func(e snapshot.Endpoint, z ...string) snapshot.Endpoint { e.HintZones = z; return e }
	nodes := func(e snapshot.Endpoint, n ...string) snapshot.Endpoint { e.HintNodes = n; return e }
	notReady := func(e snapshot.Endpoint) snapshot.Endpoint { e.Ready, e.Serving = false, false; return e }
	terminating := func(e snapshot.Endpoint) snapshot.Endpoint { e.Ready, e.Terminating = false, true; return e }
	port := snapshot.Port{Name: "web", Protocol: corev1.ProtocolTCP, Port: 80}
	at := Topology{Node: "here", Zone: "west"}
	for _, tc := range []struct {
		name           string
		port           snapshot.Port
		endpoints      []snapshot.Endpoint
		cluster, local string
		any            bool
	}{
		{"none", port, nil, "", "", false},
		{"ready", port, []snapshot.Endpoint{remote("10.42.1.2"), local("10.42.0.2")}, "10.42.0.2:8080 10.42.1.2:8080", "10.42.0.2:8080", true},
		{"twice", port, []snapshot.Endpoint{remote("10.42.1.2"), remote("10.42.1.2")}, "10.42.1.2:8080", "", true},
		{"another port's name", snapshot.Port{Name: "other", Protocol: corev1.ProtocolTCP}, []snapshot.Endpoint{local("10.42.0.2")}, "", "", false},
		{"another protocol", snapshot.Port{Name: "web", Protocol: corev1.ProtocolUDP}, []snapshot.Endpoint{local("10.42.0.2")}, "", "", false},
		{"IPv6", port, []snapshot.Endpoint{local("fd00::2")}, "", "", false},
		{"not ready", port, []snapshot.Endpoint{notReady(local("10.42.0.2"))}, "", "", false},
		{"terminating only", port, []snapshot.Endpoint{terminating(local("10.42.0.2")), notReady(remote("10.42.1.2"))}, "10.42.0.2:8080", "10.42.0.2:8080", true},
		{"terminating beside ready", port, []snapshot.Endpoint{terminating(local("10.42.0.2")), remote("10.42.1.2")}, "10.42.1.2:8080", "10.42.0.2:8080", true},
		{"terminating, not serving", port, []snapshot.Endpoint{{Addr: ip("10.42.0.2"), Terminating: true}}, "", "", false},
		{"zone", port, []snapshot.Endpoint{zones(remote("10.42.1.2"), "west"), zones(remote("10.42.2.2"), "east")}, "10.42.1.2:8080", "", true},
		{"zone, one without hint", port, []snapshot.Endpoint{zones(remote("10.42.1.2"), "west"), remote("10.42.2.2")}, "10.42.1.2:8080 10.42.2.2:8080", "", true},
		{"zone, none for us", port, []snapshot.Endpoint{zones(remote("10.42.1.2"), "east")}, "10.42.1.2:8080", "", true},
		{"node before zone", port, []snapshot.Endpoint{nodes(zones(local("10.42.0.2"), "west"), "here"), nodes(zones(remote("10.42.1.2"), "west"), "there")}, "10.42.0.2:8080", "10.42.0.2:8080", true},
		{"node hints elsewhere, zone ours", port, []snapshot.Endpoint{nodes(zones(remote("10.42.1.2"), "west"), "there"), nodes(zones(remote("10.42.2.2"), "east"), "third")}, "10.42.1.2:8080", "", true},
	} {
		got := selectEndpoints(tc.port, slice(tc.endpoints...), at)
		join := func(list []netip.AddrPort) string { return strings.Trim(fmt.Sprint(list), "[]") }
		if join(got.cluster) != tc.cluster || join(got.local) != tc.local || got.any != tc.any {
			t.Errorf("%s: cluster [%s] local [%s] any %v, want [%s] [%s] %v", tc.name, join(got.cluster), join(got.local), got.any, tc.cluster, tc.local, tc.any)
		}
	}
}

func TestSlicesForNamesOnly(t *testing.T) {
	t.Parallel()
	list := slice(local("10.42.0.2"))
	list[0].NamesOnly = true
	if got := selectEndpoints(snapshot.Port{Name: "web", Protocol: corev1.ProtocolTCP}, list, Topology{}); got.any || len(got.local) > 0 {
		t.Errorf("%+v", got)
	}
}

// Chain names have at most 28 characters; iptables refuses longer ones.
func TestChainNamesFit(t *testing.T) {
	t.Parallel()
	s := Build(config, service("a-service-with-a-name-as-long-as-names-may-be-which-is-63-letters", "10.43.255.255", func(s *snapshot.Service) {
		s.Type, s.ExternalLocal = corev1.ServiceTypeLoadBalancer, true
		s.LBIPs, s.SourceRanges = []netip.Addr{ip("198.51.100.9")}, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	}), slice(local("10.42.0.5")), Topology{})
	nat, filter := Assemble(config, slices.Values([]*Service{&s}))
	for chain := range maps.Keys(nat) {
		if len(chain) > 28 || !OwnChain(chain) {
			t.Errorf("chain %s: %d characters, own %v", chain, len(chain), OwnChain(chain))
		}
	}
	for chain := range maps.Keys(s.Chains) {
		if len(chain) > 28 || !OwnChain(chain) {
			t.Errorf("chain %s: %d characters, own %v", chain, len(chain), OwnChain(chain))
		}
	}
	for chain := range filter {
		if !OwnChain(chain) {
			t.Errorf("chain %s is not counted as own", chain)
		}
	}
	for _, other := range []string{"MOTE-CNI-MASQ", "MOTE-HP-0123456789abcdef", "KUBE-SERVICES", "PREROUTING"} {
		if OwnChain(other) {
			t.Errorf("chain %s is counted as own", other)
		}
	}
}

func many(n int) []*Service {
	out := make([]*Service, n)
	for i := range out {
		s := Build(config, service(fmt.Sprintf("s%d", i), fmt.Sprintf("10.43.%d.%d", i%250+1, i/250+1), nil),
			slice(remote(fmt.Sprintf("10.42.%d.2", i%250)), remote(fmt.Sprintf("10.42.%d.3", i%250))), Topology{})
		out[i] = &s
	}
	return out
}

func BenchmarkBuild1000Services(b *testing.B) {
	for b.Loop() {
		many(1000)
	}
}

func BenchmarkAssemble1000Services(b *testing.B) {
	list := many(1000)
	for b.Loop() {
		Assemble(config, slices.Values(list))
	}
}
