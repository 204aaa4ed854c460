package cni

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"

	"github.com/mote-edge/mote/cni/ipam"
	"github.com/mote-edge/mote/internal/iptables"
)

// ensureNode makes the bridge, its address, the sysctls and the standing rules, and returns the bridge's index. A marker
// file in dataDir records that this was done for this very link and configuration, so that all pods but the first pay
// for one netlink request and one small read. force does it again regardless.
func ensureNode(ctx context.Context, c *Config, force bool) (int, error) {
	if !force {
		if index, ok := nodeReady(c); ok {
			return index, nil
		}
	}
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return 0, types.NewError(types.ErrIOFailure, "address store: "+err.Error(), "make dataDir writable")
	}
	unlock, err := ipam.Lock(filepath.Join(c.DataDir, "lock"))
	if err != nil {
		return 0, types.NewError(types.ErrIOFailure, "lock the node's network set-up: "+err.Error(), "make dataDir writable")
	}
	defer unlock()
	if !force {
		if index, ok := nodeReady(c); ok { // another ADD was first
			return index, nil
		}
	}
	index, err := ensureBridge(c)
	if err != nil {
		return 0, err
	}
	if err := setSysctls(c.Bridge); err != nil {
		return 0, err
	}
	if err := ensureNodeRules(ctx, c); err != nil {
		return 0, err
	}
	if err := os.WriteFile(markerPath(c), []byte(marker(c, index)), 0o600); err != nil {
		return 0, types.NewError(types.ErrIOFailure, "mark the node as set up: "+err.Error(), "make dataDir writable")
	}
	return index, nil
}

func markerPath(c *Config) string { return filepath.Join(c.DataDir, "ready-"+c.Bridge) }

func marker(c *Config, index int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "1 %s %d %s %s %d", c.Bridge, index, c.Subnet, c.ClusterCIDR, c.MTU))
	return fmt.Sprintf("%x", sum)
}

func nodeReady(c *Config) (int, bool) {
	have, err := os.ReadFile(markerPath(c))
	if err != nil {
		return 0, false
	}
	link, err := netlink.LinkByName(c.Bridge) // not net.InterfaceByName: that has the kernel list every link, one a pod
	if err != nil {
		return 0, false
	}
	a := link.Attrs()
	return a.Index, a.Flags&net.FlagUp != 0 && string(have) == marker(c, a.Index)
}

func ensureBridge(c *Config) (int, error) {
	fail := func(what string, err error) error {
		return types.NewError(types.ErrInternal, fmt.Sprintf("bridge %s: %s: %v", c.Bridge, what, err), "the plugin needs root (CAP_NET_ADMIN) and a kernel with CONFIG_BRIDGE")
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = c.Bridge, c.MTU
	// A fixed address: otherwise the bridge takes that of its lowest port, and every pod's neighbour entry goes stale.
	attrs.HardwareAddr = macOf(c.gateway())
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil && !errors.Is(err, os.ErrExist) {
		return 0, fail("create", err)
	}
	link, err := netlink.LinkByName(c.Bridge)
	if err != nil {
		return 0, fail("look up", err)
	}
	if link.Type() != "bridge" {
		return 0, types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("link %s exists but is a %s, not a bridge", c.Bridge, link.Type()),
			"remove the link, or choose another name with \"bridge\" in the network configuration")
	}
	if link.Attrs().HardwareAddr.String() != attrs.HardwareAddr.String() {
		if err := netlink.LinkSetHardwareAddr(link, attrs.HardwareAddr); err != nil {
			return 0, fail("set MAC address", err)
		}
	}
	if link.Attrs().MTU != c.MTU {
		if err := netlink.LinkSetMTU(link, c.MTU); err != nil {
			return 0, fail("set MTU", err)
		}
	}
	if err := setBridgeAddress(c, link); err != nil {
		return 0, err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return 0, fail("set up", err)
	}
	return link.Attrs().Index, nil
}

// setBridgeAddress leaves the gateway as the bridge's only pod-range address: an old range's would keep its route.
func setBridgeAddress(c *Config, bridge netlink.Link) error {
	fail := func(what string, err error) error {
		return types.NewError(types.ErrInternal, fmt.Sprintf("bridge %s: %s: %v", c.Bridge, what, err), "")
	}
	want := netip.PrefixFrom(c.gateway(), c.Subnet.Bits()).String()
	have, err := netlink.AddrList(bridge, netlink.FAMILY_V4)
	if err != nil {
		return fail("list addresses", err)
	}
	found := false
	for _, a := range have {
		if a.IPNet.String() == want {
			found = true
			continue
		}
		// Others (a /32 for the cluster DNS address) may be somebody else's: only a former range of this plugin goes.
		if ones, _ := a.Mask.Size(); ones < 32 {
			if err := netlink.AddrDel(bridge, &a); err != nil {
				return fail("remove address "+a.IPNet.String(), err)
			}
		}
	}
	if found {
		return nil
	}
	addr, err := netlink.ParseAddr(want)
	if err != nil {
		return fail("parse address", err)
	}
	if err := netlink.AddrAdd(bridge, addr); err != nil && !errors.Is(err, os.ErrExist) {
		return fail("add address "+want, err)
	}
	return nil
}

// setSysctls turns on what routing through the bridge needs.
func setSysctls(bridge string) error {
	for _, s := range []struct{ path, value string }{
		{"ipv4/ip_forward", "1"},
		// Traffic between two pods comes in and goes out by the bridge; an ICMP redirect would make the pods talk past
		// the node's rules. The kernel ORs "all" with the link's own value, so other links keep theirs.
		{"ipv4/conf/all/send_redirects", "0"},
		{"ipv4/conf/" + bridge + "/send_redirects", "0"},
		// Host ports on 127.0.0.1 reach the pod by the bridge. MOTE-CNI-INPUT keeps pods from the node's loopback.
		{"ipv4/conf/" + bridge + "/route_localnet", "1"},
	} {
		path := filepath.Join("/proc/sys/net", s.path)
		if have, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(have)) == s.value {
			continue
		}
		if err := os.WriteFile(path, []byte(s.value), 0); err != nil {
			return types.NewError(types.ErrInternal, "set sysctl: "+err.Error(), fmt.Sprintf("run `sysctl -w net.%s=%s`, or make /proc/sys writable", strings.ReplaceAll(s.path, "/", "."), s.value))
		}
	}
	return nil
}

func ensureNodeRules(ctx context.Context, c *Config) error {
	err := func() error {
		run, err := iptables.Find()
		if err != nil {
			return err
		}
		nat, err := run.Save(ctx, "nat")
		if err != nil {
			return err
		}
		filter, err := run.Save(ctx, "filter")
		if err != nil {
			return err
		}
		return run.Restore(ctx, []byte(nodeRules(c, nat, filter)))
	}()
	if err != nil {
		return types.NewError(types.ErrInternal, "set the node's network rules: "+err.Error(), "install iptables; the kernel needs the nat table, and the addrtype, conntrack and mark matches")
	}
	return nil
}
