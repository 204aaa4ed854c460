package rules

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/mote-edge/mote/proxy/snapshot"
)

// Config is what rules depend on besides Services.
type Config struct {
	ClusterCIDR netip.Prefix // the pods of all nodes
	ServiceCIDR netip.Prefix // cluster IPs
	// LocalVIPs are cluster IPs that this node answers itself (cluster DNS): they get no rules.
	LocalVIPs []netip.Addr
}

// Service is what one Service contributes.
type Service struct {
	// Chains of the nat table that are this Service's alone: name → rules without the chain's name.
	Chains map[string][]string
	// Routes lead packets from virtual addresses and node ports into the chains.
	Routes []Route
	// Refusals are rules of MOTE-FILTER.
	Refusals []string
	// Hairpins are pods of this node that may reach themselves by the Service.
	Hairpins []netip.Addr
	// Flows are the UDP and SCTP ports, whose stale translations the kernel has to be told to forget.
	Flows []Flow
	// HealthPort answers load balancers with LocalEndpoints, the ready ones of this node; 0 is none.
	HealthPort     uint16
	LocalEndpoints int
}

// Route sends one destination to a chain. An invalid Addr is every address of the node (a node port).
type Route struct {
	Addr     netip.Addr
	Protocol string
	Port     uint16
	Chain    string
}

// Flow is a destination of connectionless traffic and its rightful endpoints.
type Flow struct {
	Addr     netip.Addr // invalid for a node port
	Protocol string
	Port     uint16
	Targets  []netip.AddrPort
}

// Build makes the rules of a Service. It returns nothing for one that needs none.
func Build(cfg Config, svc *snapshot.Service, list []*snapshot.Slice, at Topology) Service {
	out := Service{Chains: map[string][]string{}}
	if svc == nil || svc.OtherProxy || svc.Headless || svc.Type == corev1.ServiceTypeExternalName {
		return out
	}
	for _, port := range svc.Ports {
		b := portBuilder{cfg: cfg, svc: svc, port: port, eps: selectEndpoints(port, list, at), out: &out}
		b.build()
		out.LocalEndpoints = max(out.LocalEndpoints, b.eps.ready)
	}
	out.HealthPort = svc.HealthCheckPort
	slices.SortFunc(out.Hairpins, netip.Addr.Compare)
	out.Hairpins = slices.Compact(out.Hairpins)
	return out
}

type portBuilder struct {
	cfg  Config
	svc  *snapshot.Service
	port snapshot.Port
	eps  endpoints
	out  *Service
}

func (b *portBuilder) build() {
	external := b.externalAddrs()
	for _, ip := range b.clusterIPs() {
		switch {
		case !b.eps.any:
			b.refuse(ip, "REJECT", "has no endpoints")
		case b.svc.InternalLocal && len(b.eps.local) == 0:
			b.refuse(ip, "DROP", "has no local endpoints")
		case b.svc.InternalLocal:
			b.route(ip, b.port.Port, b.localChain())
		default:
			b.route(ip, b.port.Port, b.clusterChain())
		}
	}
	for _, ip := range external {
		switch {
		case !b.eps.any:
			b.refuse(ip, "REJECT", "has no endpoints")
			continue
		case b.svc.ExternalLocal && len(b.eps.local) == 0:
			b.refuse(ip, "DROP", "has no local endpoints")
		}
		if len(b.svc.SourceRanges) > 0 && slices.Contains(b.svc.LBIPs, ip) {
			b.route(ip, b.port.Port, b.firewallChain())
			b.refuse(ip, "DROP", "source is outside loadBalancerSourceRanges")
		} else {
			b.route(ip, b.port.Port, b.externalChain())
		}
	}
	if b.port.NodePort != 0 {
		switch {
		case !b.eps.any:
			b.refuse(netip.Addr{}, "REJECT", "has no endpoints")
		case b.svc.ExternalLocal && len(b.eps.local) == 0:
			b.refuse(netip.Addr{}, "DROP", "has no local endpoints")
		}
		if b.eps.any {
			b.route(netip.Addr{}, b.port.NodePort, b.externalChain())
		}
	}
	for _, target := range b.eps.local {
		if b.cfg.ClusterCIDR.Contains(target.Addr()) {
			b.out.Hairpins = append(b.out.Hairpins, target.Addr())
		}
	}
	b.flows(external)
}

func (b *portBuilder) clusterIPs() []netip.Addr {
	return slices.DeleteFunc(slices.Clone(b.svc.ClusterIPs), func(ip netip.Addr) bool {
		return !ip.Is4() || slices.Contains(b.cfg.LocalVIPs, ip)
	})
}

func (b *portBuilder) externalAddrs() []netip.Addr {
	all := append(slices.Clone(b.svc.ExternalIPs), b.svc.LBIPs...)
	all = slices.DeleteFunc(all, func(ip netip.Addr) bool { return !ip.Is4() })
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}

func (b *portBuilder) route(ip netip.Addr, port uint16, chain string) {
	b.out.Routes = append(b.out.Routes, Route{Addr: ip, Protocol: b.protocol(), Port: port, Chain: chain})
}

