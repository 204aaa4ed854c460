// Package nodeproc is what `mote agent` and `mote server` have in common: one node in this process, that is the kubelet
// and the service proxy with cluster DNS, and the flags that configure them.
//
// Reads:  flags; systemd's environment.
// Writes: what agent and proxy write; <run>/<program>.pid.
package nodeproc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"github.com/mote-edge/mote/agent"
	"github.com/mote-edge/mote/agent/kubeletconfig"
	"github.com/mote-edge/mote/cni"
	"github.com/mote-edge/mote/internal/kubeclient"
	"github.com/mote-edge/mote/internal/layout"
	"github.com/mote-edge/mote/internal/pidfile"
	"github.com/mote-edge/mote/internal/watchdog"
	"github.com/mote-edge/mote/proxy"
)

// Flags are a node's flags as given.
type Flags struct {
	NodeName, PodLogDir, CgroupRoot, RuntimeEndpoint, ResolvConf, ClusterDNS, KubeletDir string
	ConfigFile, DropIns                                                                  string
	NodeIPs, Labels, Taints                                                              []string
	MaxPods, KubeletPort                                                                 int32
	PodPIDs                                                                              int64
	NoProxy, NoSecretsOnDisk                                                             bool

	ProviderConfig, ProviderBinDir string

	set *pflag.FlagSet
}

// Register adds the flags that a node has, whichever program runs it.
func (f *Flags) Register(fs *pflag.FlagSet) {
	f.set = fs
	def := kubeletconfig.Default()
	fs.StringVar(&f.ConfigFile, "kubelet-config", "", "KubeletConfiguration file; flags win over it")
	fs.StringVar(&f.DropIns, "kubelet-config-dir", "", "directory of *.conf files that are merged over --kubelet-config in the order of their names")
	fs.StringVar(&f.NodeName, "node-name", "", "the node's name in the API (default the host name)")
	fs.StringSliceVar(&f.NodeIPs, "node-ip", nil, "the node's addresses, the primary one first (default that of the default route)")
	fs.StringSliceVar(&f.Labels, "node-labels", nil, "labels key=value that the node registers with")
	fs.StringSliceVar(&f.Taints, "register-with-taints", nil, "taints key=value:Effect that the node registers with")
	fs.StringVar(&f.PodLogDir, "pod-log-dir", def.PodLogsDir, "where container logs go")
	fs.StringVar(&f.CgroupRoot, "cgroup-root", def.CgroupRoot, "cgroup below which the pods' cgroups are made")
	fs.StringVar(&f.KubeletDir, "kubelet-dir", "", "where plugins look for the kubelet (default /var/lib/kubelet, or <data-dir>/kubelet where --data-dir is given)")
	fs.StringVar(&f.RuntimeEndpoint, "container-runtime-endpoint", "", "CRI socket of another runtime, unix:///run/containerd/containerd.sock (default Mote's own)")
	fs.StringVar(&f.ProviderConfig, "image-credential-provider-config", "", "CredentialProviderConfig file, or directory of them: plugins that know credentials of registries")
	fs.StringVar(&f.ProviderBinDir, "image-credential-provider-bin-dir", "", "where those plugins' programs are")
	fs.StringVar(&f.ResolvConf, "resolv-conf", def.ResolverConfig, "resolver file of the node, for pods with dnsPolicy Default")
	fs.StringVar(&f.ClusterDNS, "cluster-dns", "10.43.0.10", "address of cluster DNS, answered on every node; empty turns it off")
	fs.Int32Var(&f.MaxPods, "max-pods", def.MaxPods, "how many pods the node takes")
	fs.Int32Var(&f.KubeletPort, "kubelet-port", def.Port, "port of the node API")
	fs.Int64Var(&f.PodPIDs, "pod-max-pids", 0, "most processes that a pod may have (default no bound)")
	fs.BoolVar(&f.NoSecretsOnDisk, "no-secrets-on-disk", false, "keep no copy of the pods' Secrets: pods that need one then start only with the API server in reach")
	fs.BoolVar(&f.NoProxy, "disable-kube-proxy", false, "leave Services and cluster DNS to somebody else")
}

