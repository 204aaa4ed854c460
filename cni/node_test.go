package cni

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/mote-edge/mote/internal/testns"
)

// TestMain lets the test binary stand in for the plugin: tests execute it as a runtime does.
func TestMain(m *testing.M) {
	if os.Getenv("CNI_COMMAND") != "" {
		Main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// node is a network namespace that plays a node, with a client outside of it at 192.0.2.2.
type node struct {
	*testns.NS
	t       *testing.T
	dataDir string
	outside *testns.NS
}

const (
	nodeIP    = "192.0.2.1"
	outsideIP = "192.0.2.2"
)

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{NS: testns.New(t), t: t, dataDir: t.TempDir(), outside: testns.New(t)}
	var err error
	n.Do(func() {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.Flags = "uplink", net.FlagUp
		veth := netlink.NewVeth(attrs)
		veth.PeerName, veth.PeerNamespace = "eth0", netlink.NsFd(n.outside.Fd())
		if err = netlink.LinkAdd(veth); err == nil {
			err = addAddr("uplink", nodeIP+"/24")
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	n.outside.Do(func() { err = addAddr("eth0", outsideIP+"/24") })
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func addAddr(link, cidr string) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(l, addr); err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

// conf is the network configuration as the runtime would send it; extra members are merged in.
func (n *node) conf(extra map[string]any) []byte {
	c := map[string]any{
		"cniVersion": "1.1.0", "name": "mote", "type": "mote-cni", "bridge": "mote0",
		"subnet": "10.42.0.0/24", "clusterCIDR": "10.42.0.0/16", "dataDir": n.dataDir,
	}
	for k, v := range extra {
		c[k] = v
	}
	b, err := json.Marshal(c)
	if err != nil {
		n.t.Fatal(err)
	}
	return b
}

// call executes the plugin in the node and returns its output, and its error as it prints them.
func (n *node) call(command, id, netns string, conf []byte) ([]byte, *types.Error) {
	n.t.Helper()
	var out, stderr bytes.Buffer
	var err error
	n.Do(func() {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), "CNI_COMMAND="+command, "CNI_PATH=/opt/cni/bin")
		if id != "" {
			cmd.Env = append(cmd.Env, "CNI_CONTAINERID="+id, "CNI_NETNS="+netns, "CNI_IFNAME=eth0")
		}
		cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(conf), &out, &stderr
		err = cmd.Run()
	})
	if err == nil {
		return out.Bytes(), nil
	}
	e := &types.Error{}
	if jsonErr := json.Unmarshal(out.Bytes(), e); jsonErr != nil {
		n.t.Fatalf("%s %s: %v, and stdout is no CNI error: %s%s", command, id, err, out.String(), stderr.String())
	}
	return nil, e
}

type pod struct {
	*testns.NS
	id     string
	ip     netip.Addr
	result []byte
}

func (n *node) add(id string, extra map[string]any) *pod {
	n.t.Helper()
	p := &pod{NS: testns.New(n.t), id: id}
	n.addTo(p, extra)
	return p
}

func (n *node) addTo(p *pod, extra map[string]any) {
	n.t.Helper()
	out, cniErr := n.call("ADD", p.id, p.Path(), n.conf(extra))
	if cniErr != nil {
		n.t.Fatalf("ADD %s: %v", p.id, cniErr)
	}
	var r current.Result
	if err := json.Unmarshal(out, &r); err != nil {
		n.t.Fatal(err)
	}
	p.ip, _ = netip.AddrFromSlice(r.IPs[0].Address.IP.To4())
	p.result = out
}

func (n *node) del(p *pod, extra map[string]any) {
	n.t.Helper()
	if _, err := n.call("DEL", p.id, p.Path(), n.conf(extra)); err != nil {
		n.t.Fatalf("DEL %s: %v", p.id, err)
	}
}

// serve answers every connection or datagram in ns with the address of its client.
func serve(t *testing.T, ns *testns.NS, network, addr string) {
	t.Helper()
	var err error
	ns.Do(func() {
		if network == "udp" {
			var c net.PacketConn
			if c, err = net.ListenPacket("udp4", addr); err == nil {
				t.Cleanup(func() { _ = c.Close() })
				go func() {
					buf := make([]byte, 512)
					for {
						_, from, err := c.ReadFrom(buf)
						if err != nil {
							return
						}
						_, _ = c.WriteTo([]byte(from.String()), from)
					}
				}()
			}
			return
		}
		var l net.Listener
		if l, err = net.Listen("tcp4", addr); err == nil {
			t.Cleanup(func() { _ = l.Close() })
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					_, _ = io.WriteString(c, c.RemoteAddr().String())
					_ = c.Close()
				}
			}()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

// ask connects from ns and returns the address under which the server saw the client.
func ask(ns *testns.NS, network, addr string) (string, error) {
	var seen string
	var err error
	ns.Do(func() {
		var c net.Conn
		if c, err = net.DialTimeout(network, addr, 2*time.Second); err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(2 * time.Second))
		if network == "udp" {
			if _, err = c.Write([]byte("?")); err != nil {
				return
			}
		}
		buf := make([]byte, 512)
		var k int
		if k, err = c.Read(buf); err == nil {
			seen, _, err = net.SplitHostPort(string(buf[:k]))
		}
	})
	return seen, err
}

func expect(t *testing.T, what string, ns *testns.NS, network, addr, wantSeen string) {
	t.Helper()
	seen, err := ask(ns, network, addr)
	if err != nil {
		t.Errorf("%s: %v", what, err)
	} else if seen != wantSeen {
		t.Errorf("%s: the server saw %s, want %s", what, seen, wantSeen)
	}
}

func addRoute(t *testing.T, gw string) {
	eth, err := netlink.LinkByName("eth0")
	if err == nil {
		_, dst, _ := net.ParseCIDR("10.42.0.0/16")
		err = netlink.RouteReplace(&netlink.Route{LinkIndex: eth.Attrs().Index, Dst: dst, Gw: net.ParseIP(gw)})
	}
	if err != nil {
		t.Error(err)
	}
}

// rules returns the node's whole rule set.
func (n *node) rules() string {
	var out []byte
	var err error
	n.Do(func() { out, err = exec.Command("/usr/sbin/iptables-save").CombinedOutput() })
	if err != nil {
		n.t.Fatalf("iptables-save: %v: %s", err, out)
	}
	return string(out)
}

// links returns the names of the node's links.
func (n *node) links() []string {
	var names []string
	var err error
	n.Do(func() {
		var links []netlink.Link
		links, err = netlink.LinkList()
		for _, l := range links {
			names = append(names, l.Attrs().Name)
		}
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return names
}
