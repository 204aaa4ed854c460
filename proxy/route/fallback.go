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

// A process of the node connects to a cluster IP by way of a route, before rules translate it. Without a default route,
// as on a device that is offline, there is none, and connect fails with "network is unreachable". So a rule that is
// asked after all others leads to a table with one route. Where there is a default route, nothing changes.
const (
	fallbackTable    = 109
	fallbackPriority = 33000 // after "default", the kernel's last rule at 32767
)

// EnsureFallback makes services reachable from a node without a default route.
func EnsureFallback(services netip.Prefix) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("route to cluster IPs: %w", err)
	}
	// Any link will do: the translated packet is routed anew.
	err = netlink.RouteReplace(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: ipNet(services), Scope: netlink.SCOPE_LINK, Protocol: protocol, Table: fallbackTable})
	if err != nil {
		return fmt.Errorf("route to cluster IPs: %w", err)
	}
	if err := netlink.RuleAdd(fallbackRule(services)); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("routing rule for cluster IPs: %w", err)
	}
	return nil
}

func fallbackRule(services netip.Prefix) *netlink.Rule {
	r := netlink.NewRule()
	r.Family, r.Priority, r.Table, r.Dst = netlink.FAMILY_V4, fallbackPriority, fallbackTable, ipNet(services)
	return r
}

// removeFallback takes every rule to the table away, and the table's routes.
func removeFallback() error {
	rules, err := netlink.RuleListFiltered(netlink.FAMILY_V4, &netlink.Rule{Table: fallbackTable, Priority: fallbackPriority}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PRIORITY)
	if err != nil {
		return fmt.Errorf("list routing rules: %w", err)
	}
	var errs []error
	for _, r := range rules {
		if err := netlink.RuleDel(&r); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove routing rule for cluster IPs: %w", err))
		}
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: fallbackTable, Protocol: protocol}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
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
