package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mote-edge/mote/internal/iptables"
	"github.com/mote-edge/mote/internal/testns"
	"github.com/mote-edge/mote/proxy/route"
	"github.com/mote-edge/mote/proxy/snapshot"
)

func TestClusterIP(t *testing.T) {
	t.Parallel()
	for _, bridgeNF := range []string{"0", "1"} {
		t.Run("bridge-nf-call-iptables="+bridgeNF, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.node.Sysctl("net/bridge/bridge-nf-call-iptables", bridgeNF)
			w.service(nil)
			w.endpoints(podA)
			w.apply()
			w.expect("pod to pod", w.pods[podB], "tcp4", vip+":8000", podA, podB)
			w.expect("pod to pod, udp", w.pods[podB], "udp4", vip+":53", podA, podB)
			w.expect("pod to itself", w.pods[podA], "tcp4", vip+":8000", podA, "10.42.0.1")
			w.expect("node", w.node, "tcp4", vip+":8000", podA, nodeIP)
			w.expect("node, udp", w.node, "udp4", vip+":53", podA, nodeIP)
			w.expect("another host, routed", w.outside, "tcp4", vip+":8000", podA, "10.42.0.1")
		})
	}
}

func TestEndpointsShareTheLoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.service(nil)
	w.endpoints(podA, podB, podC)
	w.apply()
	servers, _ := w.asks(w.node, "tcp4", vip+":8000", 90)
	for _, ip := range []string{podA, podB, podC} {
		if servers[ip] < 10 { // p < 1e-6 for a fair third of 90
			t.Errorf("unfair: %v", servers)
		}
	}
}

func TestWithoutEndpoints(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.service(func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeNodePort
		s.Spec.Ports[0].NodePort = 30080
		s.Spec.ExternalIPs = []string{"198.51.100.7"}
	})
	w.endpoints("-" + podA)
	w.apply()
	w.refused("pod", w.pods[podB], vip+":8000")
	w.refused("node", w.node, vip+":8000")
	w.refused("node port from outside", w.outside, nodeIP+":30080")
	w.refused("external IP from outside", w.outside, "198.51.100.7:8000")
	w.refused("external IP from a pod", w.pods[podB], "198.51.100.7:8000")

	w.endpoints(podA)
	w.apply()
	w.expect("after an endpoint came", w.pods[podB], "tcp4", vip+":8000", podA, podB)
	w.endpoints("~" + podA)
	w.apply()
	w.expect("a terminating endpoint is better than none", w.pods[podB], "tcp4", vip+":8000", podA, podB)
	w.endpoints("~"+podA, podC)
	w.apply()
	if servers, _ := w.asks(w.node, "tcp4", vip+":8000", 8); servers[podC] != 8 {
		t.Errorf("a terminating endpoint got traffic beside a ready one: %v", servers)
	}
	w.store.DeleteService(snapshot.Name{Namespace: "ns", Name: "svc"})
	w.apply()
	if rules := w.rules(); strings.Contains(rules, "ns/svc") {
		t.Errorf("rules of a deleted service:\n%s", rules)
	}
}

func TestNodePort(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.service(func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeNodePort
		s.Spec.Ports[0].NodePort, s.Spec.Ports[1].NodePort = 30080, 30053
	})
	w.endpoints(podA)
	w.apply()
	w.expect("from outside", w.outside, "tcp4", nodeIP+":30080", podA, "10.42.0.1")
	w.expect("from outside, udp", w.outside, "udp4", nodeIP+":30053", podA, "10.42.0.1")
	w.expect("from a pod", w.pods[podB], "tcp4", nodeIP+":30080", podA, "10.42.0.1")
	w.expect("from the pod itself", w.pods[podA], "tcp4", nodeIP+":30080", podA, "10.42.0.1")
	w.expect("from the node", w.node, "tcp4", nodeIP+":30080", podA, "10.42.0.1")
	w.expect("on the bridge's address", w.pods[podB], "tcp4", "10.42.0.1:30080", podA, "10.42.0.1")
}

