package cni

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	cniversion "github.com/containernetworking/cni/pkg/version"

	"github.com/mote-edge/mote/cni/ipam"
)

// Error codes of our own: the specification leaves 100 and above to plugins.
const (
	errCheckFailed uint = 100 // CHECK found a difference
	errNoAddress   uint = 101 // the node's range is used up
)

// Main runs the plugin as the CNI_* variables say, prints its result and exits.
func Main() {
	printed := func(args *skel.CmdArgs) error {
		result, err := add(context.Background(), args)
		if err != nil {
			return err
		}
		return result.Print()
	}
	skel.PluginMainFuncs(skel.CNIFuncs{Add: printed, Del: withContext(del), Check: withContext(check), GC: withContext(gc), Status: withContext(status)},
		versions(), "mote-cni: bridge network, addresses and host ports for Mote's pods; run by a container runtime (CNI)")
}

func versions() cniversion.PluginInfo { return cniversion.PluginSupports("0.4.0", "1.0.0", "1.1.0") }

func withContext(f func(context.Context, *skel.CmdArgs) error) func(*skel.CmdArgs) error {
	return func(args *skel.CmdArgs) error { return f(context.Background(), args) }
}

// add attaches a pod. The result is in the version of the configuration.
func add(ctx context.Context, args *skel.CmdArgs) (_ types.Result, err error) {
	c, err := parseConfig(args.StdinData)
	if err != nil {
		return nil, err
	}
	ns, err := openNetns(args.Netns)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	ports, err := c.ports()
	if err != nil {
		return nil, err
	}
	bridge, err := ensureNode(ctx, c, false)
	if err != nil {
		return nil, err
	}
	store, err := openStore(c)
	if err != nil {
		return nil, err
	}
	rec, err := allocate(ctx, store, ipam.Record{
		ContainerID: args.ContainerID, IfName: args.IfName, Netns: args.Netns,
		HostIf: hostIfName(args.ContainerID, args.IfName), Ports: ports,
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			if undo := detach(context.WithoutCancel(ctx), store, rec); undo != nil {
				err = types.NewError(codeOf(err), fmt.Sprintf("%v; undoing it failed too: %v", err, undo), "run DEL")
			}
		}
	}()
	if err := connectPod(c, rec, bridge, ns); err != nil {
		return nil, err
	}
	if len(ports) > 0 {
		if err := addHostPorts(ctx, c, rec); err != nil {
			return nil, err
		}
	}
	return result(c, rec).GetAsVersion(c.CNIVersion)
}

// codeOf keeps the code of a CNI error that others have been joined to.
func codeOf(err error) uint {
	var e *types.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return types.ErrInternal
}

func result(c *Config, rec ipam.Record) *current.Result {
	return &current.Result{
		CNIVersion: current.ImplementedSpecVersion,
		Interfaces: []*current.Interface{
			{Name: c.Bridge, Mac: macOf(c.gateway()).String()},
			{Name: rec.HostIf},
			{Name: rec.IfName, Mac: macOf(rec.Address).String(), Mtu: c.MTU, Sandbox: rec.Netns},
		},
		IPs: []*current.IPConfig{{
			Interface: current.Int(2),
			Address:   net.IPNet{IP: rec.Address.AsSlice(), Mask: net.CIDRMask(32, 32)},
			Gateway:   c.gateway().AsSlice(),
		}},
		Routes: []*types.Route{{Dst: *defaultNet(), GW: c.gateway().AsSlice()}},
	}
}

func openStore(c *Config) (*ipam.Store, error) {
	store, err := ipam.Open(c.storeDir(), c.Subnet)
	if err != nil {
		return nil, types.NewError(types.ErrIOFailure, err.Error(), "make dataDir writable")
	}
	return store, nil
}

// allocate takes an address. When the range is used up it first detaches what has lost its network namespace: pods
// that died without a DEL.
func allocate(ctx context.Context, store *ipam.Store, rec ipam.Record) (ipam.Record, error) {
	got, err := store.Allocate(rec)
	if errors.Is(err, ipam.ErrExhausted) {
		if err := detachAll(ctx, store, func(r ipam.Record) bool {
			_, err := os.Stat(r.Netns)
			return r.Netns != "" && errors.Is(err, os.ErrNotExist)
		}); err != nil {
			return rec, err
		}
		got, err = store.Allocate(rec)
	}
	switch {
	case errors.Is(err, ipam.ErrExhausted):
		return rec, types.NewError(errNoAddress, err.Error(), "")
	case err != nil:
		return rec, types.NewError(types.ErrIOFailure, err.Error(), "check dataDir")
	}
	return got, nil
}

