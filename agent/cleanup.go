package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/mote-edge/mote/agent/cgroup"
	"github.com/mote-edge/mote/agent/node"
	"github.com/mote-edge/mote/agent/shutdown"
	"github.com/mote-edge/mote/agent/volume"
)

// Cleanup takes away what a node edits outside its own directories: volume mounts, cgroups (and what still runs in
// them), routes and log files; and its CNI configuration. The node must have been stopped, and its runtime cleaned up.
func Cleanup(cfg Config) error {
	cfg.setDefaults()
	errs := []error{
		volume.Cleanup(filepath.Join(cfg.Dirs.Agent(), "pods"), memoryDir(cfg.Dirs)),
		node.CleanupRoutes(),
		node.CNIConfig{Dir: cfg.Dirs.CNIConfig()}.Remove(),
		shutdown.Cleanup(),
		cleanLogs(cfg.Kubelet.PodLogsDir),
	}
	errs = append(errs, cleanPlugins(cfg.KubeletDir)...)
	tree, err := cgroup.New(cgroup.Config{Root: cfg.Kubelet.CgroupRoot})
	if err == nil {
		err = tree.Cleanup()
	}
	return errors.Join(append(errs, err)...)
}

// cleanPlugins removes the node's own files from the directory of plugins, and what is empty then: the rest is theirs.
func cleanPlugins(dir string) []error {
	var errs []error
	for _, file := range []string{"device-plugins/kubelet.sock", "device-plugins/kubelet_internal_checkpoint", "pod-resources/kubelet.sock"} {
		if err := os.Remove(filepath.Join(dir, file)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("directory of plugins: %w", err))
		}
	}
	for _, sub := range []string{"device-plugins", "pod-resources", "plugins_registry", ""} {
		_ = os.Remove(filepath.Join(dir, sub)) // unless something is in it
	}
	return errs
}

// cleanLogs removes the pods' logs and the links to them.
func cleanLogs(dir string) error {
	links, err := filepath.Glob(filepath.Join(filepath.Dir(dir), "containers", "*.log"))
	if err != nil {
		return err
	}
	var errs []error
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && filepath.Dir(filepath.Dir(filepath.Dir(to))) == filepath.Clean(dir) {
			errs = append(errs, os.Remove(link))
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		errs = append(errs, fmt.Errorf("pod logs: %w", err))
	}
	return errors.Join(errs...)
}
