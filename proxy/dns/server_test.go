package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mote-edge/mote/internal/testns"
	"github.com/mote-edge/mote/proxy/snapshot"
)

// cluster is the state that all tests ask about.
func cluster() *snapshot.Store {
	s := snapshot.NewStore("here")
	tcp, udp := corev1.ProtocolTCP, corev1.ProtocolUDP
	service := func(ns, name, ip string, edit func(*corev1.Service)) *corev1.Service {
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: corev1.ServiceSpec{
			ClusterIP: ip, Ports: []corev1.ServicePort{{Name: "https", Protocol: tcp, Port: 443}, {Name: "dns", Protocol: udp, Port: 53}},
		}}
		if edit != nil {
			edit(svc)
		}
		return svc
	}
	external := func(target string) func(*corev1.Service) {
		return func(s *corev1.Service) {
			s.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: target}
		}
	}
	s.ReplaceServices([]*corev1.Service{
		service("default", "kubernetes", "10.43.0.1", nil),
		service("default", "dual", "10.43.0.7", func(s *corev1.Service) { s.Spec.ClusterIPs = []string{"10.43.0.7", "fd00:43::7"} }),
		service("apps", "db", corev1.ClusterIPNone, nil),
		service("apps", "big", corev1.ClusterIPNone, nil),
		service("apps", "empty", corev1.ClusterIPNone, nil),
		service("apps", "outside", "", external("www.example.com")),
		service("apps", "alias", "", external("kubernetes.default.svc.cluster.local")),
		service("apps", "circle", "", external("circle.apps.svc.cluster.local")),
	})
	slice := func(service string, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "apps", Name: service + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: service}},
			AddressType: discoveryv1.AddressTypeIPv4, Endpoints: endpoints,
			Ports: []discoveryv1.EndpointPort{{Name: new("https"), Protocol: &tcp, Port: new(int32(8443))}},
		}
	}
	big := slice("big")
	for i := range 200 {
		big.Endpoints = append(big.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.42.7.%d", i+1)}})
	}
	s.ReplaceSlices([]*discoveryv1.EndpointSlice{
		slice("db", discoveryv1.Endpoint{Addresses: []string{"10.42.0.5"}, Hostname: new("db-0")},
			discoveryv1.Endpoint{Addresses: []string{"10.42.0.6"}},
			discoveryv1.Endpoint{Addresses: []string{"10.42.0.7"}, Hostname: new("db-2"), Conditions: discoveryv1.EndpointConditions{Ready: new(false)}}),
		slice("empty", discoveryv1.Endpoint{Addresses: []string{"10.42.0.8"}, Conditions: discoveryv1.EndpointConditions{Ready: new(false)}}),
		big,
	})
	s.SetZone("")
	return s
}

