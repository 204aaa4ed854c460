package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/allocate"
	"github.com/mote-edge/mote/agent/cgroup"
	"github.com/mote-edge/mote/agent/cpu"
	"github.com/mote-edge/mote/agent/cri"
	"github.com/mote-edge/mote/agent/device"
	"github.com/mote-edge/mote/agent/dra"
	"github.com/mote-edge/mote/agent/event"
	"github.com/mote-edge/mote/agent/evict"
	"github.com/mote-edge/mote/agent/image"
	"github.com/mote-edge/mote/agent/kubeletconfig"
	"github.com/mote-edge/mote/agent/memory"
	"github.com/mote-edge/mote/agent/node"
	"github.com/mote-edge/mote/agent/objects"
	"github.com/mote-edge/mote/agent/oom"
	"github.com/mote-edge/mote/agent/pki"
	"github.com/mote-edge/mote/agent/plugin"
	"github.com/mote-edge/mote/agent/podworker"
	"github.com/mote-edge/mote/agent/server"
	"github.com/mote-edge/mote/agent/shutdown"
	"github.com/mote-edge/mote/agent/source"
	"github.com/mote-edge/mote/agent/status"
	"github.com/mote-edge/mote/agent/userns"
	"github.com/mote-edge/mote/agent/volume"
	"github.com/mote-edge/mote/internal/kubeclient"
	"github.com/mote-edge/mote/internal/layout"
	"github.com/mote-edge/mote/internal/version"
)

// Agent is one node.
type Agent struct {
	cfg Config
}

// New checks the configuration. It starts nothing.
func New(cfg Config) (*Agent, error) {
	cfg.setDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Agent{cfg: cfg}, nil
}

// parts are what Run assembles.
type parts struct {
	meters   meters
	cri      *cri.Client
	version  *runtimeapi.VersionResponse
	api      *apiServer // nil: standalone
	events   *event.Recorder
	statuses *status.Writer
	cgroups  *cgroup.Tree
	volumes  *volume.Volumes
	node     *node.Node
	pods     *podworker.Manager
	source   *source.Pods
	disk     *source.Checkpoint
	services *source.Services
	certs    *pki.Certificates // nil on a standalone node, as the next
	server   *server.Server
	evict    *evict.Evictor
	images   *image.Collector
	puller   *image.Puller
	shutdown *shutdown.Shutdown
	cpus     *cpu.CPUs
	memory   *memory.Memory
	devices  *device.Plugins
	plugins  *plugin.Watcher
	claims   *dra.Claims
	allocate *allocate.Allocator
}

// offlineAfter is how long the API server may take to list the node's pods before those of the last run are started: an
// edge node boots without it.
const offlineAfter = 3 * time.Second

