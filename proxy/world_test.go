package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mote-edge/mote/internal/iptables"
	"github.com/mote-edge/mote/internal/testns"
	"github.com/mote-edge/mote/proxy/rules"
	"github.com/mote-edge/mote/proxy/snapshot"
)

// world is a node at 192.0.2.1 with three pods, and a host beside it at 192.0.2.2 that also plays a remote node: what is
// sent to 10.42.1.0/24 arrives there.
type world struct {
	t       *testing.T
	node    *testns.NS
	outside *testns.NS
	pods    map[string]*testns.NS
	store   *snapshot.Store
	sync    *syncer
}

const (
	podA, podB, podC = "10.42.0.2", "10.42.0.3", "10.42.0.4"
	remotePod        = "10.42.1.9"
	nodeIP           = "192.0.2.1"
	outsideIP        = "192.0.2.2"
	vip              = "10.43.0.50"
)

var testConfig = rules.Config{
	ClusterCIDR: netip.MustParsePrefix("10.42.0.0/16"),
	ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16"),
	LocalVIPs:   []netip.Addr{netip.MustParseAddr("10.43.0.10")},
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, node: testns.New(t), outside: testns.New(t), pods: map[string]*testns.NS{}, store: snapshot.NewStore("here")}
	w.node.Uplink(w.outside, netip.MustParsePrefix(nodeIP+"/24"), netip.MustParsePrefix(outsideIP+"/24"))
	w.node.Route("uplink", netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr(outsideIP))
	w.outside.Route("eth0", netip.MustParsePrefix("10.42.0.0/24"), netip.MustParseAddr(nodeIP))
	w.outside.Route("eth0", netip.MustParsePrefix("10.43.0.0/16"), netip.MustParseAddr(nodeIP))
	w.outside.Route("eth0", netip.MustParsePrefix("198.51.100.0/24"), netip.MustParseAddr(nodeIP))
	w.node.Bridge("mote0", netip.MustParsePrefix("10.42.0.0/24"))
	for _, ip := range []string{podA, podB, podC} {
		w.pods[ip] = w.node.Pod("mote0", netip.MustParseAddr(ip), netip.MustParseAddr("10.42.0.1"))
		w.pods[ip].Serve(ip, "tcp4", ":80")
		w.pods[ip].Serve(ip, "udp4", ":53")
	}
	run, err := iptables.Find()
	if err != nil {
		t.Skip(err)
	}
	w.sync = newSyncer(testConfig, "here", w.store, run)
	w.apply()
	return w
}

// apply brings the store's content into the node, as if everything had changed.
func (w *world) apply() {
	w.t.Helper()
	dirty := map[snapshot.Name]struct{}{{Namespace: "ns", Name: "svc"}: {}}
	var err error
	w.node.Do(func() { err = w.sync.sync(context.Background(), dirty) })
	if err != nil {
		w.t.Fatalf("sync: %v", err)
	}
}

// service stores Service ns/svc with cluster IP vip: TCP 8000 → 80, UDP 53 → 53.
func (w *world) service(edit func(*corev1.Service)) {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "svc"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: vip, ClusterIPs: []string{vip},
			Ports: []corev1.ServicePort{
				{Name: "web", Protocol: corev1.ProtocolTCP, Port: 8000},
				{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53},
			},
		},
	}
	if edit != nil {
		edit(s)
	}
	w.store.SetService(s)
}

// endpoints stores the Service's one slice. A leading "-" is a pod that is not ready, "~" one that terminates but still
// serves; pods of 10.42.0.0/24 are on this node.
func (w *world) endpoints(ips ...string) {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "ns", Name: "svc-1", Labels: map[string]string{discoveryv1.LabelServiceName: "svc"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{
			{Name: new("web"), Protocol: new(corev1.ProtocolTCP), Port: new(int32(80))},
			{Name: new("dns"), Protocol: new(corev1.ProtocolUDP), Port: new(int32(53))},
		},
	}
	for _, ip := range ips {
		e := discoveryv1.Endpoint{Conditions: discoveryv1.EndpointConditions{Ready: new(true), Serving: new(true), Terminating: new(false)}}
		switch ip[0] {
		case '-':
			ip, e.Conditions.Ready, e.Conditions.Serving = ip[1:], new(false), new(false)
		case '~':
			ip, e.Conditions.Ready, e.Conditions.Terminating = ip[1:], new(false), new(true)
		}
		e.Addresses = []string{ip}
		e.NodeName = new("there")
		if strings.HasPrefix(ip, "10.42.0.") {
			e.NodeName = new("here")
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	w.store.SetSlice(s)
}

// asks asks n times and returns how often each server answered, and the address that the last one saw.
func (w *world) asks(from *testns.NS, network, addr string, n int) (map[string]int, string) {
	w.t.Helper()
	servers, last := map[string]int{}, ""
	for range n {
		server, saw, err := from.Ask(network, addr)
		if err != nil {
			w.t.Errorf("%s %s: %v", network, addr, err)
			return servers, last
		}
		servers[server]++
		last = saw
	}
	return servers, last
}

func (w *world) expect(what string, from *testns.NS, network, addr, wantServer, wantSaw string) {
	w.t.Helper()
	server, saw, err := from.Ask(network, addr)
	if err != nil {
		w.t.Errorf("%s: %v", what, err)
	} else if server != wantServer || saw != wantSaw {
		w.t.Errorf("%s: %s answered and saw %s; want %s to see %s", what, server, saw, wantServer, wantSaw)
	}
}

func (w *world) refused(what string, from *testns.NS, addr string) {
	w.t.Helper()
	if _, _, err := from.Ask("tcp4", addr); !errors.Is(err, unix.ECONNREFUSED) {
		w.t.Errorf("%s: got %v, want connection refused", what, err)
	}
}

func (w *world) dropped(what string, from *testns.NS, addr string) {
	w.t.Helper()
	var timeout net.Error
	if _, _, err := from.Ask("tcp4", addr); !errors.As(err, &timeout) || !timeout.Timeout() {
		w.t.Errorf("%s: got %v, want a timeout", what, err)
	}
}
