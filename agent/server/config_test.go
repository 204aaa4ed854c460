package server

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/mote-edge/mote/agent/cgroup"
)

// configured is a node API like newWorld's, set up differently.
func configured(t *testing.T, change func(*Config)) string {
	t.Helper()
	w, _ := newWorld(t)
	cfg := Config{NodeName: "n1", Pods: w, Runtime: w, Usage: w, Reviews: w, DataDir: t.TempDir(), NodeLogs: t.TempDir(), PodLogDir: t.TempDir()}
	change(&cfg)
	srv := httptest.NewServer(New(cfg).Handler())
	t.Cleanup(srv.Close)
	return srv.URL
}

func TestConfiguredAccess(t *testing.T) {
	for name, tc := range map[string]struct {
		change    func(*Config)
		path, who string
		want      int
	}{
		"anonymous, and not allowed":     {func(c *Config) { c.Anonymous = true }, "/pods", "", 403},
		"anonymous, and all are allowed": {func(c *Config) { c.Anonymous, c.AllowAll = true, true }, "/pods", "", 200},
		"all who are known are allowed":  {func(c *Config) { c.AllowAll = true }, "/pods", "nobody", 200},
		"nobody is known":                {func(c *Config) { c.AllowAll = true }, "/pods", "", 401},
		"no tokens":                      {func(c *Config) { c.NoTokens = true }, "/pods", "admin", 401},
		"a token is not anonymous":       {func(c *Config) { c.NoTokens, c.Anonymous, c.AllowAll = true, true, true }, "/pods", "admin", 401},
		"no debugging":                   {func(c *Config) { c.NoDebugging = true }, "/configz", "admin", 404},
		"no debugging, but metrics":      {func(c *Config) { c.NoDebugging = true }, "/metrics", "admin", 200},
		"no system logs":                 {func(c *Config) { c.NoSystemLogs = true }, "/logs/", "admin", 404},
	} {
		if got, body := request(t, "GET", configured(t, tc.change)+tc.path, tc.who); got != tc.want {
			t.Errorf("%s: %d %s, want %d", name, got, body, tc.want)
		}
	}
	s := New(Config{TLS: &tls.Config{MinVersion: tls.VersionTLS13}})
	if c := s.tls(); c.MinVersion != tls.VersionTLS13 || c.ClientAuth != tls.RequestClientCert || len(c.NextProtos) != 2 {
		t.Errorf("%+v", c)
	}
}

// What only the runtime knows is in cAdvisor's metrics and in the summary.
func TestRuntimesStatistics(t *testing.T) {
	number := func(n uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: n} }
	url := configured(t, func(c *Config) {
		c.Detail = func(string) cgroup.Detail { return cgroup.Detail{Throttled: 3, OOMKills: 1} }
		c.Sandboxes = func(context.Context) ([]*runtimeapi.PodSandboxStats, error) {
			return []*runtimeapi.PodSandboxStats{{
				Attributes: &runtimeapi.PodSandboxAttributes{Metadata: &runtimeapi.PodSandboxMetadata{Uid: "uid-1"}},
				Linux: &runtimeapi.LinuxPodSandboxStats{
					Network: &runtimeapi.NetworkUsage{DefaultInterface: &runtimeapi.NetworkInterfaceUsage{Name: "eth0", RxBytes: number(7), TxBytes: number(9)}},
					Containers: []*runtimeapi.ContainerStats{{
						Attributes: &runtimeapi.ContainerAttributes{Id: "id1"}, WritableLayer: &runtimeapi.FilesystemUsage{UsedBytes: number(4096), InodesUsed: number(2)},
					}},
				},
			}}, nil
		}
		c.Volumes = func(*corev1.Pod) []stats.VolumeStats {
			used := uint64(100)
			return []stats.VolumeStats{{Name: "v", FsStats: stats.FsStats{UsedBytes: &used, InodesUsed: &used}}}
		}
		c.Logs = func(string) (uint64, uint64) { return 10, 1 }
	})
	_, body := request(t, "GET", url+"/metrics/cadvisor", "admin")
	for _, want := range []string{
		`container_network_receive_bytes_total{container="",id="/kubepods/poduid-1",image="",interface="eth0",name="",namespace="ns",pod="p"} 7`,
		"container_cpu_cfs_throttled_periods_total{", "container_oom_events_total{", `name="id1",namespace="ns",pod="p"} 4096`, "container_start_time_seconds{",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q in\n%s", want, body)
		}
	}
	_, body = request(t, "GET", url+"/stats/summary", "admin")
	var sum stats.Summary
	if err := json.Unmarshal([]byte(body), &sum); err != nil || len(sum.Pods) != 1 || len(sum.Pods[0].Containers) != 1 {
		t.Fatal(err, body)
	}
	p := sum.Pods[0]
	if p.Network == nil || *p.Network.TxBytes != 9 || p.Containers[0].Rootfs == nil || *p.Containers[0].Rootfs.UsedBytes != 4096 || len(p.VolumeStats) != 1 || *p.EphemeralStorage.UsedBytes != 4106 {
		t.Errorf("%s", body)
	}
	_, body = request(t, "GET", url+"/stats/summary?only_cpu_and_memory=true", "admin")
	if strings.Contains(body, "eth0") || strings.Contains(body, "rootfs") {
		t.Errorf("more than was asked for: %s", body)
	}
}
