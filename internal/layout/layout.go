// Package layout names the directories, sockets and well-known files that Mote's programs share. Every path derives
// from three roots, so that several nodes can live on one machine (the lab, tests) without hacks.
//
// Reads:  nothing.
// Writes: nothing.
package layout

import (
	"fmt"
	"os"
	"path/filepath"
)

// Dirs are the three roots. Data survives a reboot, Run does not, Config is the administrator's.
type Dirs struct {
	Data   string // /var/lib/mote
	Run    string // /run/mote
	Config string // /etc/mote
}

// Default returns the roots that an installed Mote uses.
func Default() Dirs {
	return Dirs{Data: "/var/lib/mote", Run: "/run/mote", Config: "/etc/mote"}
}

// Validate reports a root that is empty or not absolute.
func (d Dirs) Validate() error {
	for name, dir := range map[string]string{"--data-dir": d.Data, "--run-dir": d.Run, "--config-dir": d.Config} {
		if !filepath.IsAbs(dir) {
			return fmt.Errorf("%s %q is not an absolute path: give one that begins with /", name, dir)
		}
	}
	return nil
}

// RuntimeSocket is where mote-runtime serves CRI v1.
func (d Dirs) RuntimeSocket() string { return filepath.Join(d.Run, "runtime.sock") }

// RuntimeAdminSocket is where mote-runtime serves what CRI has no call for: image import.
func (d Dirs) RuntimeAdminSocket() string { return filepath.Join(d.Run, "runtime-admin.sock") }

// HoldSocket is where mote-hold hands out exit codes and held descriptors.
func (d Dirs) HoldSocket() string { return filepath.Join(d.Run, "hold.sock") }

// Server is the control plane's own directory.
func (d Dirs) Server() string { return filepath.Join(d.Data, "server") }

// Agent is the kubelet's own directory.
func (d Dirs) Agent() string { return filepath.Join(d.Data, "agent") }

// Kubelet is where plugins look for the kubelet: device-plugins, plugins_registry, plugins, pod-resources. Stock plugins
// mount upstream's path into their pods, so a node in the default place uses that.
func (d Dirs) Kubelet() string {
	if d.Data == Default().Data {
		return "/var/lib/kubelet"
	}
	return filepath.Join(d.Data, "kubelet")
}

// Runtime is the container runtime's own directory.
func (d Dirs) Runtime() string { return filepath.Join(d.Data, "runtime") }

// ImageArchives holds archives that the runtime imports when it starts.
func (d Dirs) ImageArchives() string { return filepath.Join(d.Data, "images") }

// CNIConfig holds the network configuration that the agent writes once the node has its address range.
func (d Dirs) CNIConfig() string { return filepath.Join(d.Data, "cni", "net.d") }

// CNIState holds address allocations; it goes with a reboot, as the pods' network namespaces do.
func (d Dirs) CNIState() string { return filepath.Join(d.Run, "cni") }

// Netns holds the bind mounts that pin the pods' network namespaces.
func (d Dirs) Netns() string { return filepath.Join(d.Run, "netns") }

// Hosts holds the pods' /etc/hosts, each under its pod's UID.
func (d Dirs) Hosts() string { return filepath.Join(d.Run, "hosts") }

// StaticPods holds manifests that the kubelet runs without an API server.
func (d Dirs) StaticPods() string { return filepath.Join(d.Config, "manifests") }

// Registries is the file of image mirrors and credentials.
func (d Dirs) Registries() string { return filepath.Join(d.Config, "registries.yaml") }

// AdminKubeconfig is the administrator's way in, mode 0600.
func (d Dirs) AdminKubeconfig() string { return filepath.Join(d.Config, "admin.kubeconfig") }

// Sibling returns the path of another of Mote's programs: they are installed side by side.
func Sibling(program string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find %s: %w", program, err)
	}
	return Beside(self, program)
}

// Beside returns the path of another of Mote's programs than the one at the path self.
func Beside(self, program string) (string, error) {
	path := filepath.Join(filepath.Dir(self), program)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%s is missing beside %s: install all of Mote's programs in one directory", program, self)
	}
	return path, nil
}