// refuse adds a rule for what was not translated: REJECT tells the client at once, DROP leaves it to others.
func (b *portBuilder) refuse(ip netip.Addr, verdict, why string) {
	if verdict == "REJECT" && b.port.Protocol == corev1.ProtocolTCP {
		verdict += " --reject-with tcp-reset" // passes firewalls, and loopback routes, that ICMP does not
	}
	dst, port := "-m addrtype --dst-type LOCAL", b.port.NodePort
	if ip.IsValid() {
		dst, port = "-d "+ip.String()+"/32", b.port.Port
	}
	b.out.Refusals = append(b.out.Refusals, fmt.Sprintf("%s -p %s -m %[2]s --dport %d -m comment --comment %q -j %s", dst, b.protocol(), port, b.name()+" "+why, verdict))
}

func (b *portBuilder) protocol() string { return strings.ToLower(string(b.port.Protocol)) }

func (b *portBuilder) name() string {
	if b.port.Name == "" {
		return b.svc.Name.String()
	}
	return b.svc.Name.String() + ":" + b.port.Name
}

// chain returns the name of one of the port's chains and whether it is new.
func (b *portBuilder) chain(prefix string) (string, bool) {
	name := prefix + hash(b.name()+"/"+b.protocol())
	_, have := b.out.Chains[name]
	if !have {
		b.out.Chains[name] = nil
	}
	return name, !have
}

func (b *portBuilder) clusterChain() string { return b.balance("MOTE-SVC-", b.eps.cluster) }
func (b *portBuilder) localChain() string   { return b.balance("MOTE-LOC-", b.eps.local) }

// balance spreads connections over targets, each with the same probability: the nth of the rules that are left takes
// 1/n of what reaches it.
func (b *portBuilder) balance(prefix string, targets []netip.AddrPort) string {
	name, fresh := b.chain(prefix)
	if !fresh {
		return name
	}
	comment := fmt.Sprintf("-m comment --comment %q ", b.name())
	dnat := func(t netip.AddrPort) string {
		return fmt.Sprintf("-p %s -j DNAT --to-destination %s", b.protocol(), t)
	}
	var lines []string
	if b.svc.AffinitySeconds > 0 {
		for _, t := range targets {
			lines = append(lines, fmt.Sprintf("%s-m recent --name %s --update --seconds %d --reap --rsource %s", comment, b.affinity(t), b.svc.AffinitySeconds, dnat(t)))
		}
	}
	for i, t := range targets {
		line := comment
		if left := len(targets) - i; left > 1 {
			line += fmt.Sprintf("-m statistic --mode random --probability %.10f ", 1/float64(left))
		}
		if b.svc.AffinitySeconds > 0 {
			line += fmt.Sprintf("-m recent --name %s --set --rsource ", b.affinity(t))
		}
		lines = append(lines, line+dnat(t))
	}
	b.out.Chains[name] = lines
	return name
}

// affinity names the list of clients that keep to a target. Cluster and local chains share it.
func (b *portBuilder) affinity(t netip.AddrPort) string {
	return "MOTE-" + hash(b.name()+"/"+b.protocol()+"/"+t.String())
}

// externalChain takes what arrives at an external address or node port.
func (b *portBuilder) externalChain() string {
	name, fresh := b.chain("MOTE-EXT-")
	if !fresh {
		return name
	}
	comment := fmt.Sprintf("-m comment --comment %q ", b.name())
	if !b.svc.ExternalLocal {
		b.out.Chains[name] = []string{comment + "-j " + chainMark, comment + "-j " + b.clusterChain()}
		return name
	}
	// externalTrafficPolicy Local is about what comes from outside. A pod or the node itself that uses the external
	// address is inside, and may go to any endpoint.
	cluster := b.clusterChain()
	lines := []string{
		fmt.Sprintf("-s %s %s-j %s", b.cfg.ClusterCIDR, comment, cluster),
		fmt.Sprintf("%s-m addrtype --src-type LOCAL -j %s", comment, chainMark),
		fmt.Sprintf("%s-m addrtype --src-type LOCAL -j %s", comment, cluster),
	}
	if len(b.eps.local) > 0 {
		lines = append(lines, comment+"-j "+b.localChain())
	}
	b.out.Chains[name] = lines
	return name
}

// firewallChain lets the allowed sources through; what comes back out of it is dropped in the filter table.
func (b *portBuilder) firewallChain() string {
	name, fresh := b.chain("MOTE-FW-")
	if !fresh {
		return name
	}
	var lines []string
	for _, r := range b.svc.SourceRanges {
		if r.Addr().Is4() {
			lines = append(lines, fmt.Sprintf("-s %s -m comment --comment %q -j %s", r, b.name(), b.externalChain()))
		}
	}
	b.out.Chains[name] = lines
	return name
}

func (b *portBuilder) flows(external []netip.Addr) {
	if b.port.Protocol == corev1.ProtocolTCP {
		return // a TCP client notices a dead endpoint itself
	}
	all := slices.Concat(b.eps.cluster, b.eps.local)
	add := func(ip netip.Addr, port uint16) {
		b.out.Flows = append(b.out.Flows, Flow{Addr: ip, Protocol: b.protocol(), Port: port, Targets: all})
	}
	for _, ip := range slices.Concat(b.clusterIPs(), external) {
		add(ip, b.port.Port)
	}
	if b.port.NodePort != 0 {
		add(netip.Addr{}, b.port.NodePort)
	}
}

// hash shortens a name to 16 characters that may stand in a chain's name.
func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return base32.StdEncoding.EncodeToString(sum[:])[:16]
}