// Run runs the node until ctx ends. Containers go on when it returns: the next run takes them over.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p, err := a.assemble(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = p.cri.Close() }()

	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	run := func(name string, f func(context.Context) error) {
		wg.Go(func() {
			if err := f(ctx); err != nil && ctx.Err() == nil {
				mu.Lock()
				errs = append(errs, fmt.Errorf("%s: %w", name, err))
				mu.Unlock()
				cancel() // one part that gives up takes the agent down: a supervisor starts it anew, and pods don't notice
			}
		})
	}
	listed := make(chan struct{})
	var once sync.Once
	run("pods", func(ctx context.Context) error {
		return p.pods.Run(ctx, func() { once.Do(func() { close(listed) }); p.node.Poke() })
	})
	if a.cfg.Kubelet.ContainerRuntimeEndpoint == "" {
		run("runtime", func(ctx context.Context) error { return superviseRuntime(ctx, a.cfg.Dirs, a.cfg.Log) })
	}
	run("watchdog", func(ctx context.Context) error {
		// Whoever holds a lock of the pods for good keeps this from coming back.
		return a.cfg.Systemd.Tell(ctx, listed, func() error { p.pods.Pods(); return nil }, a.cfg.Log)
	})
	run("volumes", p.volumes.Run)
	run("node", p.node.Run)
	run("logs", a.rotator(p).Run)
	run("images", p.images.Run)
	run("device plugins", p.devices.Run)
	run("plugins", p.plugins.Run)
	run("claims", p.claims.Drivers().Run)
	run("pod resources", a.podResources(p).Run)
	run("pressure", func(ctx context.Context) error {
		if !wait(ctx, listed) {
			return nil
		}
		return p.evict.Run(ctx)
	})
	run("events", p.events.Run)
	run("kernel log", (&oom.Watcher{Event: a.nodeEvent(p), Log: a.cfg.Log}).Run)
	run("shutdown", func(ctx context.Context) error {
		if !wait(ctx, listed) {
			return nil
		}
		return p.shutdown.Run(ctx)
	})
	run("services", p.services.Run)
	run("checkpoint", func(ctx context.Context) error { p.disk.Run(ctx.Done()); return nil })
	// The sources begin once the runtime was listed: a pod that runs already must be known as such.
	run("manifests", func(ctx context.Context) error {
		if !wait(ctx, listed) {
			return nil
		}
		return p.source.RunManifests(ctx, a.cfg.Kubelet.StaticPodPath)
	})
	if p.api != nil {
		run("certificates", p.certs.Run)
		if a.cfg.Kubelet.EnableServer {
			run("server", p.server.Run)
		}
		run("source", func(ctx context.Context) error {
			if !wait(ctx, listed) {
				return nil
			}
			// Pods of the last run are for a server that doesn't answer: one that does knows their statuses, too.
			answer, cancel := context.WithTimeout(ctx, offlineAfter)
			go func() {
				defer cancel()
				if !wait(answer, p.source.Listed()) && ctx.Err() == nil {
					p.source.Restore()
				}
			}()
			return p.source.RunAPI(ctx)
		})
	}
	run("orphans", func(ctx context.Context) error {
		if wait(ctx, listed) && wait(ctx, p.source.Synced()) {
			p.pods.Synced()
			p.volumes.Sweep(p.pods.Pods())
		}
		return nil
	})
	run("network", func(ctx context.Context) error {
		if wait(ctx, p.node.Ready()) { // sandboxes may have waited for the network
			p.pods.RetryAll()
		}
		return nil
	})
	wg.Wait()
	return errors.Join(errs...)
}

// wait tells whether ch closed before ctx ended.
func wait(ctx context.Context, ch <-chan struct{}) bool {
	select {
	case <-ctx.Done():
		return false
	case <-ch:
		return true
	}
}

func (a *Agent) assemble(ctx context.Context) (*parts, error) {
	cfg := a.cfg
	p := &parts{meters: newMeters()}
	var err error
	endpoint := cfg.Kubelet.ContainerRuntimeEndpoint
	if endpoint == "" {
		endpoint = "unix://" + cfg.Dirs.RuntimeSocket()
		if err := startRuntime(ctx, cfg.Dirs); err != nil {
			return nil, err
		}
	}
	if p.cri, err = cri.Dial(endpoint, grpc.WithUnaryInterceptor(p.meters.runtime.Intercept)); err != nil {
		return nil, err
	}
	p.cri.Tally = p.meters.tally
	if cfg.REST != nil {
		rc := rest.CopyConfig(cfg.REST)
		rc.QPS = -1 // the API server shares out its time; a bound of our own would only delay the start of pods
		if cfg.Kubelet.KubeAPIQPS > 0 {
			rc.QPS, rc.Burst = float32(cfg.Kubelet.KubeAPIQPS), int(cfg.Kubelet.KubeAPIBurst)
		}
		rc.Wrap(p.meters.requests.Wrap)
		rc.UserAgent = "mote-agent/" + version.Version
		client, err := kubeclient.New(rc)
		if err != nil {
			return nil, err
		}
		p.api = &apiServer{client: client, node: cfg.NodeName}
	}
	if p.cgroups, err = cgroup.New(cgroup.Config{
		Root: cfg.Kubelet.CgroupRoot, CPUQuota: cfg.Kubelet.CPUCFSQuota, CPUPeriod: uint64(cfg.Kubelet.CPUCFSQuotaPeriod.Microseconds()), PodPIDs: max(cfg.Kubelet.PodPidsLimit, 0),
		NoQuota:  func(uid types.UID) bool { return p.cpus != nil && p.cpus.HasExclusive(uid) },
		Throttle: cfg.Kubelet.Throttle(), Protect: cfg.Kubelet.MemoryReservationPolicy == kubeletconfig.TieredReservation,
	}); err != nil {
		return nil, err
	}
	if err := checkMachine(&cfg.Kubelet, p.cgroups); err != nil {
		return nil, err
	}
	if err := p.cgroups.EnsureTiers(); err != nil {
		return nil, err
	}
	a.events(p)
	settle(&cfg.Kubelet, a.nodeEvent(p))
	if err := a.allocator(ctx, p); err != nil {
		return nil, err
	}
	if err := a.node(p); err != nil {
		return nil, err
	}
	if err := a.enforceReservations(p); err != nil {
		return nil, err
	}
	if p.version, err = p.cri.WaitReady(ctx); err != nil {
		return nil, err
	}
	if err := a.volumes(p); err != nil {
		return nil, err
	}
	if p.puller, err = a.newPuller(p); err != nil {
		return nil, err
	}
	if err := a.pods(ctx, p); err != nil {
		return nil, err
	}
	p.images, p.shutdown = a.collector(p), a.shutdowns(p)
	if p.evict, err = a.evictor(p); err != nil {
		return nil, err
	}
	if p.api != nil {
		err = a.nodeAPI(p)
	}
	return p, err
}