func newServer(t testing.TB, resolvConf string) *Server {
	t.Helper()
	store := cluster()
	s, err := New(Config{
		Address: netip.MustParseAddr("10.43.0.10"), Domain: "cluster.local", Source: store, Ready: store.Ready(), ResolvConf: resolvConf,
		Ranges: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("10.43.0.0/16")},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// summary is an answer in one line: code, answers sorted, "+" additional records, "soa" if that is the authority.
func summary(m *dns.Msg) string {
	var parts []string
	for _, rr := range m.Answer {
		parts = append(parts, strings.Join(strings.Fields(rr.String())[3:], " "))
	}
	slices.Sort(parts)
	var extra []string
	for _, rr := range m.Extra {
		if rr.Header().Rrtype != dns.TypeOPT {
			extra = append(extra, "+"+strings.Join(strings.Fields(rr.String()), " "))
		}
	}
	slices.Sort(extra)
	parts = append(parts, extra...)
	if len(m.Ns) > 0 && m.Ns[0].Header().Rrtype == dns.TypeSOA {
		parts = append(parts, "soa")
	}
	return strings.TrimSpace(dns.RcodeToString[m.Rcode] + " " + strings.Join(parts, ", "))
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	s := newServer(t, filepath.Join(t.TempDir(), "no-resolv.conf"))
	for _, tc := range []struct {
		section, name string // of the Kubernetes DNS specification 1.1
		qtype         uint16
		want          string
	}{
		{"2.2", "dns-version.cluster.local.", dns.TypeTXT, `NOERROR TXT "1.1.0"`},
		{"2.3.1", "kubernetes.default.svc.cluster.local.", dns.TypeA, "NOERROR A 10.43.0.1"},
		{"2.3.1", "KUBERNETES.default.SVC.cluster.LOCAL.", dns.TypeA, "NOERROR A 10.43.0.1"},
		{"2.3.1", "kubernetes.default.svc.cluster.local.", dns.TypeAAAA, "NOERROR soa"},
		{"2.3.1", "dual.default.svc.cluster.local.", dns.TypeAAAA, "NOERROR AAAA fd00:43::7"},
		{"2.3.1", "dual.default.svc.cluster.local.", dns.TypeA, "NOERROR A 10.43.0.7"},
		{"2.3.1", "nobody.default.svc.cluster.local.", dns.TypeA, "NXDOMAIN soa"},
		{"2.3.1", "kubernetes.nowhere.svc.cluster.local.", dns.TypeA, "NXDOMAIN soa"},
		{"2.3.1", "kubernetes.default.svc.cluster.local.", dns.TypeMX, "NOERROR soa"},
		{"2.3.2", "_https._tcp.kubernetes.default.svc.cluster.local.", dns.TypeSRV, "NOERROR SRV 0 100 443 kubernetes.default.svc.cluster.local., +kubernetes.default.svc.cluster.local. 5 IN A 10.43.0.1"},
		{"2.3.2", "_dns._udp.kubernetes.default.svc.cluster.local.", dns.TypeSRV, "NOERROR SRV 0 100 53 kubernetes.default.svc.cluster.local., +kubernetes.default.svc.cluster.local. 5 IN A 10.43.0.1"},
		{"2.3.2", "_dns._tcp.kubernetes.default.svc.cluster.local.", dns.TypeSRV, "NXDOMAIN soa"},
		{"2.3.2", "_https._tcp.kubernetes.default.svc.cluster.local.", dns.TypeA, "NOERROR soa"},
		{"2.3.2", "_tcp.kubernetes.default.svc.cluster.local.", dns.TypeSRV, "NOERROR soa"},
		{"2.3.3", "1.0.43.10.in-addr.arpa.", dns.TypePTR, "NOERROR PTR kubernetes.default.svc.cluster.local."},
		{"2.3.3", "99.0.43.10.in-addr.arpa.", dns.TypePTR, "NXDOMAIN soa"},
		{"2.3.3", "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.3.4.0.0.0.0.d.f.ip6.arpa.", dns.TypePTR, "NOERROR PTR dual.default.svc.cluster.local."},
		{"2.4.1", "db.apps.svc.cluster.local.", dns.TypeA, "NOERROR A 10.42.0.5, A 10.42.0.6"},
		{"2.4.1", "db.apps.svc.cluster.local.", dns.TypeAAAA, "NOERROR soa"},
		{"2.4.1", "db-0.db.apps.svc.cluster.local.", dns.TypeA, "NOERROR A 10.42.0.5"},
		{"2.4.1", "10-42-0-6.db.apps.svc.cluster.local.", dns.TypeA, "NOERROR A 10.42.0.6"},
		{"2.4.1", "db-2.db.apps.svc.cluster.local.", dns.TypeA, "NXDOMAIN soa"},
		{"2.4.1", "empty.apps.svc.cluster.local.", dns.TypeA, "NXDOMAIN soa"},
		{"2.4.2", "_https._tcp.db.apps.svc.cluster.local.", dns.TypeSRV, "NOERROR SRV 0 100 8443 10-42-0-6.db.apps.svc.cluster.local., SRV 0 100 8443 db-0.db.apps.svc.cluster.local., +10-42-0-6.db.apps.svc.cluster.local. 5 IN A 10.42.0.6, +db-0.db.apps.svc.cluster.local. 5 IN A 10.42.0.5"},
		{"2.4.3", "5.0.42.10.in-addr.arpa.", dns.TypePTR, "NOERROR PTR db-0.db.apps.svc.cluster.local."},
		{"2.4.3", "6.0.42.10.in-addr.arpa.", dns.TypePTR, "NXDOMAIN soa"},
		{"2.5", "alias.apps.svc.cluster.local.", dns.TypeCNAME, "NOERROR CNAME kubernetes.default.svc.cluster.local."},
		{"2.5", "alias.apps.svc.cluster.local.", dns.TypeA, "NOERROR A 10.43.0.1, CNAME kubernetes.default.svc.cluster.local."},
		{"2.5", "outside.apps.svc.cluster.local.", dns.TypeA, "SERVFAIL CNAME www.example.com."},
		{"pods", "10-42-0-99.apps.pod.cluster.local.", dns.TypeA, "NOERROR A 10.42.0.99"},
		{"pods", "fd00--7.apps.pod.cluster.local.", dns.TypeAAAA, "NOERROR AAAA fd00::7"},
		{"pods", "not-an-address.apps.pod.cluster.local.", dns.TypeA, "NXDOMAIN soa"},
		{"zone", "cluster.local.", dns.TypeSOA, "NOERROR SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5"},
		{"zone", "cluster.local.", dns.TypeNS, "NOERROR NS ns.dns.cluster.local., +ns.dns.cluster.local. 5 IN A 10.43.0.10"},
		{"zone", "cluster.local.", dns.TypeA, "NOERROR soa"},
		{"zone", "svc.cluster.local.", dns.TypeA, "NOERROR soa"},
		{"zone", "apps.svc.cluster.local.", dns.TypeA, "NOERROR soa"},
		{"zone", "nowhere.svc.cluster.local.", dns.TypeA, "NXDOMAIN soa"},
		{"zone", "www.example.com.svc.cluster.local.", dns.TypeA, "NXDOMAIN soa"},
		{"zone", "a.b.c.d.e.f.svc.cluster.local.", dns.TypeA, "NXDOMAIN soa"},
		{"forward", "www.example.com.", dns.TypeA, "SERVFAIL"}, // no resolv.conf
	} {
		m := new(dns.Msg)
		m.SetQuestion(tc.name, tc.qtype)
		r := s.answer(context.Background(), m)
		if got := summary(r); got != tc.want {
			t.Errorf("section %s: %s %s:\n got %s\nwant %s", tc.section, tc.name, dns.TypeToString[tc.qtype], got, tc.want)
		}
		for _, rr := range r.Answer[:min(1, len(r.Answer))] {
			if rr.Header().Name != tc.name {
				t.Errorf("%s: the answer is spelt %s", tc.name, rr.Header().Name)
			}
		}
		if _, err := r.Pack(); err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

func TestOddQueries(t *testing.T) {
	t.Parallel()
	s := newServer(t, "/nonexistent")
	ask := func(edit func(*dns.Msg)) *dns.Msg {
		m := new(dns.Msg)
		m.SetQuestion("kubernetes.default.svc.cluster.local.", dns.TypeA)
		edit(m)
		return s.answer(context.Background(), m)
	}
	for name, tc := range map[string]struct {
		edit  func(*dns.Msg)
		rcode int
	}{
		"two questions":       {func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }, dns.RcodeFormatError},
		"no question":         {func(m *dns.Msg) { m.Question = nil }, dns.RcodeFormatError},
		"update":              {func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }, dns.RcodeNotImplemented},
		"zone transfer":       {func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAXFR }, dns.RcodeRefused},
		"class CHAOS":         {func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, dns.RcodeRefused},
		"EDNS version 1":      {func(m *dns.Msg) { m.SetEdns0(4096, false); m.IsEdns0().SetVersion(1) }, dns.RcodeBadVers},
		"circular":            {func(m *dns.Msg) { m.Question[0].Name = "circle.apps.svc.cluster.local." }, dns.RcodeSuccess},
		"ANY":                 {func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeANY }, dns.RcodeSuccess},
		"empty label":         {func(m *dns.Msg) { m.Question[0].Name = "." }, dns.RcodeServerFailure},
		"service name is dot": {func(m *dns.Msg) { m.Question[0].Name = `\..default.svc.cluster.local.` }, dns.RcodeNameError},
	} {
		if r := ask(tc.edit); r.Rcode != tc.rcode {
			t.Errorf("%s: %s, want %s", name, dns.RcodeToString[r.Rcode], dns.RcodeToString[tc.rcode])
		}
	}
	r := ask(func(m *dns.Msg) { m.SetEdns0(4096, false) })
	if opt := r.IsEdns0(); opt == nil || opt.UDPSize() != payload {
		t.Errorf("EDNS0 in the question, not in the answer: %v", opt)
	}
}