func TestExternalTrafficPolicyLocal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.outside.Serve("remote", "tcp4", ":80")
	w.outside.Do(func() {
		if out, err := exec.Command("ip", "addr", "add", remotePod+"/32", "dev", "lo").CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	local := func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		s.Spec.Ports[0].NodePort = 30080
		s.Spec.HealthCheckNodePort = 30999
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "198.51.100.9"}}
	}
	w.service(local)
	w.endpoints(podA, remotePod)
	w.apply()
	for range 6 {
		w.expect("keeps the client's address, and to this node", w.outside, "tcp4", nodeIP+":30080", podA, outsideIP)
	}
	w.expect("load balancer address", w.outside, "tcp4", "198.51.100.9:8000", podA, outsideIP)
	if code, body := w.health(); code != http.StatusOK || !strings.Contains(body, `"localEndpoints":1`) {
		t.Errorf("health check: %d %s", code, body)
	}

	w.endpoints(remotePod)
	w.apply()
	w.dropped("no endpoint here", w.outside, nodeIP+":30080")
	w.expect("a pod is inside the cluster", w.pods[podB], "tcp4", "198.51.100.9:8000", "remote", podB)
	w.expect("the node is inside the cluster", w.node, "tcp4", "198.51.100.9:8000", "remote", nodeIP)
	if code, body := w.health(); code != http.StatusServiceUnavailable || !strings.Contains(body, `"localEndpoints":0`) {
		t.Errorf("health check without endpoints: %d %s", code, body)
	}
	w.endpoints("~"+podA, remotePod)
	w.apply()
	w.expect("a terminating endpoint here is better than none", w.outside, "tcp4", nodeIP+":30080", podA, outsideIP)
	if code, body := w.health(); code != http.StatusServiceUnavailable {
		t.Errorf("health check with a terminating endpoint alone: %d %s", code, body)
	}
	w.service(func(s *corev1.Service) { local(s); s.Spec.HealthCheckNodePort = 0 })
	w.apply()
	if conn, err := w.node.Dial("tcp4", nodeIP+":30999"); err == nil {
		_ = conn.Close()
		t.Error("the health check still answers")
	}
}

func (w *world) health() (int, string) {
	w.t.Helper()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(_ context.Context, network, addr string) (net.Conn, error) {
			return w.outside.Dial(network, addr)
		},
	}}
	resp, err := client.Get("http://" + nodeIP + ":30999/healthz")
	if err != nil {
		w.t.Fatalf("health check: %v", err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

func TestInternalTrafficPolicyLocal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	policy := corev1.ServiceInternalTrafficPolicyLocal
	w.service(func(s *corev1.Service) { s.Spec.InternalTrafficPolicy = &policy })
	w.endpoints(podA, remotePod)
	w.apply()
	if servers, _ := w.asks(w.pods[podB], "tcp4", vip+":8000", 6); servers[podA] != 6 {
		t.Errorf("traffic left the node: %v", servers)
	}
	w.endpoints(remotePod)
	w.apply()
	w.dropped("no endpoint here", w.pods[podB], vip+":8000")
}

func TestSourceRanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ranges := func(r string) func(*corev1.Service) {
		return func(s *corev1.Service) {
			s.Spec.Type = corev1.ServiceTypeLoadBalancer
			s.Spec.LoadBalancerSourceRanges = []string{r}
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "198.51.100.9"}}
		}
	}
	w.endpoints(podA)
	w.service(ranges(outsideIP + "/32"))
	w.apply()
	w.expect("allowed", w.outside, "tcp4", "198.51.100.9:8000", podA, "10.42.0.1")
	w.dropped("a pod is not in the range", w.pods[podB], "198.51.100.9:8000")
	w.service(ranges("203.0.113.0/24"))
	w.apply()
	w.dropped("not in the range", w.outside, "198.51.100.9:8000")
}

func TestSessionAffinity(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.service(func(s *corev1.Service) {
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: new(int32(60))}}
	})
	w.endpoints(podA, podB, podC)
	w.apply()
	first, _ := w.asks(w.outside, "tcp4", vip+":8000", 1)
	again, _ := w.asks(w.outside, "tcp4", vip+":8000", 20)
	for server := range first {
		if again[server] != 20 {
			t.Fatalf("first %v, then %v", first, again)
		}
	}
	// The list of clients survives a change of the chain.
	var keep string
	for keep = range first {
	}
	others := []string{}
	for _, ip := range []string{podA, podB, podC} {
		if ip != keep && len(others) == 0 {
			others = append(others, ip)
		}
	}
	w.endpoints(append(others, keep)...)
	w.apply()
	if after, _ := w.asks(w.outside, "tcp4", vip+":8000", 10); after[keep] != 10 {
		t.Errorf("after another endpoint left: %v, want all from %s", after, keep)
	}
	// A client whose endpoint is gone gets another one.
	w.endpoints(others...)
	w.apply()
	if after, _ := w.asks(w.outside, "tcp4", vip+":8000", 3); after[others[0]] != 3 {
		t.Errorf("after its endpoint left: %v", after)
	}
}

