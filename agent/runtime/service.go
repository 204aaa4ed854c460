// Package runtime is Mote's CRI v1 runtime: sandboxes without a pause process, containers through libcontainer,
// streams and logs that survive its own death.
//
// A container's life, derived from its record and the kernel:
//
//	created ──StartContainer──► starting ──► running ──(process ends)──► exited ──RemoveContainer──► gone
//	   │                           │ failure: exited with 128, StartError      ▲
//	   └────── reboot or lost process, seen at restart: exited, 255 ───────────┘
//
// Reads:  CNI configuration; the image store.
// Writes: Data/runtime/state; Run/{runtime.sock,sandboxes,ctr,runc,netns,ns}; cgroups, mounts and namespaces of pods.
package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"

	"github.com/mote-edge/mote/agent/runtime/hold"
	"github.com/mote-edge/mote/agent/runtime/image"
	"github.com/mote-edge/mote/agent/runtime/network"
	"github.com/mote-edge/mote/agent/runtime/poll"
	"github.com/mote-edge/mote/agent/runtime/seccompcache"
	"github.com/mote-edge/mote/agent/runtime/spec"
	"github.com/mote-edge/mote/agent/runtime/stats"
	"github.com/mote-edge/mote/internal/dynmods"
	"github.com/mote-edge/mote/internal/footprint"
)

// Config is what the runtime runs with.
type Config struct {
	DataDir    string                    // Data/runtime
	RunDir     string                    // Run
	CNIConfDir string                    // Data/cni/net.d
	CNIBinDirs []string                  // where plugins are looked for, in order
	CNIPlugins map[string]network.Plugin // those that are called in this process, by type
	CDIDirs    []string                  // where devices are described, the more important last; empty: /etc/cdi, /run/cdi
	HoldSocket string                    // Run/hold.sock
	HoldLock   int                       // our share of the holder's lock (hold.InheritedLock), or -1
	Holder     string                    // path of mote-hold, to become it and for shared PID namespaces
	Args       []string                  // our own command line, for the same purpose
	Images     *image.Store
	Version    string
	Log        *slog.Logger
}

// Service implements the CRI RuntimeService.
type Service struct {
	cri.UnimplementedRuntimeServiceServer
	cfg      Config
	log      *slog.Logger
	host     spec.Host
	selinux  bool // pods get labels
	bootID   string
	poll     *poll.Poller
	seccomp  *seccompcache.Cache
	holder   *hold.Client // nil: nobody holds, a restart loses output
	becoming sync.Mutex
	stream   streaming.Server
	asked    sync.Map // *cri.ExecRequest by the token of the URL that it got, until that is used
	events   broadcaster
	stats    stats.Cache
	net      *network.CNI
	trim     *footprint.Trimmer
	strays   strays
	launches chan struct{} // one place for each start that may be under way

	hierarchies map[string]string // of cgroup v1
	usersState

	mu         sync.RWMutex
	sandboxes  map[string]*sandbox
	containers map[string]*container
	names      map[string]string // reserved sandbox and container names → ID
}

var _ cri.RuntimeServiceServer = (*Service)(nil)

// New finds out about the host and opens what Run needs. It starts nothing.
func New(cfg Config) (*Service, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if len(cfg.CDIDirs) == 0 {
		cfg.CDIDirs = defaultCDIDirs
	}
	for _, dir := range []string{
		filepath.Join(cfg.DataDir, "state"), filepath.Join(cfg.RunDir, "netns"), filepath.Join(cfg.RunDir, "ns"),
		filepath.Join(cfg.RunDir, "sandboxes"), filepath.Join(cfg.RunDir, "ctr"), filepath.Join(cfg.RunDir, "runc"),
	} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("runtime directory: %w", err)
		}
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("boot id: %w", err)
	}
	filters, err := seccompcache.Open(filepath.Join(cfg.RunDir, "seccomp.cache"))
	if err != nil {
		return nil, err
	}
	poller, err := poll.New()
	if err != nil {
		return nil, err
	}
	s := &Service{
		cfg: cfg, log: cfg.Log, bootID: string(boot[:36]), poll: poller, seccomp: filters, host: findHost(),
		sandboxes: map[string]*sandbox{}, containers: map[string]*container{}, names: map[string]string{},
		launches: make(chan struct{}, launchesPerCPU*goruntime.NumCPU()),
	}
	if s.hierarchies, err = hierarchies(s.host.CgroupV2); err != nil {
		cfg.Log.Warn("list cgroup v1's hierarchies; each container's start will do it", "err", err)
	}
	s.net = network.New(cfg.CNIConfDir, cfg.CNIBinDirs, filepath.Join(cfg.RunDir, "cni-cache"), cfg.CNIPlugins)
	return s, nil
}