// kubelet is the configuration file with the flags over it: what is given on the command line wins, and what neither
// gives is the flag's default.
func (f *Flags) kubelet(clusterDomain string) (kubeletconfig.Configuration, error) {
	loaded, err := kubeletconfig.Load(f.ConfigFile, f.DropIns)
	if err != nil {
		return kubeletconfig.Configuration{}, err
	}
	for _, note := range loaded.Notes {
		slog.Info("kubelet configuration: " + note)
	}
	k := loaded.Configuration
	over := func(flag, field string) bool { return f.set.Changed(flag) || !loaded.Given[field] }
	take := func(flag, field string, into *string, value string) {
		if over(flag, field) {
			*into = value
		}
	}
	take("pod-log-dir", "podLogsDir", &k.PodLogsDir, f.PodLogDir)
	take("cgroup-root", "cgroupRoot", &k.CgroupRoot, f.CgroupRoot)
	take("container-runtime-endpoint", "containerRuntimeEndpoint", &k.ContainerRuntimeEndpoint, f.RuntimeEndpoint)
	take("resolv-conf", "resolvConf", &k.ResolverConfig, f.ResolvConf)
	take("cluster-domain", "clusterDomain", &k.ClusterDomain, clusterDomain)
	if over("max-pods", "maxPods") {
		k.MaxPods = f.MaxPods
	}
	if over("kubelet-port", "port") {
		k.Port = f.KubeletPort
	}
	if over("pod-max-pids", "podPidsLimit") && f.PodPIDs > 0 {
		k.PodPidsLimit = f.PodPIDs
	}
	if over("cluster-dns", "clusterDNS") {
		k.ClusterDNS = nil
		if f.ClusterDNS != "" {
			k.ClusterDNS = []string{f.ClusterDNS}
		}
	}
	if over("register-with-taints", "registerWithTaints") {
		k.RegisterWithTaints = nil
		for _, s := range f.Taints {
			t, err := taint(s)
			if err != nil {
				return k, err
			}
			k.RegisterWithTaints = append(k.RegisterWithTaints, t)
		}
	}
	return k, errors.Join(k.Validate()...)
}

// Name is the node's name: as given, or the host's.
func (f *Flags) Name() (string, error) {
	if f.NodeName != "" {
		return f.NodeName, nil
	}
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("host name: %w: give --node-name", err)
	}
	return strings.ToLower(host), nil
}

// Config is a node, its flags read.
type Config struct {
	Agent       agent.Config
	ServiceCIDR netip.Prefix
	ClusterCIDR netip.Prefix
	DNS         netip.Addr
	NoProxy     bool
}

