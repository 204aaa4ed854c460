package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/mote-edge/mote/proxy/dns"
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

// runDNS serves cluster DNS until ctx ends. What fails is tried again: an address or a port may become free.
func (p *Proxy) runDNS(ctx context.Context) {
	server, err := dns.New(dns.Config{
		Address: p.cfg.DNSAddress, Domain: p.cfg.ClusterDomain, Source: p.store, Ready: p.store.Ready(),
		ResolvConf: p.cfg.ResolvConf, Ranges: []netip.Prefix{p.cfg.ClusterCIDR, p.cfg.ServiceCIDR},
	})
	for retry := retryFirst; err == nil; retry = min(2*retry, retryMost) {
		runErr := holdDNSAddress(p.cfg.DNSAddress)
		if runErr == nil {
			runErr = server.Run(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		slog.ErrorContext(ctx, "cluster DNS is not served on this node", "error", runErr, "retryIn", retry)
		if !sleep(ctx, retry) {
			return
		}
	}
	slog.ErrorContext(ctx, "cluster DNS is not served on this node", "error", err)
}