func (a *Agent) events(p *parts) {
	var api event.API
	if p.api != nil {
		api = p.api
	}
	p.events = event.New(api, "kubelet", a.cfg.NodeName, a.cfg.Log)
	p.events.Limit(float64(a.cfg.Kubelet.EventRecordQPS), int(a.cfg.Kubelet.EventBurst))
}

// nodeEvent records events about the node.
func (a *Agent) nodeEvent(p *parts) func(kind, reason, message string) {
	return func(kind, reason, message string) {
		p.events.Object(corev1.ObjectReference{Kind: "Node", Name: a.cfg.NodeName, UID: types.UID(a.cfg.NodeName)}, kind, reason, message)
	}
}

func (a *Agent) node(p *parts) error {
	k := &a.cfg.Kubelet
	_, reserved := a.reservations()
	cfg := node.Config{
		Name: a.cfg.NodeName, Addresses: a.cfg.NodeIPs, Labels: a.cfg.Labels, Taints: k.RegisterWithTaints, ProviderID: k.ProviderID, KubeletPort: int(k.Port),
		MaxPods: a.maxPods(), DataDir: a.cfg.Dirs.Data, Reserved: reserved, KubeletVersion: version.GitVersion(), Routes: !a.cfg.NoRoutes,
		LookEvery: k.NodeStatusUpdateFrequency.Duration, ReportEvery: k.NodeStatusReportFrequency.Duration, LeaseSeconds: k.NodeLeaseDurationSeconds,
		MaxImages: int(k.NodeStatusMaxImages), DontRegister: !k.RegisterNode, AttachDetach: k.EnableControllerAttachDetach,
		DeclaredFeatures: kubeletconfig.Declared(),
		Runtime:          node.CRI{Runtimes: p.cri, Store: p.cri.Images}, Devices: p.devices.Capacity, Log: a.cfg.Log, Event: a.nodeEvent(p),
		Pressure: func() (memory, disk, pids bool) {
			if p.evict == nil { // the node registers before there are pods
				return false, false, false
			}
			return p.evict.Pressure()
		},
		Faults: func() error {
			if p.shutdown == nil {
				return nil
			}
			return p.shutdown.Status()
		},
	}
	if !a.cfg.NoCNIConfig {
		cfg.CNI = node.CNIConfig{Dir: a.cfg.Dirs.CNIConfig(), StateDir: a.cfg.Dirs.CNIState(), ClusterCIDR: a.cfg.ClusterCIDR}
	}
	if p.api != nil {
		cfg.API = &node.Server{Client: p.api.client, Name: a.cfg.NodeName, LeaseSeconds: k.NodeLeaseDurationSeconds}
	}
	var err error
	p.node, err = node.New(cfg)
	return err
}

// maxPods is bounded by the CPUs too, if the configuration says so.
func (a *Agent) maxPods() int {
	most := int(a.cfg.Kubelet.MaxPods)
	if n := int(a.cfg.Kubelet.PodsPerCore) * runtime.NumCPU(); n > 0 {
		most = min(most, n)
	}
	return most
}

// idsPerPod is how many user numbers a pod with a user namespace of its own has; 0: as many as is usual.
func (a *Agent) idsPerPod() int64 {
	if n := a.cfg.Kubelet.UserNamespaces.IDsPerPod; n != nil {
		return *n
	}
	return 0
}

