package cni

import (
	"encoding/json"
	"fmt"
	"net"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/mote-edge/mote/cni/ipam"
)

// checkPrevResult compares the result that the runtime kept with the record.
func checkPrevResult(c *Config, rec ipam.Record) error {
	if len(c.PrevResult) == 0 {
		return types.NewError(types.ErrInvalidNetworkConfig, "CHECK without prevResult", "the runtime must pass the result of ADD")
	}
	var prev struct {
		IPs []current.IPConfig `json:"ips"`
	}
	if err := json.Unmarshal(c.PrevResult, &prev); err != nil {
		return types.NewError(types.ErrDecodingFailure, "prevResult: "+err.Error(), "")
	}
	for _, ip := range prev.IPs {
		if ip.Address.IP.Equal(rec.Address.AsSlice()) {
			return nil
		}
	}
	return types.NewError(errCheckFailed, fmt.Sprintf("prevResult does not have address %s of container %s", rec.Address, rec.ContainerID), "delete the pod")
}

// checkHost compares the node's end of the veth pair with what ADD made.
func checkHost(c *Config, rec ipam.Record) error {
	wrong := func(what string) error {
		return types.NewError(errCheckFailed, fmt.Sprintf("%s of %s: %s", rec.HostIf, rec.Address, what), "delete the pod: its network cannot be mended in place")
	}
	bridge, err := net.InterfaceByName(c.Bridge)
	if err != nil {
		return wrong(fmt.Sprintf("bridge %s: %v", c.Bridge, err))
	}
	link, err := netlink.LinkByName(rec.HostIf)
	switch {
	case err != nil:
		return wrong("link is missing on the node: " + err.Error())
	case link.Attrs().MasterIndex != bridge.Index:
		return wrong("link is not a port of " + c.Bridge)
	case link.Attrs().Flags&net.FlagUp == 0:
		return wrong("link is down")
	}
	return nil
}
