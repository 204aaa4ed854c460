package cni

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"

	"github.com/mote-edge/mote/internal/iptables"
)

// CleanupConfig names what Cleanup takes away.
type CleanupConfig struct {
	Bridge  string // "mote0" if empty
	DataDir string // left alone if empty
}

// Cleanup removes everything that the plugin made on this node: the bridge with the pods' links on it, all of its
// chains, its state. What is not there is not an error. The sysctls stay: others may count on them by now.
func Cleanup(ctx context.Context, cfg CleanupConfig) error {
	if cfg.Bridge == "" {
		cfg.Bridge = "mote0"
	}
	return errors.Join(removeLinks(cfg.Bridge), iptables.RemoveChains(ctx, ownChain), removeState(cfg.DataDir))
}

func removeLinks(bridge string) error {
	link, err := netlink.LinkByName(bridge)
	var notFound netlink.LinkNotFoundError
	if errors.As(err, &notFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("bridge %s: %w", bridge, err)
	}
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("ports of bridge %s: %w", bridge, err)
	}
	var errs []error
	for _, l := range links {
		if a := l.Attrs(); a.MasterIndex == link.Attrs().Index && l.Type() == "veth" {
			errs = append(errs, deleteLink(a.Name))
		}
	}
	return errors.Join(append(errs, deleteLink(bridge))...)
}

func removeState(dir string) error {
	if dir == "" {
		return nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("network state: %w", err)
	}
	return nil
}
