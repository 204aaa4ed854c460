// Package route keeps cluster IPs routable on a node that has no default route.
//
// A process of the node connects to a cluster IP by way of a route, before rules translate it. Without a default route,
// as on a device that is offline, there is none, and connect fails with "network is unreachable". So a routing rule that
// is asked after all others leads to a table with one route. Where there is a default route, nothing changes.
//
// Reads:  nothing.
// Writes: routing table 109; the routing rule of priority 33000.
package route

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	table    = 109
	protocol = 0x6d  // marks the routes (see `ip route show table 109`)
	priority = 33000 // after "default", the kernel's last rule at 32767
)

// Ensure makes the range of cluster IPs reachable from a node without a default route.
func Ensure(services netip.Prefix) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("route to cluster IPs: %w", err)
	}
	// Any link will do: the translated packet is routed anew.
	err = netlink.RouteReplace(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: ipNet(services), Scope: netlink.SCOPE_LINK, Protocol: protocol, Table: table})
	if err != nil {
		return fmt.Errorf("route to cluster IPs: %w", err)
	}
	if err := netlink.RuleAdd(rule(services)); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("routing rule for cluster IPs: %w", err)
	}
	return nil
}

func rule(services netip.Prefix) *netlink.Rule {
	r := netlink.NewRule()
	r.Family, r.Priority, r.Table, r.Dst = netlink.FAMILY_V4, priority, table, ipNet(services)
	return r
}

// Cleanup takes every rule to the table away, and the table's routes. What is not there is not an error.
func Cleanup() error {
	rules, err := netlink.RuleListFiltered(netlink.FAMILY_V4, &netlink.Rule{Table: table, Priority: priority}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PRIORITY)
	if err != nil {
		return fmt.Errorf("list routing rules: %w", err)
	}
	var errs []error
	for _, r := range rules {
		if err := netlink.RuleDel(&r); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove routing rule for cluster IPs: %w", err))
		}
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: table, Protocol: protocol}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return errors.Join(append(errs, fmt.Errorf("list routes to cluster IPs: %w", err))...)
	}
	for _, r := range routes {
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove route to cluster IPs: %w", err))
		}
	}
	return errors.Join(errs...)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Masked().Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}