// Config reads the flags.
func (f *Flags) Config(dirs layout.Dirs, clusterCIDR, serviceCIDR, clusterDomain string) (Config, error) {
	name, err := f.Name()
	if err != nil {
		return Config{}, err
	}
	kubelet, err := f.kubelet(clusterDomain)
	if err != nil {
		return Config{}, err
	}
	c := Config{NoProxy: f.NoProxy, Agent: agent.Config{Dirs: dirs, NodeName: name, Kubelet: kubelet, KubeletDir: f.KubeletDir, ClusterCIDR: clusterCIDR, Log: slog.Default()}}
	c.Agent.CredentialProviderConfig, c.Agent.CredentialProviderBinDir = f.ProviderConfig, f.ProviderBinDir
	c.Agent.NoSecretsOnDisk = f.NoSecretsOnDisk
	if c.Agent.Systemd, err = watchdog.FromEnvironment(); err != nil {
		return c, err
	}
	if c.ClusterCIDR, err = netip.ParsePrefix(clusterCIDR); err != nil {
		return c, fmt.Errorf("--cluster-cidr %q is not a range: give one like 10.42.0.0/16", clusterCIDR)
	}
	if c.ServiceCIDR, err = netip.ParsePrefix(serviceCIDR); err != nil {
		return c, fmt.Errorf("--service-cidr %q is not a range: give one like 10.43.0.0/16", serviceCIDR)
	}
	if dns := kubelet.ClusterDNS; len(dns) > 0 { // the first one is answered here; others are told to pods as they are
		if c.DNS, err = netip.ParseAddr(dns[0]); err != nil {
			return c, fmt.Errorf("--cluster-dns %q is not an address", dns[0])
		}
	}
	for _, s := range f.NodeIPs {
		ip, err := netip.ParseAddr(s)
		if err != nil {
			return c, fmt.Errorf("--node-ip %q is not an address", s)
		}
		c.Agent.NodeIPs = append(c.Agent.NodeIPs, ip)
	}
	if c.Agent.Labels, err = labels(f.Labels); err != nil {
		return c, err
	}
	return c, nil
}

func labels(list []string) (map[string]string, error) {
	out := map[string]string{}
	for _, s := range list {
		k, v, ok := strings.Cut(s, "=")
		if !ok || k == "" {
			return nil, fmt.Errorf("--node-labels %q: write key=value", s)
		}
		out[k] = v
	}
	return out, nil
}

func taint(s string) (corev1.Taint, error) {
	kv, effect, ok := strings.Cut(s, ":")
	key, value, _ := strings.Cut(kv, "=")
	e := corev1.TaintEffect(effect)
	if !ok || key == "" || (e != corev1.TaintEffectNoSchedule && e != corev1.TaintEffectPreferNoSchedule && e != corev1.TaintEffectNoExecute) {
		return corev1.Taint{}, fmt.Errorf("--register-with-taints %q: write key=value:NoSchedule, :PreferNoSchedule or :NoExecute", s)
	}
	return corev1.Taint{Key: key, Value: value, Effect: e}, nil
}

// Run runs the node until ctx ends or a part of it gives up. program names the pid file: a directory has one node.
func Run(ctx context.Context, program string, c Config) error {
	pid, err := pidfile.Acquire(filepath.Join(c.Agent.Dirs.Run, program+".pid"))
	if err != nil {
		return err
	}
	defer pid.Release()
	a, err := agent.New(c.Agent)
	if err != nil {
		return err
	}
	runs := []func(context.Context) error{a.Run}
	if !c.NoProxy && c.Agent.REST != nil {
		p, err := newProxy(c)
		if err != nil {
			return err
		}
		runs = append(runs, p.Run)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(runs))
	var wg sync.WaitGroup
	for i, run := range runs {
		wg.Go(func() {
			errs[i] = run(ctx)
			cancel()
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func newProxy(c Config) (*proxy.Proxy, error) {
	rc := rest.CopyConfig(c.Agent.REST)
	rc.QPS = -1 // it only watches
	client, err := kubeclient.New(rc)
	if err != nil {
		return nil, err
	}
	return proxy.New(proxy.Config{
		Client: client, NodeName: c.Agent.NodeName, ClusterCIDR: c.ClusterCIDR, ServiceCIDR: c.ServiceCIDR, DNSAddress: c.DNS,
		ClusterDomain: c.Agent.Kubelet.ClusterDomain, ResolvConf: c.Agent.Kubelet.ResolverConfig, Checkpoint: filepath.Join(c.Agent.Dirs.Run, "proxy", "snapshot.json"),
		OnFlush: func(ctx context.Context) {
			if err := cni.Repair(ctx, filepath.Join(c.Agent.Dirs.CNIConfig(), "10-mote.conflist")); err != nil {
				slog.ErrorContext(ctx, "the pod network's rules are missing", "error", err)
			}
		},
	})
}
