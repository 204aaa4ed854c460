package agent

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/cri"
	"github.com/mote-edge/mote/agent/kubeletconfig"
	"github.com/mote-edge/mote/agent/logs"
	"github.com/mote-edge/mote/agent/pki"
	"github.com/mote-edge/mote/agent/server"
)

// certificates keeps the node's certificates. A standalone node has none, and no node API.
func (a *Agent) certificates(p *parts) error {
	cfg := pki.Config{
		Dir: filepath.Join(a.cfg.Dirs.Agent(), "pki"), NodeName: a.cfg.NodeName, CSRs: p.api.client.CertificateSigningRequests(),
		// An identity that lies elsewhere is its owner's to renew.
		Client:   a.cfg.Kubelet.RotateCertificates && filepath.Dir(a.cfg.REST.CertFile) == filepath.Join(a.cfg.Dirs.Agent(), "pki"),
		CertFile: a.cfg.Kubelet.TLSCertFile, KeyFile: a.cfg.Kubelet.TLSPrivateKeyFile, Tally: p.meters.tally, Log: a.cfg.Log,
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
	cfg, err := a.serverConfig(p)
	if err != nil {
		return err
	}
	p.server = server.New(cfg)
	return nil
}

// serverConfig is the node API, in the terms of the configuration file.
func (a *Agent) serverConfig(p *parts) (server.Config, error) {
	k := &a.cfg.Kubelet
	volumes := &volumeStats{a: a, p: p, hold: k.VolumeStatsAggPeriod.Duration}
	cfg := server.Config{
		NodeName: a.cfg.NodeName, Address: net.JoinHostPort(k.Address, strconv.Itoa(int(k.Port))), Certificate: p.certs.Serving, Reviews: p.api.client,
		Pods: p.pods, Runtime: p.cri, Usage: p.cgroups, PodLogDir: k.PodLogsDir, DataDir: a.cfg.Dirs.Data, Capacity: p.node.Capacity,
		NoDebugging: !k.EnableDebuggingHandlers, NoSystemLogs: !k.EnableSystemLogHandler, LogQueries: k.EnableSystemLogQuery,
		Anonymous: isTrue(k.Authentication.Anonymous.Enabled), NoTokens: !isTrue(k.Authentication.Webhook.Enabled), AllowAll: k.Authorization.Mode == "AlwaysAllow",
		TokenTTL: k.Authentication.Webhook.CacheTTL.Duration, AllowedTTL: k.Authorization.Webhook.CacheAuthorizedTTL.Duration, DeniedTTL: k.Authorization.Webhook.CacheUnauthorizedTTL.Duration,
		Configz: a.configz(), Metrics: a.metrics(p), Tally: p.meters.tally, Probes: p.pods.ProbeMetrics,
		Detail: p.cgroups.Detail, Volumes: volumes.of, Logs: volumes.logs, Log: a.cfg.Log,
		Links:  p.cgroups.Links,
		System: map[string]string{"pods": p.cgroups.Root()},
		Sandboxes: func(ctx context.Context) ([]*runtimeapi.PodSandboxStats, error) {
			r, err := p.cri.ListPodSandboxStats(ctx, &runtimeapi.ListPodSandboxStatsRequest{})
			return r.GetStats(), err
		},
	}
	var err error
	if cfg.TLS, err = k.ServingTLS(); err != nil {
		return cfg, err
	}
	if k.HealthzPort != 0 {
		cfg.Health = net.JoinHostPort(k.HealthzBindAddress, strconv.Itoa(int(k.HealthzPort)))
	}
	cas := a.cfg.REST.CAData
	if file := k.Authentication.X509.ClientCAFile; file != "" {
		if cas, err = os.ReadFile(file); err != nil {
			return cfg, fmt.Errorf("authentication.x509.clientCAFile: %w", err)
		}
	}
	cfg.ClientCAs = x509.NewCertPool()
	if !cfg.ClientCAs.AppendCertsFromPEM(cas) {
		return cfg, fmt.Errorf("the CA certificate for clients of the node API can't be read: nobody could be let in: see authentication.x509.clientCAFile")
	}
	return cfg, nil
}

func isTrue(b *bool) bool { return b != nil && *b }

// configz is the configuration in effect, in the words of KubeletConfiguration.
func (a *Agent) configz() any {
	return struct {
		kubeletconfig.Configuration `json:",inline"`
		CgroupDriver                string `json:"cgroupDriver"`
		CgroupsPerQOS               bool   `json:"cgroupsPerQOS"`
	}{a.cfg.Kubelet, "cgroupfs", true}
}

// rotator bounds the logs of what runs.
func (a *Agent) rotator(p *parts) *logs.Rotator {
	size, _ := a.cfg.Kubelet.LogMaxSize() // validated
	return &logs.Rotator{
		MaxSize: size, Files: int(a.cfg.Kubelet.ContainerLogMaxFiles), Every: a.cfg.Kubelet.ContainerLogMonitorInterval.Duration, Logger: a.cfg.Log,
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
