package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/mote-edge/mote/internal/testns"
)

func TestPodsReachEachOtherAndTheWorld(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	a, b := n.add("aaaa", nil), n.add("bbbb", nil)
	if a.ip == b.ip {
		t.Fatalf("both pods have %s", a.ip)
	}
	serve(t, a.NS, "tcp", ":80")
	serve(t, n.NS, "tcp", ":81")
	serve(t, n.outside, "tcp", ":82")
	expect(t, "pod to pod", b.NS, "tcp", a.ip.String()+":80", b.ip.String())
	expect(t, "pod to itself", a.NS, "tcp", a.ip.String()+":80", a.ip.String())
	expect(t, "node to pod", n.NS, "tcp", a.ip.String()+":80", "10.42.0.1")
	expect(t, "pod to bridge", b.NS, "tcp", "10.42.0.1:81", b.ip.String())
	expect(t, "pod to node", b.NS, "tcp", nodeIP+":81", b.ip.String())
	expect(t, "pod to the world is masqueraded", b.NS, "tcp", outsideIP+":82", nodeIP)
	if _, err := ask(b.NS, "tcp", "127.0.0.1:81"); err == nil {
		t.Error("the node's service answers on the pod's loopback")
	}
}

// A pod must not reach the node's loopback, though route_localnet is on for host ports (compare CVE-2020-8558).
func TestNodeLoopbackIsClosedToPods(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	p := n.add("evil", nil)
	serve(t, n.NS, "udp", "127.0.0.1:99")
	var err error
	p.Do(func() {
		if err = os.WriteFile("/proc/sys/net/ipv4/conf/eth0/route_localnet", []byte("1"), 0); err != nil {
			return
		}
		lo, e := netlink.LinkByName("lo")
		if e != nil {
			err = e
			return
		}
		if err = netlink.LinkSetDown(lo); err != nil {
			return
		}
		eth, e := netlink.LinkByName("eth0")
		if e != nil {
			err = e
			return
		}
		_, loopback, _ := net.ParseCIDR("127.0.0.0/8")
		err = netlink.RouteReplace(&netlink.Route{LinkIndex: eth.Attrs().Index, Dst: loopback, Gw: net.ParseIP("10.42.0.1")})
	})
	if err != nil {
		t.Fatalf("prepare the attack: %v", err)
	}
	if seen, err := ask(p.NS, "udp", "127.0.0.1:99"); err == nil {
		t.Errorf("a pod reached the node's loopback (seen as %s)", seen)
	}
}

func TestHostPorts(t *testing.T) {
	t.Parallel()
	// Docker and others turn bridge-nf-call-iptables on, many nodes have it off: both must do.
	for _, bridgeNF := range []string{"0", "1"} {
		t.Run("bridge-nf-call-iptables="+bridgeNF, func(t *testing.T) {
			t.Parallel()
			testHostPorts(t, bridgeNF)
		})
	}
}

