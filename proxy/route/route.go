// Package route keeps the node's routes to the pods of the other nodes, which share its network segment: each node's
// range by way of that node's address. It also keeps cluster IPs routable on a node that has no default route.
//
// Routes carry a protocol number of their own, so that nobody else's are touched and Cleanup finds all of them.
//
// Reads:  the node's routes.
// Writes: routes of protocol 0x6d in the main table and in table 109; the routing rule of priority 33000.
package route

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// protocol marks the routes of this package ("m"; see `ip route show proto 109`).
const protocol = 0x6d

// Route leads to the pods of another node.
type Route struct {
	Pods netip.Prefix
	Via  netip.Addr
}

// Sync makes want the only routes of this package. It does what it can and reports every route that it could not set.
func Sync(ctx context.Context, want []Route) error {
	have, err := list()
	if err != nil {
		return err
	}
	set, remove := plan(have, want)
	var errs []error
	for _, r := range remove {
		if err := netlink.RouteDel(toNetlink(r)); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove route to pods %s: %w", r.Pods, err))
		}
	}
	for _, r := range set {
		err := netlink.RouteReplace(toNetlink(r))
		switch {
		case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EINVAL):
			errs = append(errs, fmt.Errorf("route to pods %s by node %s: %w: the nodes must share a network segment, or a router must know the pod ranges", r.Pods, r.Via, err))
		case err != nil:
			errs = append(errs, fmt.Errorf("route to pods %s by node %s: %w", r.Pods, r.Via, err))
		default:
			slog.InfoContext(ctx, "route to another node's pods set", "pods", r.Pods, "via", r.Via)
		}
	}
	return errors.Join(errs...)
}

// Cleanup removes all routes and routing rules of this package.
func Cleanup(ctx context.Context) error { return errors.Join(Sync(ctx, nil), removeFallback()) }

// plan returns what to set and what to remove. A range whose node moved is set anew, which replaces it.
func plan(have, want []Route) (set, remove []Route) {
	ranges := map[netip.Prefix]bool{}
	for _, r := range want {
		ranges[r.Pods] = true
		if !slices.Contains(have, r) && !slices.Contains(set, r) {
			set = append(set, r)
		}
	}
	for _, r := range have {
		if !ranges[r.Pods] {
			remove = append(remove, r)
		}
	}
	slices.SortFunc(set, func(a, b Route) int {
		return cmp.Or(a.Pods.Addr().Compare(b.Pods.Addr()), a.Via.Compare(b.Via))
	})
	return set, remove
}

func list() ([]Route, error) {
	found, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: protocol, Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("list routes to other nodes' pods: %w", err)
	}
	var out []Route
	for _, r := range found {
		if r.Dst == nil {
			continue
		}
		ip, _ := netip.AddrFromSlice(r.Dst.IP.To4())
		ones, _ := r.Dst.Mask.Size()
		via, _ := netip.AddrFromSlice(r.Gw.To4())
		out = append(out, Route{Pods: netip.PrefixFrom(ip, ones), Via: via})
	}
	return out, nil
}

func toNetlink(r Route) *netlink.Route {
	return &netlink.Route{
		Dst: ipNet(r.Pods), Gw: r.Via.AsSlice(), Protocol: protocol, Table: unix.RT_TABLE_MAIN,
	}
}
