// Package agent assembles one node: the pods' workers and what they stand on. It is the kubelet of `mote agent` and of
// `mote server`.
//
// Reads:  its Config; the API server; the container runtime.
// Writes: nothing of its own; each part below owns its state.
package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"

	"k8s.io/client-go/rest"

	"github.com/mote-edge/mote/agent/kubeletconfig"
	"github.com/mote-edge/mote/internal/layout"
	"github.com/mote-edge/mote/internal/watchdog"
)

// Config is all that a node needs to know before it starts.
type Config struct {
	Dirs layout.Dirs
	// NodeName is the node's name in the API: lower case, a DNS subdomain.
	NodeName string
	// REST reaches the API server as this node. Nil means standalone: static pods alone. Join fills it from a token.
	REST *rest.Config
	// Kubelet is everything that a KubeletConfiguration file can say; the zero value stands for the defaults. An empty
	// containerRuntimeEndpoint is Dirs.RuntimeSocket(), where mote-runtime is started through mote-hold unless it answers;
	// an empty staticPodPath is Dirs.StaticPods().
	Kubelet kubeletconfig.Configuration
	// KubeletDir is where plugins look for the kubelet; empty means Dirs.Kubelet().
	KubeletDir string
	// CredentialProviderConfig is a CredentialProviderConfig file or a directory of them, CredentialProviderBinDir where
	// the programs are that it names; both empty means that there are none.
	CredentialProviderConfig, CredentialProviderBinDir string
	// NodeIPs are the node's addresses, the primary one first; empty means that of the default route.
	NodeIPs []netip.Addr
	// Labels are given to the Node when it registers.
	Labels map[string]string
	// ClusterCIDR is the range of all nodes' pods; empty means 10.42.0.0/16.
	ClusterCIDR string
	// NoRoutes leaves the routes to other nodes' pods to somebody else; NoCNIConfig the CNI configuration.
	NoRoutes, NoCNIConfig bool
	// NoSecretsOnDisk keeps no copy of the pods' Secrets: pods that need one start only with the API server in reach.
	NoSecretsOnDisk bool
	// Systemd is told that the node is up; the zero value is nobody.
	Systemd watchdog.Watchdog
	Log     *slog.Logger
}

// Validate says what is wrong with the configuration, and how to mend it.
func (c *Config) Validate() error {
	errs := []error{c.Dirs.Validate()}
	if c.NodeName == "" || c.NodeName != strings.ToLower(c.NodeName) {
		errs = append(errs, fmt.Errorf("node name %q: give a lower-case DNS name with --node-name", c.NodeName))
	}
	if c.KubeletDir != "" && !filepath.IsAbs(c.KubeletDir) {
		errs = append(errs, fmt.Errorf("--kubelet-dir %q is not an absolute path", c.KubeletDir))
	}
	if (c.CredentialProviderConfig == "") != (c.CredentialProviderBinDir == "") {
		errs = append(errs, errors.New("--image-credential-provider-config and --image-credential-provider-bin-dir go together: set both"))
	}
	errs = append(errs, c.Kubelet.Validate()...)
	return errors.Join(errs...)
}

func (c *Config) setDefaults() {
	if c.Kubelet.Port == 0 {
		c.Kubelet = kubeletconfig.Default()
	}
	if c.Kubelet.StaticPodPath == "" {
		c.Kubelet.StaticPodPath = c.Dirs.StaticPods()
	}
	if c.KubeletDir == "" {
		c.KubeletDir = c.Dirs.Kubelet()
	}
	if c.ClusterCIDR == "" {
		c.ClusterCIDR = "10.42.0.0/16"
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
}