func del(ctx context.Context, args *skel.CmdArgs) error {
	c, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	store, err := openStore(c)
	if err != nil {
		return err
	}
	rec, _, err := store.Get(args.ContainerID, args.IfName)
	if err != nil || rec.ContainerID == "" {
		// Unknown or unreadable: names derive from the call itself, and the runtime repeats the ports.
		rec = ipam.Record{ContainerID: args.ContainerID, IfName: args.IfName, HostIf: hostIfName(args.ContainerID, args.IfName)}
		rec.Ports, _ = c.ports() // what ADD refused to map needs no removal
	}
	return detach(ctx, store, rec)
}

// detach takes one attachment away: host ports, links, address, in this order, so that the address is free only when
// nothing refers to it any more. What is gone already is no error.
func detach(ctx context.Context, store *ipam.Store, rec ipam.Record) error {
	if len(rec.Ports) > 0 {
		if err := removeAllHostPorts(ctx, []ipam.Record{rec}); err != nil {
			return err
		}
	}
	if err := deleteLink(hostIfName(rec.ContainerID, rec.IfName)); err != nil {
		return types.NewError(types.ErrInternal, fmt.Sprintf("remove veth pair of %s: %v", rec.ContainerID, err), "")
	}
	if err := store.Release(rec.ContainerID, rec.IfName); err != nil {
		return types.NewError(types.ErrIOFailure, err.Error(), "check dataDir")
	}
	return nil
}

// detachAll detaches every attachment that gone accepts, and reports what failed after trying all.
func detachAll(ctx context.Context, store *ipam.Store, gone func(ipam.Record) bool) error {
	records, err := store.List()
	if err != nil {
		return types.NewError(types.ErrIOFailure, err.Error(), "check dataDir")
	}
	var errs []error
	for _, rec := range records {
		if gone(rec) {
			errs = append(errs, detach(ctx, store, rec))
		}
	}
	return errors.Join(errs...)
}

func check(ctx context.Context, args *skel.CmdArgs) error {
	c, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	store, err := openStore(c)
	if err != nil {
		return err
	}
	rec, ok, err := store.Get(args.ContainerID, args.IfName)
	if err != nil {
		return types.NewError(types.ErrIOFailure, err.Error(), "")
	}
	if !ok {
		return types.NewError(types.ErrUnknownContainer, fmt.Sprintf("container %s has no address here", args.ContainerID), "delete the pod: its network state is gone")
	}
	if err := checkPrevResult(c, rec); err != nil {
		return err
	}
	if err := checkHost(c, rec); err != nil {
		return err
	}
	ns, err := openNetns(args.Netns)
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := checkPod(c, rec, ns); err != nil {
		return err
	}
	if len(rec.Ports) > 0 {
		return checkHostPorts(ctx, rec)
	}
	return nil
}

func gc(ctx context.Context, args *skel.CmdArgs) error {
	c, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	store, err := openStore(c)
	if err != nil {
		return err
	}
	err = detachAll(ctx, store, func(r ipam.Record) bool {
		return !slices.Contains(c.ValidAttachments, types.GCAttachment{ContainerID: r.ContainerID, IfName: r.IfName})
	})
	if tidied := store.Tidy(); tidied != nil {
		err = errors.Join(err, types.NewError(types.ErrIOFailure, tidied.Error(), "check dataDir"))
	}
	return err
}

// statusInterval bounds how often STATUS looks at the rules: some runtimes call it every few seconds.
const statusInterval = time.Minute

// status also mends: bridge, sysctls and rules are set up again if somebody took them away.
func status(ctx context.Context, args *skel.CmdArgs) error {
	c, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	if info, err := os.Stat(markerPath(c)); err == nil && time.Since(info.ModTime()) < statusInterval {
		if _, ok := nodeReady(c); ok {
			return nil
		}
	}
	if err := repair(ctx, c); err != nil {
		return types.NewError(types.ErrPluginNotAvailable, err.Error(), "")
	}
	return nil
}