func (a *Agent) volumes(p *parts) error {
	cfg := volume.Config{
		PodsDir: filepath.Join(a.cfg.Dirs.Agent(), "pods"), MemoryDir: memoryDir(a.cfg.Dirs), Objects: noAPI{}, Node: p.node,
		Retry: func(uid types.UID) { p.pods.Retry(uid) }, Log: a.cfg.Log,
		Warn: func(pod *corev1.Pod, reason, message string) {
			p.events.Pod(pod, "", corev1.EventTypeWarning, reason, message)
		},
		Tally: p.meters.tally,
	}
	if p.api != nil {
		cfg.Objects, cfg.API = objects.API{Client: p.api.client}, p.api
		certs := nodeCertificates{apiServer: *p.api, uid: p.node.UID}
		cfg.Trust, cfg.Certificates = certs, certs
		cfg.KeptDir, cfg.KeepSecrets = filepath.Join(a.cfg.Dirs.Agent(), "kept"), !a.cfg.NoSecretsOnDisk
	}
	var err error
	p.volumes, err = volume.New(cfg)
	return err
}

func (a *Agent) pods(ctx context.Context, p *parts) error {
	dir := a.cfg.Dirs.Agent()
	var err error
	if p.disk, err = source.NewCheckpoint(filepath.Join(dir, "desired"), a.cfg.Log); err != nil {
		return err
	}
	users, err := userns.New(userns.Config{
		PodsDir: filepath.Join(dir, "pods"), Length: a.idsPerPod(), MaxPods: a.maxPods(), Log: a.cfg.Log,
	})
	if err != nil {
		return err
	}
	deps := podworker.Deps{
		CRI: p.cri, Images: p.puller, Volumes: p.volumes, Cgroups: timedCgroups{p.cgroups, p.meters.tally}, Node: p.node,
		Objects: p.volumes, Events: watchedEvents{p.events, p.meters.pods}, Users: users, Resources: p.allocate, Runtime: p.version.GetRuntimeName(), Tally: p.meters.tally, Log: a.cfg.Log,
		Handler: func(context.Context, string) (string, error) { return "", errStandalone },
		Gone:    func(uid types.UID) { p.source.Gone(uid) },
		Refuse:  p.refuse,
	}
	var api source.API
	if p.api != nil {
		p.statuses = status.NewWriter(ctx, p.api, a.cfg.Log)
		deps.Statuses, deps.Handler = watchedStatuses{p.statuses, p.meters.pods}, p.api.runtimeHandler
		p.services, api = source.NewServices(p.api), p.api
	} else {
		p.services = source.NewServices(nil)
	}
	deps.Services = p.services
	memory := p.node.Capacity()[corev1.ResourceMemory]
	p.pods = podworker.New(ctx, podworker.Config{
		PodLogDir: a.cfg.Kubelet.PodLogsDir, PodsDir: filepath.Join(dir, "pods"), HostsDir: a.cfg.Dirs.Hosts(), SeccompRoot: filepath.Join(dir, "seccomp"), ResolvConf: resolver(a.cfg.Kubelet.ResolverConfig),
		ClusterDNS: a.cfg.Kubelet.ClusterDNS, ClusterDomain: a.cfg.Kubelet.ClusterDomain, MemoryBytes: memory.Value(), CgroupV2: p.cgroups.V2(),
		MaxPods: a.maxPods(), AllowedSysctls: a.cfg.Kubelet.AllowedUnsafeSysctls, AppArmor: appArmor(),
		MaxBackoff: a.maxBackoff(), Tuning: a.tuning(p),
	}, deps)
	p.source = source.New(a.cfg.NodeName, api, p.pods, p.disk, a.cfg.Log)
	return nil
}

// appArmor tells whether the kernel enforces profiles.
func appArmor() bool {
	raw, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && len(raw) > 0 && raw[0] == 'Y'
}

// resolver is the node's resolver file: an empty name means that pods get no name server of the node's.
func resolver(path string) string {
	if path == "" {
		return os.DevNull
	}
	return path
}

// memoryDir is where volumes stand whose content must not reach a disk.
func memoryDir(dirs layout.Dirs) string { return filepath.Join(dirs.Run, "volumes") }
