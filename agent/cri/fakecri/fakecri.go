// Package fakecri is a small working CRI v1 runtime in memory, for tests of what stands on CRI: sandboxes and containers
// have states, IDs and events as a real runtime's, but no processes. What a container would do is told by a Script.
//
// Reads:  nothing.
// Writes: its own memory.
package fakecri

import (
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Script tells what a started container does. The zero Script runs until it is stopped.
type Script struct {
	StartErr error         // StartContainer fails
	After    time.Duration // with Exits: how long the container runs
	Exits    bool
	Code     int32
	Reason   string
	Deaf     bool // ignores the stop signal until the timeout ends
}

// Runtime is the fake. Its exported hooks are set before it serves.
type Runtime struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	runtimeapi.UnimplementedImageServiceServer

	// OnStart gives a container its script; nil means it runs for ever.
	OnStart func(*runtimeapi.ContainerConfig) Script
	// OnExec answers ExecSync; nil answers exit code 0.
	OnExec func(id string, cmd []string) (stdout string, code int32, err error)
	// OnPull answers PullImage; nil succeeds.
	OnPull func(*runtimeapi.PullImageRequest) error
	// OnSandbox may refuse RunPodSandbox.
	OnSandbox func(*runtimeapi.PodSandboxConfig) error
	// SilentEvents leaves the statuses out of events, as a runtime is allowed to.
	SilentEvents bool
	// Features are those of the default handler.
	Features *runtimeapi.RuntimeHandlerFeatures

	// Used is what statistics say of every pod's memory.
	Used uint64

	mu         sync.Mutex
	next       int
	sandboxes  map[string]*runtimeapi.PodSandboxStatus
	containers map[string]*ctr
	images     map[string]*runtimeapi.Image
	watchers   map[chan *runtimeapi.ContainerEventResponse]bool
	calls      []string
}

type ctr struct {
	*runtimeapi.ContainerStatus
	sandbox string
	config  *runtimeapi.ContainerConfig
	script  Script
	exited  chan struct{}
}

// New returns a runtime that has the given images.
func New(images ...string) *Runtime {
	r := &Runtime{
		sandboxes: map[string]*runtimeapi.PodSandboxStatus{}, containers: map[string]*ctr{},
		images: map[string]*runtimeapi.Image{}, watchers: map[chan *runtimeapi.ContainerEventResponse]bool{},
	}
	for _, i := range images {
		r.images[i] = image(i)
	}
	return r
}

func image(ref string) *runtimeapi.Image {
	return &runtimeapi.Image{Id: "sha256:" + ref, RepoTags: []string{ref}, RepoDigests: []string{ref + "@sha256:fake"}, Size: 1 << 20}
}

// Serve starts the runtime on a socket that goes with the test, and returns its endpoint.
func (r *Runtime) Serve(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cri.sock")
	stop, err := r.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return "unix://" + path
}

// Listen serves on a socket until stop is called; it may be called again then, as a runtime that restarts.
func (r *Runtime) Listen(path string) (stop func(), err error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	s := grpc.NewServer()
	runtimeapi.RegisterRuntimeServiceServer(s, r)
	runtimeapi.RegisterImageServiceServer(s, r)
	go func() { _ = s.Serve(l) }()
	return s.Stop, nil
}

// Calls returns the names of the calls that changed something, in order.
func (r *Runtime) Calls() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.calls...)
}

// Exit ends a running container, as its process would.
func (r *Runtime) Exit(id string, code int32, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.exit(id, code, reason)
}

// Find returns the IDs of the containers with that name, in order of creation.
func (r *Runtime) Find(name string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for i := 1; i <= r.next; i++ {
		if c := r.containers[id("c", i)]; c != nil && c.Metadata.Name == name {
			out = append(out, c.Id)
		}
	}
	return out
}

// Config returns the configuration a container was created with.
func (r *Runtime) Config(id string) *runtimeapi.ContainerConfig {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.containers[id]; c != nil {
		return c.config
	}
	return nil
}

// Size returns how many sandboxes and containers there are.
func (r *Runtime) Size() (sandboxes, containers int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.sandboxes), len(r.containers)
}

func id(kind string, n int) string { return fmt.Sprintf("%s%06d", kind, n) }

func notFound(id string) error { return status.Errorf(codes.NotFound, "%s not found", id) }

func (r *Runtime) exit(id string, code int32, reason string) {
	c := r.containers[id]
	if c == nil || c.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return
	}
	c.State, c.ExitCode, c.Reason, c.FinishedAt = runtimeapi.ContainerState_CONTAINER_EXITED, code, reason, time.Now().UnixNano()
	if reason == "" {
		c.Reason = map[bool]string{true: "Completed", false: "Error"}[code == 0]
	}
	close(c.exited)
	r.emit(c.sandbox, id, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
}

func (r *Runtime) emit(sandbox, id string, kind runtimeapi.ContainerEventType) {
	ev := &runtimeapi.ContainerEventResponse{ContainerId: id, ContainerEventType: kind, CreatedAt: time.Now().UnixNano()}
	if !r.SilentEvents {
		if s := r.sandboxes[sandbox]; s != nil {
			ev.PodSandboxStatus, ev.ContainersStatuses = cloneSandbox(s), r.statuses(sandbox)
		}
	}
	for w := range r.watchers {
		w <- ev
	}
}

func (r *Runtime) statuses(sandbox string) []*runtimeapi.ContainerStatus {
	var out []*runtimeapi.ContainerStatus
	for _, c := range r.containers {
		if c.sandbox == sandbox {
			out = append(out, clone(c.ContainerStatus))
		}
	}
	return out
}
