package cni

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/mote-edge/mote/cni/ipam"
)

// openNetns opens the pod's network namespace.
func openNetns(path string) (netns.NsHandle, error) {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return ns, types.NewError(types.ErrInvalidNetNS, fmt.Sprintf("network namespace %q: %v", path, err), "the container runtime must create and pin the namespace before ADD")
	}
	return ns, nil
}

// connectPod makes the veth pair with one end on the bridge and the other, addressed and routed, in the pod.
func connectPod(c *Config, rec ipam.Record, bridgeIndex int, ns netns.NsHandle) error {
	fail := func(what string, err error) error {
		return types.NewError(types.ErrInternal, fmt.Sprintf("%s for %s: %v", what, rec.Address, err), "")
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex, attrs.Flags = rec.HostIf, c.MTU, bridgeIndex, net.FlagUp
	veth := netlink.NewVeth(attrs)
	// Born in the pod's namespace: moving a link there costs the kernel a grace period.
	veth.PeerName, veth.PeerNamespace, veth.PeerHardwareAddr = rec.IfName, netlink.NsFd(ns), macOf(rec.Address)
	err := netlink.LinkAdd(veth)
	if errors.Is(err, os.ErrExist) {
		// What an interrupted or repeated ADD left. If it was not ours, the second try says so.
		if err := deleteLink(rec.HostIf); err != nil {
			return fail("replace veth pair", err)
		}
		err = netlink.LinkAdd(veth)
	}
	if errors.Is(err, os.ErrExist) {
		return types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("CNI_IFNAME: interface %s exists already in the pod's network namespace", rec.IfName), "the runtime must call DEL before it adds the container again")
	}
	if err != nil {
		return fail("create veth pair", err)
	}

	// Where net.bridge.bridge-nf-call-iptables is on, a translated frame is bridged instead of routed: a pod that
	// reaches itself by a Service then needs its frame sent back by the port it came from.
	if err := netlink.LinkSetHairpin(veth, true); err != nil {
		return fail("set hairpin mode", err)
	}

	pod, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fail("open the pod's network namespace", err)
	}
	defer pod.Close()
	lo, err := pod.LinkByName("lo")
	if err != nil {
		return fail("find loopback", err)
	}
	if err := pod.LinkSetUp(lo); err != nil {
		return fail("set loopback up", err)
	}
	eth, err := pod.LinkByName(rec.IfName)
	if err != nil {
		return fail("find "+rec.IfName, err)
	}
	host := &net.IPNet{IP: rec.Address.AsSlice(), Mask: net.CIDRMask(32, 32)}
	if err := pod.AddrAdd(eth, &netlink.Addr{IPNet: host}); err != nil {
		return fail("add address", err)
	}
	if err := pod.LinkSetUp(eth); err != nil {
		return fail("set "+rec.IfName+" up", err)
	}
	gateway := net.IP(c.gateway().AsSlice())
	for _, route := range []netlink.Route{
		{LinkIndex: eth.Attrs().Index, Dst: &net.IPNet{IP: gateway, Mask: net.CIDRMask(32, 32)}, Scope: netlink.SCOPE_LINK, Src: rec.Address.AsSlice()},
		{LinkIndex: eth.Attrs().Index, Dst: defaultNet(), Gw: gateway},
	} {
		if err := pod.RouteAdd(&route); err != nil {
			return fail("add route to "+route.Dst.String(), err)
		}
	}
	return nil
}

func defaultNet() *net.IPNet { return &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)} }

// deleteLink removes a link by name; one that is not there is not an error.
func deleteLink(name string) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkDel(link)
	}
	var notFound netlink.LinkNotFoundError
	if errors.As(err, &notFound) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// checkPod compares the pod's end with what ADD made.
func checkPod(c *Config, rec ipam.Record, ns netns.NsHandle) error {
	wrong := func(what string) error {
		return types.NewError(errCheckFailed, fmt.Sprintf("%s of %s: %s", rec.IfName, rec.Address, what), "delete the pod: its network cannot be mended in place")
	}
	pod, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return wrong("open the pod's network namespace: " + err.Error())
	}
	defer pod.Close()
	eth, err := pod.LinkByName(rec.IfName)
	if err != nil {
		return wrong("interface is missing in the pod: " + err.Error())
	}
	if eth.Attrs().Flags&net.FlagUp == 0 {
		return wrong("interface is down in the pod")
	}
	addrs, err := pod.AddrList(eth, netlink.FAMILY_V4)
	if err != nil {
		return wrong("list addresses: " + err.Error())
	}
	found := false
	for _, a := range addrs {
		if have, ok := netip.AddrFromSlice(a.IP.To4()); ok && have == rec.Address {
			found = true
		}
	}
	if !found {
		return wrong("address is missing in the pod")
	}
	routes, err := pod.RouteList(eth, netlink.FAMILY_V4)
	if err != nil {
		return wrong("list routes: " + err.Error())
	}
	for _, r := range routes {
		if r.Gw.Equal(c.gateway().AsSlice()) && (r.Dst == nil || r.Dst.String() == defaultNet().String()) {
			return nil
		}
	}
	return wrong(fmt.Sprintf("default route by %s is missing in the pod", c.gateway()))
}