// A UDP client that keeps its socket must follow when endpoints change: its flow is known to the kernel, so rules alone
// do not reach it.
func TestUDPFlowsFollowTheEndpoints(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.service(nil)
	w.apply()
	conn, err := w.pods[podB].Dial("udp4", vip+":53")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if server, _, err := testns.AskOn(conn); err == nil {
		t.Fatalf("%s answers for a service without endpoints", server)
	}
	for _, ip := range []string{podA, podC} {
		w.endpoints(ip)
		w.apply()
		var server string
		for range 2 { // the refusal of the first round may still be queued on the socket
			if server, _, err = testns.AskOn(conn); err == nil {
				break
			}
		}
		if err != nil || server != ip {
			t.Errorf("endpoint %s: %q answered, %v", ip, server, err)
		}
	}
}

func TestClusterDNSAddressGetsNoRules(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.service(func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "10.43.0.10", []string{"10.43.0.10"} })
	w.apply()
	if rules := w.rules(); strings.Contains(rules, "10.43.0.10") {
		t.Errorf("rules:\n%s", rules)
	}
}

func (w *world) rules() string {
	w.t.Helper()
	var out []byte
	var err error
	w.node.Do(func() { out, err = exec.Command("/usr/sbin/iptables-save").CombinedOutput() })
	if err != nil {
		w.t.Fatalf("iptables-save: %v: %s", err, out)
	}
	return string(out)
}

// A proxy that starts anew takes over what its predecessor left, and leaves others' rules alone; Cleanup takes its own
// away and nothing else.
func TestRestartAndCleanup(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.node.Do(func() {
		for _, args := range []string{"-t nat -N MINE", "-t nat -A PREROUTING -j MINE", "-A FORWARD -s 203.0.113.1/32 -j DROP", "-t nat -N MOTE-CNI-MASQ", "-t nat -A POSTROUTING -j MOTE-CNI-MASQ"} {
			if out, err := exec.Command("/usr/sbin/iptables", strings.Fields(args)...).CombinedOutput(); err != nil {
				t.Errorf("iptables %s: %v: %s", args, err, out)
			}
		}
	})
	w.service(nil)
	w.endpoints(podA)
	w.apply()
	before := strings.Count(w.rules(), "\n-A")

	run, err := iptables.Find()
	if err != nil {
		t.Fatal(err)
	}
	w.sync = newSyncer(testConfig, "here", w.store, run)
	w.apply()
	if after := strings.Count(w.rules(), "\n-A"); after != before {
		t.Errorf("a restart changed the number of rules from %d to %d", before, after)
	}
	w.store.DeleteService(snapshot.Name{Namespace: "ns", Name: "svc"})
	w.sync = newSyncer(testConfig, "here", w.store, run)
	w.apply()
	if rules := w.rules(); strings.Contains(rules, "ns/svc") {
		t.Errorf("a restart left rules of a service that went away meanwhile:\n%s", rules)
	}
	for range 2 {
		w.node.Do(func() { err = Cleanup(context.Background(), netip.MustParseAddr("10.43.0.10")) })
		if err != nil {
			t.Fatal(err)
		}
	}
	rules := w.rules()
	for _, want := range []string{"-A PREROUTING -j MINE", "-A FORWARD -s 203.0.113.1/32 -j DROP", "-A POSTROUTING -j MOTE-CNI-MASQ"} {
		if !strings.Contains(rules, want) {
			t.Errorf("Cleanup took %q away", want)
		}
	}
	if n := strings.Count(rules, "MOTE-"); n != 2 { // chain and jump of the network plugin
		t.Errorf("Cleanup left:\n%s", rules)
	}
}

