package rules

import (
	"cmp"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"
)

// Standing chains. The mark bit is the one that Kubernetes' own proxy uses for the same thing.
const (
	chainServices    = "MOTE-SERVICES"
	chainNodePorts   = "MOTE-NODEPORTS"
	chainVIPPrefix   = "MOTE-VIP-"
	chainMark        = "MOTE-MARK-MASQ"
	chainPostrouting = "MOTE-POSTROUTING"
	chainHairpin     = "MOTE-HAIRPIN"
	chainFilter      = "MOTE-FILTER"
	chainForward     = "MOTE-FORWARD"
	markBit          = "0x4000"
	markMatch        = "-m mark --mark 0x4000/0x4000"
)

// OwnChain says which chains are the proxy's, so that others' are left alone and Cleanup finds all of them. (MOTE-CNI-*
// and MOTE-HP-* belong to the network plugin.)
func OwnChain(chain string) bool {
	for _, exact := range []string{chainServices, chainNodePorts, chainMark, chainPostrouting, chainHairpin, chainFilter, chainForward} {
		if chain == exact {
			return true
		}
	}
	for _, prefix := range []string{chainVIPPrefix, "MOTE-SVC-", "MOTE-LOC-", "MOTE-EXT-", "MOTE-FW-"} {
		if strings.HasPrefix(chain, prefix) {
			return true
		}
	}
	return false
}

// Jumps are the rules of the built-in chains that lead to the proxy's: table, chain, rule. They come first in their chains.
func Jumps() []Jump {
	const fresh = "-m conntrack --ctstate NEW "
	return []Jump{
		{"nat", "PREROUTING", "-j " + chainServices},
		{"nat", "OUTPUT", "-j " + chainServices},
		{"nat", "POSTROUTING", "-j " + chainPostrouting},
		{"filter", "INPUT", fresh + "-j " + chainFilter},
		{"filter", "OUTPUT", fresh + "-j " + chainFilter},
		{"filter", "FORWARD", "-j " + chainForward},
		{"filter", "FORWARD", fresh + "-j " + chainFilter},
	}
}

// Jump is a rule of a built-in chain.
type Jump struct{ Table, Chain, Rule string }

// Chains is a table's content: chain → its rules, without the chain's name.
type Chains map[string][]string

// Assemble makes the chains that lead to those of the Services, for both tables. The Services' own chains are not
// repeated in the result.
func Assemble(cfg Config, services iter.Seq[*Service]) (nat, filter Chains) {
	nat = Chains{
		chainMark: {"-j MARK --set-xmark " + markBit + "/" + markBit},
		chainPostrouting: {
			"-j " + chainHairpin,
			"-m mark ! --mark " + markBit + "/" + markBit + " -j RETURN",
			// Off again, so that a packet which is routed a second time (a tunnel's) is not masqueraded there too.
			"-j MARK --set-xmark 0x0/" + markBit,
			"-j MASQUERADE --random-fully",
		},
		chainHairpin:   nil,
		chainNodePorts: nil,
	}
	filter = Chains{
		chainFilter: nil,
		chainForward: {
			// A packet out of its connection's window is not translated: its receiver would see a stranger and reset.
			"-m conntrack --ctstate INVALID -j DROP",
			markMatch + " -j ACCEPT",
			"-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
		},
	}
	var hairpins []netip.Addr
	var routes []Route
	for s := range services {
		routes = append(routes, s.Routes...)
		hairpins = append(hairpins, s.Hairpins...)
		filter[chainFilter] = append(filter[chainFilter], s.Refusals...)
	}
	slices.Sort(filter[chainFilter])
	slices.SortFunc(hairpins, netip.Addr.Compare)
	for _, ip := range slices.Compact(hairpins) {
		nat[chainHairpin] = append(nat[chainHairpin], fmt.Sprintf("-s %s/32 -d %[1]s/32 -j MASQUERADE --random-fully", ip))
	}
	var entry []string
	if cfg.ServiceCIDR.IsValid() {
		// A host that uses this node as its router to Services gets its answers by this node only if it is masqueraded.
		entry = append(entry, fmt.Sprintf("! -s %s -d %s -m addrtype ! --src-type LOCAL -j %s", cfg.ClusterCIDR, cfg.ServiceCIDR, chainMark))
	}
	slices.SortFunc(routes, func(a, b Route) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Chain, b.Chain))
	})
	for _, r := range routes {
		if !r.Addr.IsValid() {
			nat[chainNodePorts] = append(nat[chainNodePorts], fmt.Sprintf("-p %s -m %[1]s --dport %d -j %s", r.Protocol, r.Port, r.Chain))
			continue
		}
		bucket := netip.PrefixFrom(r.Addr, 24).Masked()
		b := bucket.Addr().As4()
		name := fmt.Sprintf("%s%d.%d.%d", chainVIPPrefix, b[0], b[1], b[2])
		if _, have := nat[name]; !have {
			entry = append(entry, fmt.Sprintf("-d %s -j %s", bucket, name))
		}
		nat[name] = append(nat[name], fmt.Sprintf("-d %s/32 -p %s -m %[2]s --dport %d -j %s", r.Addr, r.Protocol, r.Port, r.Chain))
	}
	// Node ports answer on every address but loopback: an answer from another node could not find its way back to it.
	nat[chainServices] = append(entry, "! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j "+chainNodePorts)
	return nat, filter
}
