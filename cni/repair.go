package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Repair sets up bridge, sysctls and standing rules again, as the network configuration list in the file at path has
// them: for when another program has flushed the node's rules. Where no pod has needed them yet, it does nothing. Rules
// of host ports come back with the attachments' records.
func Repair(ctx context.Context, path string) error {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("network configuration: %w", err)
	}
	var list struct {
		CNIVersion string           `json:"cniVersion"`
		Name       string           `json:"name"`
		Plugins    []map[string]any `json:"plugins"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return fmt.Errorf("network configuration %s: %w", path, err)
	}
	for _, plugin := range list.Plugins {
		if plugin["type"] != "mote-cni" {
			continue
		}
		plugin["cniVersion"], plugin["name"] = list.CNIVersion, list.Name
		one, err := json.Marshal(plugin)
		if err != nil {
			return err
		}
		c, err := parseConfig(one)
		if err != nil {
			return fmt.Errorf("network configuration %s: %w", path, err)
		}
		if _, err := os.Stat(markerPath(c)); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := repair(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

func repair(ctx context.Context, c *Config) error {
	if _, err := ensureNode(ctx, c, true); err != nil {
		return err
	}
	store, err := openStore(c)
	if err != nil {
		return err
	}
	records, err := store.List()
	if err != nil {
		return err
	}
	var errs []error
	for _, rec := range records {
		if len(rec.Ports) > 0 && rec.Address.IsValid() {
			errs = append(errs, addHostPorts(ctx, c, rec))
		}
	}
	return errors.Join(errs...)
}