// Run serves CRI until the context ends. Containers go on.
func (s *Service) Run(ctx context.Context, images cri.ImageServiceServer) error {
	if err := dynmods.Set(s.cfg.RunDir); err != nil {
		s.log.Info("cgroup2 has no favordynmods here; starts take some milliseconds longer", "err", err)
	}
	for _, name := range []string{"cpu", "cpuset", "memory"} {
		if !s.host.Controllers[name] {
			s.log.Warn("the kernel offers no such cgroup controller: limits of its kind have no effect", "controller", name)
		}
	}
	s.loadAppArmor()
	var err error
	if s.selinux, err = labelling(); err != nil {
		s.log.Warn("SELinux is on, but pods get no labels: install a policy for containers (container-selinux)", "err", err)
	}
	failed := make(chan error, 4)
	go func() { failed <- s.poll.Run() }()
	if err := s.connectHolder(); err != nil {
		return err
	}
	if err := s.restore(ctx); err != nil {
		return err
	}
	if err := s.startStreaming(failed); err != nil {
		return err
	}
	listener, err := ListenUnix(filepath.Join(s.cfg.RunDir, "runtime.sock"))
	if err != nil {
		return err
	}
	server := grpc.NewServer(
		grpc.MaxRecvMsgSize(32<<20), grpc.MaxSendMsgSize(64<<20),
		grpc.ReadBufferSize(8<<10), grpc.WriteBufferSize(8<<10), grpc.SharedWriteBuffer(true),
		grpc.ChainUnaryInterceptor(s.guard), grpc.ChainStreamInterceptor(s.guardStream),
	)
	cri.RegisterRuntimeServiceServer(server, s)
	cri.RegisterImageServiceServer(server, images)
	s.trim = footprint.NewTrimmer(trimAfter)
	go footprint.Breathe(ctx, gcPercent, gcWorking)
	go func() { failed <- server.Serve(listener) }()
	s.log.Info("serving CRI v1", "socket", listener.Addr().String(), "containers", len(s.containers), "sandboxes", len(s.sandboxes))
	select {
	case <-ctx.Done():
		server.Stop()
		return nil
	case err := <-failed:
		if errors.Is(err, grpc.ErrServerStopped) {
			return nil
		}
		return err
	}
}

// gcPercent is Go's own default, and gcWorking what a burst of starts may let the heap grow by at least.
const gcPercent, gcWorking = 100, 200

// trimAfter is how long after work the memory that it needed is given back.
const trimAfter = 10 * time.Second

// connectHolder dials mote-hold and watches it: when it dies, this process takes its place.
func (s *Service) connectHolder() error {
	if s.cfg.HoldSocket == "" {
		s.log.Warn("running without mote-hold: if this process dies, containers lose their output and exit codes")
		return nil
	}
	client, err := hold.Dial(s.cfg.HoldSocket)
	if err != nil {
		return err
	}
	watch, err := hold.Dial(s.cfg.HoldSocket)
	if err != nil {
		return err
	}
	client.Gone = s.becomeHolder
	s.holder = client
	return s.poll.Add(watch.FD(), s.becomeHolder)
}

// becomeHolder never returns when it succeeds: see hold.Become. Whoever finds out first that the holder is gone calls it,
// and all others who do wait: no call fails because the holder was killed.
func (s *Service) becomeHolder() {
	s.becoming.Lock()
	defer s.becoming.Unlock()
	if s.holder == nil {
		return
	}
	s.log.Warn("mote-hold died: this process becomes the holder and starts a new runtime")
	held := map[string][]int{}
	s.mu.RLock()
	for id, c := range s.containers {
		fds, thaw := c.handOver() // nothing may close them until this process is another
		defer thaw()
		if len(fds) > 0 {
			held[id] = fds
		}
	}
	s.mu.RUnlock()
	err := hold.Become(s.cfg.Holder, s.cfg.HoldSocket, s.cfg.HoldLock, held, s.cfg.Args)
	s.log.Error("could not become the holder; going on without one", "err", err)
	s.holder = nil
}

// keep hands descriptors to the holder.
func (s *Service) keep(id string, fds ...int) error {
	if s.holder == nil {
		return nil
	}
	if err := s.holder.Put(id, fds...); err != nil {
		return fmt.Errorf("keep the streams of %s: %w", id, err)
	}
	return nil
}

func (s *Service) release(id string) {
	if s.holder == nil {
		return
	}
	if err := s.holder.Delete(id); err != nil {
		s.log.Warn("release held streams", "container", id, "err", err)
	}
}

func (s *Service) sandbox(id string) (*sandbox, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if sb := byID(s.sandboxes, id); sb != nil {
		return sb, nil
	}
	return nil, fmt.Errorf("sandbox %q: %w", id, errNotFound)
}

func (s *Service) container(id string) (*container, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if c := byID(s.containers, id); c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("container %q: %w", id, errNotFound)
}

// byID finds by a full ID, or by a beginning that fits one alone: people type what crictl prints.
func byID[T any](all map[string]*T, id string) *T {
	if found := all[id]; found != nil || id == "" {
		return found
	}
	var only *T
	for full, each := range all {
		if !strings.HasPrefix(full, id) {
			continue
		}
		if only != nil {
			return nil
		}
		only = each
	}
	return only
}

// containersOf returns a sandbox's containers.
func (s *Service) containersOf(sandboxID string) []*container {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var all []*container
	for _, c := range s.containers {
		if c.rec.SandboxID == sandboxID {
			all = append(all, c)
		}
	}
	return all
}

// reserve claims a name for an ID; a name is a sandbox's or a container's metadata.
func (s *Service) reserve(name, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if owner, taken := s.names[name]; taken {
		return fmt.Errorf("name %q is reserved for %q: %w", name, owner, errExists)
	}
	s.names[name] = id
	return nil
}

func (s *Service) unreserve(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.names, name)
}