func testHostPorts(t *testing.T, bridgeNF string) {
	n := newNode(t)
	n.Do(func() {
		if err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte(bridgeNF), 0); err != nil {
			t.Error(err)
		}
	})
	ports := map[string]any{"runtimeConfig": map[string]any{"portMappings": []map[string]any{
		{"hostPort": 8080, "containerPort": 80, "protocol": "TCP"},
		{"hostPort": 8053, "containerPort": 53, "protocol": "UDP"},
		{"hostPort": 8081, "containerPort": 80, "protocol": "TCP", "hostIP": "127.0.0.1"},
		{"hostPort": 8082, "containerPort": 80, "protocol": "TCP", "hostIP": nodeIP},
	}}}
	a := n.add("aaaa", ports)
	other := n.add("bbbb", nil)
	serve(t, a.NS, "tcp", ":80")
	serve(t, a.NS, "udp", ":53")
	n.outside.Do(func() { addRoute(t, nodeIP) })

	expect(t, "from outside", n.outside, "tcp", nodeIP+":8080", outsideIP)
	expect(t, "udp from outside", n.outside, "udp", nodeIP+":8053", outsideIP)
	expect(t, "from the node by its address", n.NS, "tcp", nodeIP+":8080", nodeIP)
	expect(t, "from the node by loopback", n.NS, "tcp", "127.0.0.1:8080", "10.42.0.1")
	expect(t, "from another pod", other.NS, "tcp", nodeIP+":8080", other.ip.String())
	expect(t, "from the pod itself", a.NS, "tcp", nodeIP+":8080", "10.42.0.1")
	expect(t, "hostIP loopback from the node", n.NS, "tcp", "127.0.0.1:8081", "10.42.0.1")
	expect(t, "hostIP of the node from outside", n.outside, "tcp", nodeIP+":8082", outsideIP)
	if _, err := ask(n.outside, "tcp", nodeIP+":8081"); err == nil {
		t.Error("a host port bound to loopback answers on the node's address")
	}
	if _, err := n.call("CHECK", a.id, a.Path(), n.conf(map[string]any{"prevResult": json.RawMessage(a.result)})); err != nil {
		t.Errorf("CHECK: %v", err)
	}

	n.del(a, ports)
	if _, err := ask(n.outside, "tcp", nodeIP+":8080"); err == nil {
		t.Error("the host port answers after DEL")
	}
	if rules := n.rules(); strings.Contains(rules, hostPortChainPrefix) {
		t.Errorf("DEL left rules:\n%s", rules)
	}
	// UDP flows follow the port to its next owner.
	next := n.add("cccc", ports)
	serve(t, next.NS, "udp", ":53")
	expect(t, "udp after the port changed hands", n.outside, "udp", nodeIP+":8053", outsideIP)
}

