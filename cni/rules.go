package cni

import (
	"fmt"
	"slices"
	"strings"

	"github.com/mote-edge/mote/cni/ipam"
	"github.com/mote-edge/mote/internal/iptables"
)

// Names of the chains. hostPortMark asks for masquerading; the service proxy uses another bit.
const (
	hostPortChainPrefix = "MOTE-HP-"
	chainHostPort       = "MOTE-CNI-HOSTPORT"
	chainMasq           = "MOTE-CNI-MASQ"
	chainForward        = "MOTE-CNI-FORWARD"
	chainInput          = "MOTE-CNI-INPUT"
	hostPortMark        = "0x2000/0x2000"
)

// ownChain says which chains are this plugin's, so that Cleanup finds all of them.
func ownChain(chain string) bool {
	return strings.HasPrefix(chain, "MOTE-CNI-") || strings.HasPrefix(chain, hostPortChainPrefix)
}

// nodeRules returns the restore text that brings the node's standing rules about, given what the two tables hold.
func nodeRules(c *Config, nat, filter iptables.Table) string {
	var b strings.Builder
	b.WriteString("*nat\n")
	if !nat.Has(chainHostPort) { // it may hold jumps of living pods: never flushed
		fmt.Fprintf(&b, ":%s - [0:0]\n", chainHostPort)
	}
	fmt.Fprintf(&b, ":%s - [0:0]\n", chainMasq)
	fmt.Fprintf(&b, "-A %s -m mark --mark %s -j MASQUERADE --random-fully\n", chainMasq, hostPortMark)
	fmt.Fprintf(&b, "-A %s -d 224.0.0.0/4 -j RETURN\n", chainMasq)
	fmt.Fprintf(&b, "-A %s -s %s ! -d %s -j MASQUERADE --random-fully\n", chainMasq, c.Subnet.Masked(), c.ClusterCIDR.Masked())
	for _, jump := range []string{
		"-A PREROUTING -m addrtype --dst-type LOCAL -j " + chainHostPort,
		"-A OUTPUT -m addrtype --dst-type LOCAL -j " + chainHostPort,
		"-A POSTROUTING -j " + chainMasq,
	} {
		if !nat.HasRule(jump) {
			b.WriteString(jump + "\n")
		}
	}
	b.WriteString("COMMIT\n*filter\n")
	fmt.Fprintf(&b, ":%s - [0:0]\n:%s - [0:0]\n", chainForward, chainInput)
	fmt.Fprintf(&b, "-A %s -s %s -j ACCEPT\n", chainForward, c.ClusterCIDR.Masked())
	fmt.Fprintf(&b, "-A %s -d %s -j ACCEPT\n", chainForward, c.ClusterCIDR.Masked())
	// route_localnet makes 127.0.0.0/8 routable from the bridge; let in only answers to what the node itself began.
	fmt.Fprintf(&b, "-A %s -d 127.0.0.0/8 -i %s -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP\n", chainInput, c.Bridge)
	// Last in FORWARD, so that the proxy's rejections and anybody's policies come first; first in INPUT, as it only drops.
	if jump := "-A FORWARD -j " + chainForward; !filter.HasRule(jump) {
		b.WriteString(jump + "\n")
	}
	if jump := "-A INPUT -j " + chainInput; !filter.HasRule(jump) {
		fmt.Fprintf(&b, "-I INPUT 1 -j %s\n", chainInput)
	}
	b.WriteString("COMMIT\n")
	return b.String()
}

// hostPortRules returns the restore text that maps an attachment's host ports to its address.
func hostPortRules(rec ipam.Record, nat iptables.Table) string {
	chain := hostPortChain(rec.ContainerID, rec.IfName)
	var b strings.Builder
	fmt.Fprintf(&b, "*nat\n:%s - [0:0]\n", chain)
	for _, p := range rec.Ports {
		match := fmt.Sprintf("-p %s --dport %d", p.Protocol, p.HostPort)
		if p.HostIP != "" {
			match = fmt.Sprintf("-d %s/32 %s", p.HostIP, match)
		}
		// The pod itself and the node's loopback cannot be answered directly: those connections leave masqueraded.
		for _, source := range []string{rec.Address.String() + "/32", "127.0.0.0/8"} {
			fmt.Fprintf(&b, "-A %s -s %s %s -j MARK --set-xmark %s\n", chain, source, match, hostPortMark)
		}
		fmt.Fprintf(&b, "-A %s %s -j DNAT --to-destination %s:%d\n", chain, match, rec.Address, p.ContainerPort)
	}
	if jump := fmt.Sprintf("-A %s -j %s", chainHostPort, chain); !nat.HasRule(jump) {
		b.WriteString(jump + "\n")
	}
	b.WriteString("COMMIT\n")
	return b.String()
}

// removeHostPorts returns the restore text that takes the host port chains away that gone accepts; "" if none is there.
func removeHostPorts(nat iptables.Table, gone []string) string {
	lines := nat.Remove(func(chain string) bool { return slices.Contains(gone, chain) })
	if lines == "" {
		return ""
	}
	return "*nat\n" + lines + "COMMIT\n"
}