func TestNotReadyIsAServerFailure(t *testing.T) {
	t.Parallel()
	store := snapshot.NewStore("here")
	s, err := New(Config{Address: netip.MustParseAddr("10.43.0.10"), Domain: "cluster.local", Source: store, Ready: store.Ready()})
	if err != nil {
		t.Fatal(err)
	}
	m := new(dns.Msg)
	m.SetQuestion("kubernetes.default.svc.cluster.local.", dns.TypeA)
	if r := s.answer(context.Background(), m); r.Rcode != dns.RcodeServerFailure {
		t.Errorf("before the first list: %s", summary(r))
	}
}

// upstream is a server on 127.0.0.1:53 of a network namespace.
type upstream struct {
	asked atomic.Int64
	down  atomic.Bool
	ttl   uint32
}

func (u *upstream) ServeDNS(w dns.ResponseWriter, m *dns.Msg) {
	u.asked.Add(1)
	if u.down.Load() {
		return
	}
	r := new(dns.Msg)
	r.SetReply(m)
	q := m.Question[0]
	_, isTCP := w.RemoteAddr().(*net.TCPAddr)
	hdr := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: u.ttl}
	switch {
	case q.Name == "missing.example.com.":
		r.Rcode = dns.RcodeNameError
		r.Ns = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: "example.com.", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 60}, Ns: "ns.", Mbox: "m.", Minttl: 60}}
	case q.Name == "long.example.com." && !isTCP:
		r.Truncated = true
	case q.Name == "long.example.com.":
		for i := range 100 {
			r.Answer = append(r.Answer, &dns.A{Hdr: hdr, A: net.IPv4(203, 0, 113, byte(i+1))})
		}
	case q.Qtype == dns.TypeA:
		r.Answer = []dns.RR{&dns.A{Hdr: hdr, A: net.IPv4(203, 0, 113, 5)}}
	}
	_ = w.WriteMsg(r)
}

