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

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"github.com/mote-edge/mote/internal/layout"
)

// Config is all that a node needs to know before it starts.
type Config struct {
	Dirs layout.Dirs
	// NodeName is the node's name in the API: lower case, a DNS subdomain.
	NodeName string
	// REST reaches the API server as this node. Nil means standalone: static pods alone. Join fills it from a token.
	REST *rest.Config
	// RuntimeEndpoint is the CRI socket; empty means Dirs.RuntimeSocket(), where mote-runtime is started through mote-hold
	// unless it answers.
	RuntimeEndpoint string
	// PodLogDir is where container logs go in the CRI layout; containers' symlinks go to its sibling "containers".
	PodLogDir string
	// CgroupRoot is the cgroup under which kubepods is made.
	CgroupRoot string
	// ClusterDNS and ClusterDomain make up the pods' resolv.conf under the ClusterFirst policy.
	ClusterDNS    []string
	ClusterDomain string
	// ResolvConf is the host's resolver file, for dnsPolicy Default. Empty means /etc/resolv.conf.
	ResolvConf string
	// MaxPods bounds the pods that the node admits; 0 means 110.
	MaxPods int
	// MaxParallelImagePulls bounds concurrent pulls; 0 means 5.
	MaxParallelImagePulls int
	// NodeIPs are the node's addresses, the primary one first; empty means that of the default route.
	NodeIPs []netip.Addr
	// Labels and Taints are given to the Node when it registers.
	Labels map[string]string
	Taints []corev1.Taint
	// Reserved is taken from the node's capacity before pods get it.
	Reserved corev1.ResourceList
	// KubeletPort is the port of the node API that the Node object names; 0 means 10250.
	KubeletPort int
	// HealthzAddress is where the plain health check listens; empty means 127.0.0.1:10248, "-" none.
	HealthzAddress string
	// ClusterCIDR is the range of all nodes' pods; empty means 10.42.0.0/16.
	ClusterCIDR string
	// NoRoutes leaves the routes to other nodes' pods to somebody else; NoCNIConfig the CNI configuration.
	NoRoutes, NoCNIConfig bool
	// AllowedUnsafeSysctls are sysctls outside the safe list that pods may set, exact or ending in *.
	AllowedUnsafeSysctls []string
	// PodPIDs bounds the processes of a pod; 0 means no bound.
	PodPIDs int64
	// UserNamespaceIDsPerPod is how many user and group numbers a pod with hostUsers: false has: a multiple of 65536; 0
	// means 65536.
	UserNamespaceIDsPerPod int64
	Log                    *slog.Logger
}

// Validate says what is wrong with the configuration, and how to mend it.
func (c *Config) Validate() error {
	errs := []error{c.Dirs.Validate()}
	if c.NodeName == "" || c.NodeName != strings.ToLower(c.NodeName) {
		errs = append(errs, fmt.Errorf("node name %q: give a lower-case DNS name with --node-name", c.NodeName))
	}
	if c.PodLogDir != "" && !filepath.IsAbs(c.PodLogDir) {
		errs = append(errs, fmt.Errorf("--pod-log-dir %q is not an absolute path", c.PodLogDir))
	}
	if c.MaxPods < 0 {
		errs = append(errs, fmt.Errorf("--max-pods %d is negative", c.MaxPods))
	}
	return errors.Join(errs...)
}

func (c *Config) setDefaults() {
	if c.PodLogDir == "" {
		c.PodLogDir = "/var/log/pods"
	}
	if c.CgroupRoot == "" {
		c.CgroupRoot = "/"
	}
	if c.ResolvConf == "" {
		c.ResolvConf = "/etc/resolv.conf"
	}
	if c.ClusterDomain == "" {
		c.ClusterDomain = "cluster.local"
	}
	if c.MaxPods == 0 {
		c.MaxPods = 110
	}
	if c.MaxParallelImagePulls == 0 {
		c.MaxParallelImagePulls = 5
	}
	if c.KubeletPort == 0 {
		c.KubeletPort = 10250
	}
	switch c.HealthzAddress {
	case "":
		c.HealthzAddress = "127.0.0.1:10248"
	case "-":
		c.HealthzAddress = ""
	}
	if c.ClusterCIDR == "" {
		c.ClusterCIDR = "10.42.0.0/16"
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
}
