package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// CNIConfig says what the network configuration of this node is made from.
type CNIConfig struct {
	Dir         string // where it is written; empty writes none
	StateDir    string // where the plugin keeps its allocations
	ClusterCIDR string // the range of all nodes' pods
	MTU         int    // of the pods' links; 0: that of the link with the node's address
}

const conflist = "10-mote.conflist"

// write makes the configuration file for a pod range, if it isn't there as it should be; true if it wrote.
func (c CNIConfig) write(podCIDR string, mtu int) (bool, error) {
	if c.Dir == "" {
		return false, nil
	}
	if c.MTU > 0 {
		mtu = c.MTU
	}
	content, err := json.MarshalIndent(map[string]any{
		"cniVersion": "1.1.0",
		"name":       "mote",
		"plugins": []any{map[string]any{
			"type": "mote-cni", "bridge": "mote0", "subnet": podCIDR, "clusterCIDR": c.ClusterCIDR, "mtu": mtu,
			"dataDir": c.StateDir, "capabilities": map[string]bool{"portMappings": true},
		}},
	}, "", "  ")
	if err != nil {
		return false, err
	}
	content = append(content, '\n')
	path := filepath.Join(c.Dir, conflist)
	next := filepath.Join(c.Dir, "."+conflist+".tmp") // runtimes read *.conflist alone
	_ = os.Remove(next)                               // a write that a crash cut off
	if old, err := os.ReadFile(path); err == nil && string(old) == string(content) {
		return false, nil
	}
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return false, fmt.Errorf("CNI configuration: %w", err)
	}
	if err := os.WriteFile(next, content, 0o644); err != nil {
		return false, fmt.Errorf("CNI configuration: %w", err)
	}
	if err := os.Rename(next, path); err != nil {
		return false, fmt.Errorf("CNI configuration: %w", err)
	}
	return true, nil
}

// Remove takes the configuration file away. Not found is success.
func (c CNIConfig) Remove() error {
	if c.Dir == "" {
		return nil
	}
	if err := os.Remove(filepath.Join(c.Dir, conflist)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
