package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The cluster DNS address lives on the loopback link: there pods reach it by their gateway and host processes directly,
// whether the bridge or an uplink exists or not. Scope host keeps it from being chosen as a source address.

func dnsAddr(a netip.Addr) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(32, 32)}, Scope: unix.RT_SCOPE_HOST}
}

func holdDNSAddress(a netip.Addr) error {
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.AddrReplace(lo, dnsAddr(a))
	}
	if err != nil {
		return fmt.Errorf("put cluster DNS address %s on the loopback link: %w", a, err)
	}
	return nil
}

// releaseDNSAddress takes the address away; one that is not there is not an error.
func releaseDNSAddress(a netip.Addr) error {
	if !a.IsValid() {
		return nil
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.AddrDel(lo, dnsAddr(a))
	}
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove cluster DNS address %s: %w", a, err)
	}
	return nil
}

func (p *Proxy) runDNS(ctx context.Context) { <-ctx.Done() }
