package agent

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/cri"
	"github.com/mote-edge/mote/agent/logs"
	"github.com/mote-edge/mote/agent/pki"
	"github.com/mote-edge/mote/agent/server"
)

// The bounds of container logs, as kubelets have them by default.
const (
	logSize  = 10 << 20
	logFiles = 5
)

// certificates keeps the node's certificates. A standalone node has none, and no node API.
func (a *Agent) certificates(p *parts) error {
	cfg := pki.Config{
		Dir: filepath.Join(a.cfg.Dirs.Agent(), "pki"), NodeName: a.cfg.NodeName, CSRs: p.api.client.CertificateSigningRequests(),
		// An identity that lies elsewhere is its owner's to renew.
		Client: filepath.Dir(a.cfg.REST.CertFile) == filepath.Join(a.cfg.Dirs.Agent(), "pki"), Log: a.cfg.Log,
	}
	for _, ip := range p.node.HostIPs() {
		addr, err := netip.ParseAddr(ip)
		if err != nil {
			return fmt.Errorf("node address %q: %w", ip, err)
		}
		cfg.Addresses = append(cfg.Addresses, addr)
	}
	var err error
	p.certs, err = pki.New(cfg)
	return err
}

// nodeAPI makes the node API for the API server's proxy and for monitoring.
func (a *Agent) nodeAPI(p *parts) error {
	if err := a.certificates(p); err != nil {
		return err
	}
	cas := x509.NewCertPool()
	if !cas.AppendCertsFromPEM(a.cfg.REST.CAData) {
		return fmt.Errorf("the API server's CA certificate can't be read: nobody could be let in to the node API")
	}
	p.server = server.New(server.Config{
		NodeName: a.cfg.NodeName, Address: net.JoinHostPort("", strconv.Itoa(a.cfg.KubeletPort)), Health: a.cfg.HealthzAddress,
		Certificate: p.certs.Serving, ClientCAs: cas, Reviews: p.api.client,
		Pods: p.pods, Runtime: p.cri, Usage: p.cgroups, PodLogDir: a.cfg.PodLogDir, DataDir: a.cfg.Dirs.Data, Capacity: p.node.Capacity,
		Configz: a.configz(), Metrics: p.metrics, Log: a.cfg.Log,
	})
	return nil
}

// configz is the configuration in the words of KubeletConfiguration, as far as it has them.
func (a *Agent) configz() map[string]any {
	return map[string]any{
		"port": a.cfg.KubeletPort, "maxPods": a.cfg.MaxPods, "podPidsLimit": a.cfg.PodPIDs, "cgroupRoot": a.cfg.CgroupRoot, "cgroupDriver": "cgroupfs",
		"clusterDNS": a.cfg.ClusterDNS, "clusterDomain": a.cfg.ClusterDomain, "resolvConf": a.cfg.ResolvConf, "podLogsDir": a.cfg.PodLogDir,
		"staticPodPath": a.cfg.Dirs.StaticPods(), "containerRuntimeEndpoint": a.cfg.RuntimeEndpoint, "maxParallelImagePulls": a.cfg.MaxParallelImagePulls,
		"containerLogMaxSize": "10Mi", "containerLogMaxFiles": logFiles, "allowedUnsafeSysctls": a.cfg.AllowedUnsafeSysctls,
	}
}

// rotator bounds the logs of what runs.
func (a *Agent) rotator(p *parts) *logs.Rotator {
	return &logs.Rotator{
		MaxSize: logSize, Files: logFiles, Logger: a.cfg.Log,
		Reopen: func(ctx context.Context, id string) error {
			_, err := p.cri.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: id})
			return err
		},
		Logs: func() []logs.Log {
			var out []logs.Log
			for _, pod := range p.pods.Cache().All() {
				for _, c := range pod.Containers {
					if c.State == cri.Running && filepath.IsAbs(c.LogPath) {
						out = append(out, logs.Log{ContainerID: c.ID, Path: c.LogPath})
					}
				}
			}
			return out
		},
	}
}
