package cni

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/mote-edge/mote/cni/ipam"
	"github.com/mote-edge/mote/internal/iptables"
)

// addHostPorts maps the attachment's host ports.
func addHostPorts(ctx context.Context, c *Config, rec ipam.Record) error {
	run, nat, err := natTable(ctx)
	if err != nil {
		return err
	}
	if !nat.Has(chainHostPort) { // somebody flushed the node's rules since it was set up
		if _, err := ensureNode(ctx, c, true); err != nil {
			return err
		}
	}
	unlock, err := ipam.Lock(filepath.Join(c.DataDir, "lock"))
	if err != nil {
		return types.NewError(types.ErrIOFailure, err.Error(), "make dataDir writable")
	}
	defer unlock()
	if err := run.Restore(ctx, []byte(hostPortRules(rec, nat))); err != nil {
		return types.NewError(types.ErrInternal, "host ports: "+err.Error(), "")
	}
	return forgetUDP(rec.Ports)
}

func natTable(ctx context.Context) (*iptables.Runner, iptables.Table, error) {
	run, err := iptables.Find()
	if err != nil {
		return nil, nil, types.NewError(types.ErrInternal, "host ports: "+err.Error(), "")
	}
	nat, err := run.Save(ctx, "nat")
	if err != nil {
		return nil, nil, types.NewError(types.ErrInternal, "host ports: "+err.Error(), "")
	}
	return run, nat, nil
}

// removeAllHostPorts takes the host ports of records away, present or not.
func removeAllHostPorts(ctx context.Context, records []ipam.Record) error {
	run, nat, err := natTable(ctx)
	if err != nil {
		return err
	}
	var chains []string
	var ports []ipam.Port
	for _, rec := range records {
		chains = append(chains, hostPortChain(rec.ContainerID, rec.IfName))
		ports = append(ports, rec.Ports...)
	}
	if text := removeHostPorts(nat, chains); text != "" {
		if err := run.Restore(ctx, []byte(text)); err != nil {
			return types.NewError(types.ErrInternal, "remove host ports: "+err.Error(), "")
		}
	}
	return forgetUDP(ports)
}

// checkHostPorts reports a missing chain or jump.
func checkHostPorts(ctx context.Context, rec ipam.Record) error {
	_, nat, err := natTable(ctx)
	if err != nil {
		return err
	}
	chain := hostPortChain(rec.ContainerID, rec.IfName)
	if want := fmt.Sprintf("-A %s -j %s", chainHostPort, chain); !nat.HasRule(want) || len(nat[chain]) != 3*len(rec.Ports) {
		return types.NewError(errCheckFailed, fmt.Sprintf("host ports of %s: rules are missing in chain %s", rec.Address, chain), "delete the pod, or restart the runtime to have rules made again")
	}
	return nil
}

// forgetUDP removes the kernel's memory of UDP flows to ports. A flow that is known keeps its translation for as long
// as packets come, so a client that never pauses would not notice new rules.
func forgetUDP(ports []ipam.Port) error {
	var filters []netlink.CustomConntrackFilter
	for _, p := range ports {
		if p.Protocol != "udp" {
			continue
		}
		f := &netlink.ConntrackFilter{}
		if err := f.AddProtocol(unix.IPPROTO_UDP); err != nil {
			return err
		}
		if err := f.AddPort(netlink.ConntrackOrigDstPort, uint16(p.HostPort)); err != nil {
			return err
		}
		filters = append(filters, f)
	}
	if len(filters) == 0 {
		return nil
	}
	if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, filters...); err != nil {
		return types.NewError(types.ErrInternal, "forget UDP flows to host ports: "+err.Error(), "the kernel needs CONFIG_NF_CT_NETLINK")
	}
	return nil
}