// CNI 1.1, DEL: "Plugins should generally complete a DEL action without error even if some resources are missing."
func TestDelIsIdempotentAndCleanupLeavesNothing(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	before := n.rules()
	ports := map[string]any{"runtimeConfig": map[string]any{"portMappings": []map[string]any{{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}}}
	a, b, c := n.add("aaaa", nil), n.add("bbbb", ports), n.add("cccc", ports)
	n.del(a, nil)
	n.del(a, nil)
	if _, err := n.call("DEL", b.id, "", n.conf(nil)); err != nil {
		t.Errorf("DEL without a network namespace: %v", err)
	}
	if _, err := n.call("DEL", "never-added", "/nowhere", n.conf(nil)); err != nil {
		t.Errorf("DEL of an unknown container: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(n.dataDir, "mote")); err != nil {
		t.Fatal(err)
	}
	n.del(c, ports)
	if got := fmt.Sprint(n.links()); got != "[lo uplink mote0]" {
		t.Errorf("links after DEL: %s", got)
	}
	if rules := n.rules(); strings.Contains(rules, hostPortChainPrefix) {
		t.Errorf("rules after DEL:\n%s", rules)
	}

	n.add("dddd", ports)
	var err error
	for range 2 {
		n.Do(func() { err = Cleanup(context.Background(), CleanupConfig{DataDir: n.dataDir}) })
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := fmt.Sprint(n.links()); got != "[lo uplink]" {
		t.Errorf("links after Cleanup: %s", got)
	}
	// Tables that were never used are not printed at all: compare rules and user chains.
	if after := n.rules(); strings.Contains(after, "MOTE") {
		t.Errorf("rules before:\n%s\nafter Cleanup:\n%s", before, after)
	}
	if _, err := os.Stat(n.dataDir); !os.IsNotExist(err) {
		t.Errorf("dataDir is still there: %v", err)
	}
}

func TestAddAgainKeepsTheAddress(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	a := n.add("aaaa", nil)
	first := a.ip
	n.add("bbbb", nil)
	n.addTo(a, nil)
	if a.ip != first {
		t.Errorf("second ADD gave %s, first %s", a.ip, first)
	}
	serve(t, a.NS, "tcp", ":80")
	expect(t, "node to pod", n.NS, "tcp", a.ip.String()+":80", "10.42.0.1")
}

func TestAddsInParallelGetDifferentAddresses(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	const count = 24
	pods := make([]*pod, count)
	for i := range pods {
		pods[i] = &pod{NS: testns.New(t), id: fmt.Sprintf("pod%d", i)}
	}
	var wg sync.WaitGroup
	for _, p := range pods {
		wg.Go(func() {
			out, cniErr := n.call("ADD", p.id, p.Path(), n.conf(nil))
			var r current.Result
			if cniErr != nil {
				t.Errorf("ADD: %v", cniErr)
			} else if err := json.Unmarshal(out, &r); err != nil {
				t.Error(err)
			} else {
				p.ip, _ = netip.AddrFromSlice(r.IPs[0].Address.IP.To4())
			}
		})
	}
	wg.Wait()
	seen := map[netip.Addr]bool{}
	for _, p := range pods {
		if seen[p.ip] {
			t.Errorf("%s was given out twice", p.ip)
		}
		seen[p.ip] = true
	}
}

func TestCheckFindsWhatIsMissing(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	p := n.add("aaaa", nil)
	conf := n.conf(map[string]any{"prevResult": json.RawMessage(p.result)})
	if _, err := n.call("CHECK", p.id, p.Path(), conf); err != nil {
		t.Fatalf("CHECK of a sound pod: %v", err)
	}
	p.Do(func() {
		if eth, err := netlink.LinkByName("eth0"); err != nil {
			t.Error(err)
		} else if err := netlink.AddrDel(eth, &netlink.Addr{IPNet: &net.IPNet{IP: p.ip.AsSlice(), Mask: net.CIDRMask(32, 32)}}); err != nil {
			t.Error(err)
		}
	})
	if _, err := n.call("CHECK", p.id, p.Path(), conf); err == nil || err.Code != errCheckFailed {
		t.Errorf("CHECK of a pod without its address: %v", err)
	}
	n.del(p, nil)
	if _, err := n.call("CHECK", p.id, p.Path(), conf); err == nil || err.Code != types.ErrUnknownContainer {
		t.Errorf("CHECK after DEL: %v", err)
	}
}

// CNI 1.1, GC: everything but cni.dev/valid-attachments goes.
func TestGCRemovesWhatIsNotValid(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	keep, lose := n.add("keep", nil), n.add("lose", nil)
	conf := n.conf(map[string]any{"cni.dev/valid-attachments": []types.GCAttachment{{ContainerID: "keep", IfName: "eth0"}}})
	if _, err := n.call("GC", "", "", conf); err != nil {
		t.Fatal(err)
	}
	links := strings.Join(n.links(), " ")
	if !strings.Contains(links, hostIfName(keep.id, "eth0")) || strings.Contains(links, hostIfName(lose.id, "eth0")) {
		t.Errorf("links after GC: %s", links)
	}
}

func TestExhaustedRangeReclaimsDeadPods(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	small := map[string]any{"subnet": "10.42.9.0/29"} // .2 to .6
	var pods []*pod
	for i := range 5 {
		pods = append(pods, n.add(fmt.Sprintf("pod%d", i), small))
	}
	late := &pod{NS: testns.New(t), id: "late"}
	if _, err := n.call("ADD", late.id, late.Path(), n.conf(small)); err == nil || err.Code != errNoAddress || !strings.Contains(err.Msg, "no free address in 10.42.9.0/29") {
		t.Fatalf("sixth ADD: %v", err)
	}
	// The third pod's namespace goes away without DEL.
	file := filepath.Join(n.dataDir, "mote", "attachments", "pod2@eth0")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, bytes.ReplaceAll(b, []byte(pods[2].Path()), []byte("/run/netns/gone")), 0o600); err != nil {
		t.Fatal(err)
	}
	n.addTo(late, small)
	if late.ip != pods[2].ip {
		t.Errorf("got %s, want the dead pod's %s", late.ip, pods[2].ip)
	}
}

// STATUS, and the agent after a flush, mend what somebody else took away.
func TestMending(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	ports := map[string]any{"runtimeConfig": map[string]any{"portMappings": []map[string]any{{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}}}
	p := n.add("aaaa", ports)
	serve(t, p.NS, "tcp", ":80")
	serve(t, n.outside, "tcp", ":82")
	conflist := filepath.Join(t.TempDir(), "10-mote.conflist")
	plugin := json.RawMessage(n.conf(nil))
	b, err := json.Marshal(map[string]any{"cniVersion": "1.1.0", "name": "mote", "plugins": []any{plugin}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(conflist, b, 0o600); err != nil {
		t.Fatal(err)
	}
	before := strings.Count(n.rules(), "\n-A")
	for name, mend := range map[string]func() error{
		"STATUS": func() error {
			old := time.Now().Add(-time.Hour)
			if err := os.Chtimes(filepath.Join(n.dataDir, "ready-mote0"), old, old); err != nil {
				return err
			}
			if _, err := n.call("STATUS", "", "", n.conf(nil)); err != nil {
				return err
			}
			return nil
		},
		"Repair": func() (err error) {
			n.Do(func() { err = Repair(context.Background(), conflist) })
			return err
		},
	} {
		n.Do(func() {
			if out, err := exec.Command("sh", "-c", "PATH=$PATH:/usr/sbin; iptables -F; iptables -t nat -F; iptables -t nat -X").CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
		for range 2 {
			if err := mend(); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		expect(t, "masquerading after "+name, p.NS, "tcp", outsideIP+":82", nodeIP)
		expect(t, "host port after "+name, n.outside, "tcp", nodeIP+":8080", outsideIP)
		if after := strings.Count(n.rules(), "\n-A"); after != before {
			t.Errorf("%s changed the number of rules from %d to %d", name, before, after)
		}
	}
	if err := Repair(context.Background(), filepath.Join(t.TempDir(), "none")); err != nil {
		t.Errorf("Repair of a node without network: %v", err)
	}
}

func TestBadInput(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	p := testns.New(t)
	for _, tc := range []struct {
		name, netns string
		conf        []byte
		code        uint
		words       string
	}{
		{"not JSON", p.Path(), []byte("{"), types.ErrDecodingFailure, "unmarshall"},
		{"bad subnet", p.Path(), n.conf(map[string]any{"subnet": "10.42.0.0/33"}), types.ErrDecodingFailure, "prefix"},
		{"no subnet", p.Path(), n.conf(map[string]any{"subnet": ""}), types.ErrInvalidNetworkConfig, "subnet"},
		{"IPv6 subnet", p.Path(), n.conf(map[string]any{"subnet": "fd00::/64"}), types.ErrInvalidNetworkConfig, "IPv4"},
		{"bad bridge", p.Path(), n.conf(map[string]any{"bridge": "a/b"}), types.ErrInvalidNetworkConfig, "bridge"},
		{"bridge is no bridge", p.Path(), n.conf(map[string]any{"bridge": "uplink"}), types.ErrInvalidNetworkConfig, "not a bridge"},
		{"no such netns", "/nowhere", n.conf(nil), types.ErrInvalidNetNS, "/nowhere"},
		{"bad port", p.Path(), n.conf(map[string]any{"runtimeConfig": map[string]any{"portMappings": []map[string]any{{"hostPort": 70000, "containerPort": 1}}}}), types.ErrInvalidNetworkConfig, "hostPort 70000"},
		{"bad version", p.Path(), n.conf(map[string]any{"cniVersion": "9.9.9"}), types.ErrIncompatibleCNIVersion, "incompatible"},
	} {
		_, err := n.call("ADD", "bad", tc.netns, tc.conf)
		if err == nil || err.Code != tc.code || !strings.Contains(err.Msg, tc.words) {
			t.Errorf("%s: got %+v, want code %d with %q", tc.name, err, tc.code, tc.words)
		}
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	out, err := n.call("VERSION", "", "", []byte("{}"))
	if err != nil || !bytes.Contains(out, []byte(`"1.1.0"`)) {
		t.Errorf("VERSION: %s, %v", out, err)
	}
}
