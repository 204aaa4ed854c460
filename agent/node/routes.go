package node

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// RouteProtocol marks the routes that are ours (see /etc/iproute2/rt_protos; numbers below 128 are for programs).
const RouteProtocol = 109

// defaultAddress is the address that the machine uses towards its default route, else the first global one it has.
func defaultAddress() (netip.Addr, error) {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("find the node's address: %w", err)
	}
	best, metric := -1, 0
	for _, r := range routes {
		if (r.Dst == nil || isDefault(r.Dst)) && (best < 0 || r.Priority < metric) {
			best, metric = r.LinkIndex, r.Priority
			if src, ok := netip.AddrFromSlice(r.Src.To4()); ok {
				return src, nil
			}
		}
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("find the node's address: %w", err)
	}
	var first netip.Addr
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP.To4())
		if !ok || !ip.IsGlobalUnicast() || a.Scope == unix.RT_SCOPE_HOST { // the cluster DNS address is of scope host
			continue
		}
		if a.LinkIndex == best {
			return ip, nil
		}
		if !first.IsValid() {
			first = ip
		}
	}
	if !first.IsValid() {
		return first, errors.New("this machine has no IPv4 address besides loopback: configure one, or name it with --node-ip")
	}
	return first, nil
}

func isDefault(n *net.IPNet) bool {
	ones, _ := n.Mask.Size()
	return ones == 0
}

// linkMTU is the MTU of the link that has the node's address.
func (n *Node) linkMTU() int {
	const usual = 1500
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return usual
	}
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && ip.Unmap() == n.cfg.Addresses[0] {
			if link, err := netlink.LinkByIndex(a.LinkIndex); err == nil && link.Attrs().Flags&net.FlagLoopback == 0 {
				return link.Attrs().MTU
			}
		}
	}
	return usual
}

// syncRoutes makes the kernel's routes to the other nodes' ranges those of the nodes that are.
func (n *Node) syncRoutes() {
	if !n.cfg.Routes {
		return
	}
	n.mu.Lock()
	want := map[netip.Prefix]netip.Addr{}
	for _, p := range n.peers {
		if p.podCIDR.IsValid() && p.address.IsValid() && p.podCIDR.Addr().Is4() == p.address.Is4() {
			want[p.podCIDR.Masked()] = p.address
		}
	}
	n.mu.Unlock()
	if err := setRoutes(want); err != nil {
		n.cfg.Log.Error("pods of other nodes may be out of reach", "error", err)
	}
}

func setRoutes(want map[netip.Prefix]netip.Addr) error {
	have, err := ourRoutes()
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range have {
		dst, gw := prefixOf(r.Dst), addrOf(r.Gw)
		if want[dst] == gw && gw.IsValid() {
			delete(want, dst)
			continue
		}
		if _, replaced := want[dst]; !replaced {
			errs = append(errs, deleteRoute(r))
		}
	}
	for dst, gw := range want {
		errs = append(errs, addRoute(dst, gw))
	}
	return errors.Join(errs...)
}

// addRoute adds a route through a node on the same segment. A node behind a router is left to that router.
func addRoute(dst netip.Prefix, gw netip.Addr) error {
	via, err := netlink.RouteGet(gw.AsSlice())
	if err != nil {
		return fmt.Errorf("route to %s via %s: %w", dst, gw, err)
	}
	if len(via) == 0 || len(via[0].Gw) > 0 {
		return fmt.Errorf("route to %s via %s: the node is not on a directly connected network; route %s there by other means", dst, gw, dst)
	}
	route := &netlink.Route{
		LinkIndex: via[0].LinkIndex, Dst: &net.IPNet{IP: dst.Addr().AsSlice(), Mask: net.CIDRMask(dst.Bits(), dst.Addr().BitLen())},
		Gw: gw.AsSlice(), Protocol: RouteProtocol,
	}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("route to %s via %s: %w", dst, gw, err)
	}
	return nil
}

func deleteRoute(r netlink.Route) error {
	if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("remove route to %s: %w", r.Dst, err)
	}
	return nil
}

func ourRoutes() ([]netlink.Route, error) {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: RouteProtocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	return routes, nil
}

// CleanupRoutes removes every route of ours.
func CleanupRoutes() error {
	routes, err := ourRoutes()
	errs := []error{err}
	for _, r := range routes {
		errs = append(errs, deleteRoute(r))
	}
	return errors.Join(errs...)
}

func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addrOf(n.IP), ones)
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}
