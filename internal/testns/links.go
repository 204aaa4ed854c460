package testns

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Uplink joins n and outside by a veth pair: link "uplink" with address in n, "eth0" with peer in outside.
func (n *NS) Uplink(outside *NS, address, peer netip.Prefix) {
	n.t.Helper()
	n.must("make uplink", func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "uplink"
		veth := netlink.NewVeth(attrs)
		veth.PeerName, veth.PeerNamespace = "eth0", netlink.NsFd(outside.Fd())
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		return addAddr("uplink", address)
	})
	outside.must("set up uplink", func() error { return addAddr("eth0", peer) })
}

// Bridge makes a bridge whose address is the first of subnet, and turns routing on.
func (n *NS) Bridge(name string, subnet netip.Prefix) {
	n.t.Helper()
	n.must("make bridge", func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return err
		}
		return addAddr(name, netip.PrefixFrom(subnet.Masked().Addr().Next(), subnet.Bits()))
	})
	n.Sysctl("net/ipv4/ip_forward", "1")
	n.Sysctl("net/ipv4/conf/all/send_redirects", "0")
	n.Sysctl("net/ipv4/conf/"+name+"/send_redirects", "0")
}

// Pod makes a network namespace with the address on the bridge, routed the way Mote's network plugin does it.
func (n *NS) Pod(bridge string, address, gateway netip.Addr) *NS {
	n.t.Helper()
	pod := New(n.t)
	n.must("make pod", func() error {
		br, err := netlink.LinkByName(bridge)
		if err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		b := address.As4()
		attrs.Name, attrs.MasterIndex, attrs.Flags = fmt.Sprintf("pod%d-%d", b[2], b[3]), br.Attrs().Index, net.FlagUp
		veth := netlink.NewVeth(attrs)
		veth.PeerName, veth.PeerNamespace = "eth0", netlink.NsFd(pod.Fd())
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		return netlink.LinkSetHairpin(veth, true)
	})
	pod.must("set up pod", func() error {
		if err := addAddr("eth0", netip.PrefixFrom(address, 32)); err != nil {
			return err
		}
		eth, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		gw := &net.IPNet{IP: gateway.AsSlice(), Mask: net.CIDRMask(32, 32)}
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Dst: gw, Scope: netlink.SCOPE_LINK}); err != nil {
			return err
		}
		return addRoute(eth, netip.PrefixFrom(netip.IPv4Unspecified(), 0), gateway)
	})
	return pod
}

// Route sends dst by way of gateway, over the named link.
func (n *NS) Route(link string, dst netip.Prefix, gateway netip.Addr) {
	n.t.Helper()
	n.must("add route", func() error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return err
		}
		return addRoute(l, dst, gateway)
	})
}

func addRoute(l netlink.Link, dst netip.Prefix, gateway netip.Addr) error {
	return netlink.RouteAdd(&netlink.Route{
		LinkIndex: l.Attrs().Index, Gw: gateway.AsSlice(),
		Dst: &net.IPNet{IP: dst.Addr().AsSlice(), Mask: net.CIDRMask(dst.Bits(), 32)},
	})
}

func addAddr(link string, p netip.Prefix) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}}
	if err := netlink.AddrAdd(l, addr); err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

func (n *NS) must(what string, f func() error) {
	n.t.Helper()
	var err error
	n.Do(func() { err = f() })
	if err != nil {
		n.t.Fatalf("%s: %v", what, err)
	}
}