func TestOnlyChangedChainsAreRestored(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.service(nil)
	w.endpoints(podA)
	w.apply()
	rec := &recorder{ruleProgram: w.sync.apply.program}
	w.sync.apply.program = rec
	w.apply()
	if rec.text != "" {
		t.Errorf("nothing changed, but this was restored:\n%s", rec.text)
	}
	w.endpoints(podB)
	w.apply()
	if got := strings.Count(rec.text, "\n:"); got != 3 { // two ports' chains, and hairpins
		t.Errorf("%d chains restored:\n%s", got, rec.text)
	}
	rec.fail = true
	w.endpoints(podC)
	var err error
	dirty := map[snapshot.Name]struct{}{{Namespace: "ns", Name: "svc"}: {}}
	w.node.Do(func() { err = w.sync.sync(context.Background(), dirty) })
	if err == nil {
		t.Fatal("a refused restore was not reported")
	}
	rec.fail = false
	w.apply()
	w.expect("after a failed restore", w.pods[podB], "tcp4", vip+":8000", podC, podB)
}

// A Service whose rules the kernel refuses (a match that it was built without, say) must not keep others from working.
func TestRefusedServiceDoesNotHurtOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rec := &recorder{ruleProgram: w.sync.apply.program, refuse: "10.43.0.66/32"}
	w.sync.apply.program = rec
	w.service(nil)
	w.endpoints(podA)
	for _, endpoints := range [][]string{nil, {podC}} { // rejected, and served
		bad := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "bad"}, Spec: corev1.ServiceSpec{
			ClusterIP: "10.43.0.66", Ports: []corev1.ServicePort{{Name: "web", Port: 80}},
		}}
		w.store.SetService(bad)
		if endpoints != nil {
			w.store.SetSlice(&discoveryv1.EndpointSlice{
				ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "bad", Labels: map[string]string{discoveryv1.LabelServiceName: "bad"}},
				Ports:      []discoveryv1.EndpointPort{{Name: new("web"), Port: new(int32(80))}}, Endpoints: []discoveryv1.Endpoint{{Addresses: endpoints}},
			})
		}
		dirty := map[snapshot.Name]struct{}{{Namespace: "ns", Name: "svc"}: {}, {Namespace: "ns", Name: "bad"}: {}}
		var err error
		w.node.Do(func() { err = w.sync.sync(context.Background(), dirty) })
		if err != nil {
			t.Fatal(err)
		}
		w.expect("the sound service", w.pods[podB], "tcp4", vip+":8000", podA, podB)
	}
	rec.refuse = ""
	var err error
	w.node.Do(func() {
		err = w.sync.sync(context.Background(), map[snapshot.Name]struct{}{{Namespace: "ns", Name: "bad"}: {}})
	})
	if err != nil {
		t.Fatal(err)
	}
	w.expect("once it is accepted", w.pods[podB], "tcp4", "10.43.0.66:80", podC, podB)
}

type recorder struct {
	ruleProgram
	text   string
	fail   bool
	refuse string
}

func (r *recorder) Restore(ctx context.Context, text []byte) error {
	r.text = string(text)
	if r.fail {
		return fmt.Errorf("refused")
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); r.refuse != "" && strings.Contains(line, r.refuse) {
			return &iptables.RefusedError{Line: line, Err: errors.New("line failed")}
		}
	}
	return r.ruleProgram.Restore(ctx, text)
}

// A device that is offline has no default route, but its own processes need Services all the same.
func TestServicesWithoutDefaultRoute(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.service(nil)
	w.endpoints(podA)
	w.apply()
	w.node.Do(func() {
		if out, err := exec.Command("ip", "route", "del", "default").CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	if _, _, err := w.node.Ask("tcp4", vip+":8000"); !errors.Is(err, unix.ENETUNREACH) {
		t.Fatalf("without default route: %v; the test is void", err)
	}
	var err error
	for range 2 {
		w.node.Do(func() { err = route.Ensure(testConfig.ServiceCIDR) })
		if err != nil {
			t.Fatal(err)
		}
	}
	server, _, err := w.node.Ask("tcp4", vip+":8000")
	if err != nil || server != podA {
		t.Errorf("%s answered, %v", server, err)
	}
	var out []byte
	for range 2 {
		w.node.Do(func() { err = route.Cleanup() })
		if err != nil {
			t.Fatal(err)
		}
	}
	w.node.Do(func() { out, err = exec.Command("sh", "-c", "ip rule; ip route show table all").CombinedOutput() })
	if err != nil || strings.Contains(string(out), "109") {
		t.Errorf("after Cleanup: %v\n%s", err, out)
	}
}
