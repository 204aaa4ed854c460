package cni

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/mote-edge/mote/cni/ipam"
)

// Config is the plugin's network configuration.
type Config struct {
	CNIVersion string `json:"cniVersion"`
	Name       string `json:"name"`
	Type       string `json:"type"`
	// Bridge is the bridge's link name; "mote0" if empty.
	Bridge string `json:"bridge"`
	// Subnet is the node's pod range. Its first address is the bridge's.
	Subnet netip.Prefix `json:"subnet"`
	// ClusterCIDR is the range of all nodes' pods: traffic to it keeps its source address. Subnet if empty.
	ClusterCIDR netip.Prefix `json:"clusterCIDR"`
	// MTU of the pods' links; 1500 if 0.
	MTU int `json:"mtu"`
	// DataDir keeps allocations; "/run/mote/cni" if empty. It must not survive a reboot.
	DataDir string `json:"dataDir"`

	RuntimeConfig struct {
		PortMappings []portMapping `json:"portMappings"`
	} `json:"runtimeConfig"`
	PrevResult       json.RawMessage      `json:"prevResult"`
	ValidAttachments []types.GCAttachment `json:"cni.dev/valid-attachments"`
}

// portMapping is one entry of the portMappings capability, in the convention's words.
type portMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP"`
}

func parseConfig(stdin []byte) (*Config, error) {
	c := &Config{}
	if err := json.Unmarshal(stdin, c); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "network configuration is not valid JSON of the expected shape: "+err.Error(),
			"mend the mote-cni entry in the CNI configuration file (the node agent writes 10-mote.conflist), or delete the file and restart the agent")
	}
	if c.Bridge == "" {
		c.Bridge = "mote0"
	}
	if c.MTU == 0 {
		c.MTU = 1500
	}
	if c.DataDir == "" {
		c.DataDir = "/run/mote/cni"
	}
	if !c.ClusterCIDR.IsValid() {
		c.ClusterCIDR = c.Subnet
	}
	return c, c.Validate()
}

// Validate reports the first field that cannot be used, as a CNI error that says how to mend it.
func (c *Config) Validate() error {
	invalid := func(field, what, remedy string) error {
		return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("network %q: %s: %s", c.Name, field, what), remedy)
	}
	switch {
	case !c.Subnet.IsValid():
		return invalid("subnet", "missing", `set it to the node's pod range, as in "10.42.0.0/24"`)
	case !c.Subnet.Addr().Is4() || c.Subnet.Bits() > 30:
		return invalid("subnet", fmt.Sprintf("%s is not an IPv4 range of /30 or larger", c.Subnet), `set it to the node's pod range, as in "10.42.0.0/24"`)
	case !c.ClusterCIDR.Addr().Is4():
		return invalid("clusterCIDR", fmt.Sprintf("%s is not an IPv4 range", c.ClusterCIDR), `set it to the cluster's pod range, as in "10.42.0.0/16"`)
	case c.MTU < 576 || c.MTU > 65535:
		return invalid("mtu", fmt.Sprintf("%d is outside 576-65535", c.MTU), "leave it out for 1500")
	case len(c.Bridge) > 15 || strings.ContainsAny(c.Bridge, "/ :") || c.Bridge == "." || c.Bridge == "..":
		return invalid("bridge", fmt.Sprintf("%q is not a link name", c.Bridge), "use at most 15 letters, digits or dashes")
	case !filepath.IsAbs(c.DataDir):
		return invalid("dataDir", fmt.Sprintf("%q is not an absolute path", c.DataDir), "begin it with /")
	}
	return nil
}

// ports checks the port mappings and brings them into the allocator's form. A mapping without a host port is skipped,
// as the convention has it.
func (c *Config) ports() ([]ipam.Port, error) {
	var ports []ipam.Port
	for i, m := range c.RuntimeConfig.PortMappings {
		if m.HostPort == 0 {
			continue
		}
		invalid := func(what string) error {
			return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("portMappings[%d]: %s", i, what), "mend the container's ports in the pod")
		}
		p := ipam.Port{HostPort: m.HostPort, ContainerPort: m.ContainerPort, Protocol: strings.ToLower(m.Protocol)}
		switch {
		case p.HostPort < 0 || p.HostPort > 65535:
			return nil, invalid(fmt.Sprintf("hostPort %d is outside 1-65535", p.HostPort))
		case p.ContainerPort < 1 || p.ContainerPort > 65535:
			return nil, invalid(fmt.Sprintf("containerPort %d is outside 1-65535", p.ContainerPort))
		}
		switch p.Protocol {
		case "":
			p.Protocol = "tcp"
		case "tcp", "udp", "sctp":
		default:
			return nil, invalid(fmt.Sprintf("protocol %q is not tcp, udp or sctp", m.Protocol))
		}
		if m.HostIP != "" {
			addr, err := netip.ParseAddr(m.HostIP)
			if err != nil {
				return nil, invalid(fmt.Sprintf("hostIP %q is not an IP address", m.HostIP))
			}
			if addr = addr.Unmap(); !addr.IsUnspecified() {
				if !addr.Is4() {
					return nil, invalid(fmt.Sprintf("hostIP %s is IPv6, but this network is IPv4", addr))
				}
				p.HostIP = addr.String()
			}
		}
		ports = append(ports, p)
	}
	return ports, nil
}

// storeDir keeps each network's allocations apart.
func (c *Config) storeDir() string { return filepath.Join(c.DataDir, c.Name) }

// gateway is the bridge's address.
func (c *Config) gateway() netip.Addr { return ipam.Gateway(c.Subnet) }