// serveIn runs an upstream and the cluster's server in a namespace; the returned function asks the latter.
func serveIn(t *testing.T, up *upstream) (*testns.NS, func(network, name string, qtype uint16) *dns.Msg) {
	t.Helper()
	ns := testns.New(t)
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("# the server itself must be skipped\nnameserver 10.43.0.10\nnameserver 127.0.0.1\noptions ndots:5\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newServer(t, conf)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	var err error
	ns.Do(func() {
		lo, e := netlink.LinkByName("lo")
		if e != nil {
			err = e
			return
		}
		addr, _ := netlink.ParseAddr("10.43.0.10/32")
		if err = netlink.AddrAdd(lo, addr); err != nil {
			return
		}
		var pc net.PacketConn
		var l net.Listener
		if pc, err = net.ListenPacket("udp4", "127.0.0.1:53"); err != nil {
			return
		}
		if l, err = net.Listen("tcp4", "127.0.0.1:53"); err != nil {
			return
		}
		for _, srv := range []*dns.Server{{PacketConn: pc, Handler: up}, {Listener: l, Handler: up}} {
			go func() { _ = srv.ActivateAndServe() }()
		}
		t.Cleanup(func() { _, _ = pc.Close(), l.Close() })
	})
	if err != nil {
		t.Fatal(err)
	}
	// A socket to an upstream belongs to the namespace of the thread that opens it. The server's threads are outside, so
	// questions that get forwarded are put to its handler directly ("direct"), from a thread inside.
	go ns.Do(func() { done <- s.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return ns, func(network, name string, qtype uint16) *dns.Msg {
		t.Helper()
		m := new(dns.Msg)
		m.SetQuestion(name, qtype)
		var r *dns.Msg
		var err error
		for range 50 {
			ns.Do(func() {
				if network == "direct" {
					r = s.answer(ctx, m)
					return
				}
				r, _, err = (&dns.Client{Net: network, Timeout: 6 * time.Second}).Exchange(m, "10.43.0.10:53")
			})
			if err == nil || !strings.Contains(err.Error(), "refused") {
				break // refused: it does not listen yet
			}
			time.Sleep(10 * time.Millisecond)
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return r
	}
}

func TestOverTheNetwork(t *testing.T) {
	t.Parallel()
	_, ask := serveIn(t, &upstream{ttl: 60})
	for _, network := range []string{"udp", "tcp"} {
		if got := summary(ask(network, "kubernetes.default.svc.cluster.local.", dns.TypeA)); got != "NOERROR A 10.43.0.1" {
			t.Errorf("%s: %s", network, got)
		}
	}
	r := ask("udp", "big.apps.svc.cluster.local.", dns.TypeA)
	if r.Compress = true; !r.Truncated || r.Len() > dns.MinMsgSize {
		t.Errorf("200 addresses over UDP: truncated %v, %d bytes", r.Truncated, r.Len())
	}
	if r := ask("tcp", "big.apps.svc.cluster.local.", dns.TypeA); r.Truncated || len(r.Answer) != 200 {
		t.Errorf("200 addresses over TCP: truncated %v, %d answers", r.Truncated, len(r.Answer))
	}
}

func TestForwarding(t *testing.T) {
	t.Parallel()
	up := &upstream{ttl: 60}
	_, ask := serveIn(t, up)
	asked := func(want int64, what string) {
		t.Helper()
		if got := up.asked.Swap(0); got != want {
			t.Errorf("%s: the upstream was asked %d times, want %d", what, got, want)
		}
	}
	for range 3 {
		if got := summary(ask("direct", "WWW.example.com.", dns.TypeA)); got != "NOERROR A 203.0.113.5" {
			t.Fatal(got)
		}
	}
	asked(1, "the same name again")
	for range 2 {
		if got := summary(ask("direct", "missing.example.com.", dns.TypeA)); got != "NXDOMAIN soa" {
			t.Errorf("missing name: %s", got)
		}
	}
	asked(1, "a negative answer again")
	if got := summary(ask("direct", "outside.apps.svc.cluster.local.", dns.TypeA)); got != "NOERROR A 203.0.113.5, CNAME www.example.com." {
		t.Errorf("ExternalName: %s", got)
	}
	up.asked.Store(0)
	if r := ask("direct", "long.example.com.", dns.TypeA); len(r.Answer) != 100 {
		t.Errorf("truncated upstream answer: %d answers", len(r.Answer))
	}
	asked(2, "truncated over UDP, then TCP")
	if got := summary(ask("direct", "1.2.0.192.in-addr.arpa.", dns.TypePTR)); got != "NOERROR" {
		t.Errorf("reverse name outside the cluster: %s", got)
	}
	asked(1, "reverse name outside the cluster")
}

func TestStaleAnswersWhenOffline(t *testing.T) {
	t.Parallel()
	up := &upstream{ttl: 1}
	_, ask := serveIn(t, up)
	if got := summary(ask("direct", "www.example.com.", dns.TypeA)); got != "NOERROR A 203.0.113.5" {
		t.Fatal(got)
	}
	up.down.Store(true)
	time.Sleep(1100 * time.Millisecond)
	r := ask("direct", "www.example.com.", dns.TypeA)
	if got := summary(r); got != "NOERROR A 203.0.113.5" || r.Answer[0].Header().Ttl != 30 {
		t.Errorf("offline: %s", got)
	}
	started := time.Now()
	if got := summary(ask("direct", "www.example.com.", dns.TypeA)); got != "NOERROR A 203.0.113.5" || time.Since(started) > time.Second {
		t.Errorf("offline, again: %s after %v: it should not have waited", got, time.Since(started))
	}
	if got := summary(ask("direct", "other.example.com.", dns.TypeA)); got != "SERVFAIL" {
		t.Errorf("offline, never asked before: %s", got)
	}
	up.down.Store(false)
	if got := summary(ask("direct", "other.example.com.", dns.TypeA)); got != "NOERROR A 203.0.113.5" {
		t.Errorf("online again: %s", got)
	}
}

func TestParseServers(t *testing.T) {
	t.Parallel()
	got := parseServers("search a b\nnameserver 10.43.0.10\n nameserver 192.0.2.1 # no\nnameserver\nnameserver junk\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver 1.1.1.1\nnameserver 9.9.9.9\n", netip.MustParseAddr("10.43.0.10"))
	if want := "[192.0.2.1:53 [fe80::1%eth0]:53 1.1.1.1:53]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	var c cache
	now := time.Now()
	for i := range 3 * cacheEntries {
		m := new(dns.Msg)
		m.SetQuestion(fmt.Sprintf("n%d.example.com.", i), dns.TypeA)
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 100}, A: net.IPv4(1, 2, 3, 4)}}
		c.put(question{name: m.Question[0].Name, qtype: dns.TypeA}, m, now)
	}
	if len(c.entries) > cacheEntries {
		t.Errorf("%d entries", len(c.entries))
	}
}

func FuzzAnswer(f *testing.F) {
	m := new(dns.Msg)
	m.SetQuestion("_https._tcp.db.apps.svc.cluster.local.", dns.TypeSRV)
	b, _ := m.Pack()
	f.Add(b)
	s := newServer(f, "/nonexistent")
	f.Fuzz(func(t *testing.T, b []byte) {
		m := new(dns.Msg)
		if m.Unpack(b) != nil {
			return
		}
		if r := s.answer(context.Background(), m); len(m.Question) == 1 {
			r.Truncate(dns.MinMsgSize)
			if _, err := r.Pack(); err != nil && !strings.Contains(err.Error(), "bad rdata") {
				t.Errorf("answer to %v cannot be packed: %v", m.Question, err)
			}
		}
	})
}

func BenchmarkClusterName(b *testing.B) {
	s := newServer(b, "/nonexistent")
	m := new(dns.Msg)
	m.SetQuestion("kubernetes.default.svc.cluster.local.", dns.TypeA)
	for b.Loop() {
		_ = s.answer(context.Background(), m)
	}
}
