package proxy

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/mote-edge/mote/proxy/rules"
)

// flowKey is the destination that a client of a connectionless Service uses.
type flowKey struct {
	addr     netip.Addr // invalid for a node port
	protocol uint8
	port     uint16
}

// staleFlows matches conntrack entries that lead to a destination's former endpoints, or nowhere: a client that keeps
// sending keeps them alive, and the rules are asked only for new flows.
type staleFlows struct {
	targets map[flowKey][]netip.AddrPort
	local   map[netip.Addr]struct{}
}

var _ netlink.CustomConntrackFilter = (*staleFlows)(nil)

// compare adds the destinations of one Service that lost or gained endpoints.
func (s *staleFlows) compare(before, after []rules.Flow) {
	old := map[flowKey][]netip.AddrPort{}
	for _, f := range before {
		k := keyOf(f)
		old[k] = f.Targets
		s.targets[k] = nil // gone, unless it comes again below
	}
	for _, f := range after {
		k := keyOf(f)
		if was, ok := old[k]; ok && slices.Equal(was, f.Targets) {
			delete(s.targets, k)
			continue
		}
		s.targets[k] = f.Targets
	}
}

func keyOf(f rules.Flow) flowKey {
	proto := uint8(unix.IPPROTO_UDP)
	if f.Protocol == "sctp" {
		proto = unix.IPPROTO_SCTP
	}
	return flowKey{addr: f.Addr, protocol: proto, port: f.Port}
}

// MatchConntrackFlow says whether the entry has to go.
func (s *staleFlows) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	dst, ok := netip.AddrFromSlice(f.Forward.DstIP)
	if !ok {
		return false
	}
	dst = dst.Unmap()
	targets, ok := s.targets[flowKey{dst, f.Forward.Protocol, f.Forward.DstPort}]
	if !ok {
		if _, mine := s.local[dst]; mine {
			targets, ok = s.targets[flowKey{netip.Addr{}, f.Forward.Protocol, f.Forward.DstPort}]
		}
	}
	if !ok {
		return false
	}
	answers, _ := netip.AddrFromSlice(f.Reverse.SrcIP)
	return !slices.Contains(targets, netip.AddrPortFrom(answers.Unmap(), f.Reverse.SrcPort))
}

// forget removes the stale entries from the kernel.
func (s *staleFlows) forget() error {
	s.local = map[netip.Addr]struct{}{}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list the node's addresses: %w", err)
	}
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			s.local[ip.Unmap()] = struct{}{}
		}
	}
	if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, s); err != nil {
		return fmt.Errorf("forget stale UDP flows: %w (the kernel needs CONFIG_NF_CT_NETLINK)", err)
	}
	return nil
}
