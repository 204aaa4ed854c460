// Package podresources serves the pod resources API (v1) to the node's monitoring agents: which pods have which devices,
// CPUs, memory and claims.
//
// Reads:  the allocations of the node's pods.
// Writes: <kubelet dir>/pod-resources/kubelet.sock.
package podresources

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	api "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/mote-edge/mote/agent/cpu"
	"github.com/mote-edge/mote/agent/device"
	"github.com/mote-edge/mote/agent/dra"
	"github.com/mote-edge/mote/agent/memory"
)

// Upstream's bound on how often clients may ask, per second.
const (
	rate  = 100
	burst = 10
)

// Pods are the node's pods.
type Pods interface {
	Pods() []*corev1.Pod
	Pod(namespace, name string) (*corev1.Pod, bool)
}

// Config is what the server tells of.
type Config struct {
	Dir     string // pod-resources
	Pods    Pods
	CPUs    *cpu.CPUs
	Memory  *memory.Memory
	Devices *device.Plugins
	Claims  *dra.Claims // nil: none
}

// Server serves one node.
type Server struct {
	api.UnimplementedPodResourcesListerServer
	cfg Config
}

var _ api.PodResourcesListerServer = (*Server)(nil)

// New returns a server. It starts nothing.
func New(cfg Config) *Server { return &Server{cfg: cfg} }

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	if err := os.MkdirAll(s.cfg.Dir, 0o750); err != nil {
		return fmt.Errorf("directory of the pod resources API: %w", err)
	}
	socket := filepath.Join(s.cfg.Dir, "kubelet.sock")
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("socket of the pod resources API: %w", err)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("socket of the pod resources API %s: %w", socket, err)
	}
	g := grpc.NewServer(grpc.ChainUnaryInterceptor(limit()))
	api.RegisterPodResourcesListerServer(g, s)
	stop := context.AfterFunc(ctx, g.Stop)
	defer stop()
	if err := g.Serve(l); err != nil && ctx.Err() == nil {
		return fmt.Errorf("socket of the pod resources API %s: %w", socket, err)
	}
	return nil
}

// limit refuses clients that ask too often: a token bucket.
func limit() grpc.UnaryServerInterceptor {
	var mu sync.Mutex
	tokens, last := float64(burst), time.Now()
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		mu.Lock()
		now := time.Now()
		tokens, last = min(tokens+rate*now.Sub(last).Seconds(), burst), now
		ok := tokens >= 1
		if ok {
			tokens--
		}
		mu.Unlock()
		if !ok {
			return nil, status.Error(codes.ResourceExhausted, "rejected by rate limit")
		}
		return next(ctx, req)
	}
}

// List implements the pod resources API: what pods that haven't ended have.
func (s *Server) List(context.Context, *api.ListPodResourcesRequest) (*api.ListPodResourcesResponse, error) {
	out := &api.ListPodResourcesResponse{}
	for _, pod := range s.cfg.Pods.Pods() {
		if pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
			out.PodResources = append(out.PodResources, s.of(pod))
		}
	}
	return out, nil
}

// Get implements the pod resources API.
func (s *Server) Get(_ context.Context, req *api.GetPodResourcesRequest) (*api.GetPodResourcesResponse, error) {
	pod, ok := s.cfg.Pods.Pod(req.GetPodNamespace(), req.GetPodName())
	if !ok {
		return nil, fmt.Errorf("pod %s in namespace %s not found", req.GetPodName(), req.GetPodNamespace())
	}
	return &api.GetPodResourcesResponse{PodResources: s.of(pod)}, nil
}

// GetAllocatableResources implements the pod resources API.
func (s *Server) GetAllocatableResources(context.Context, *api.AllocatableResourcesRequest) (*api.AllocatableResourcesResponse, error) {
	out := &api.AllocatableResourcesResponse{Devices: devices(s.cfg.Devices.All()), Memory: blocks(s.cfg.Memory.Allocatable())}
	for _, id := range s.cfg.CPUs.Allocatable().List() {
		out.CpuIds = append(out.CpuIds, int64(id))
	}
	return out, nil
}

func (s *Server) of(pod *corev1.Pod) *api.PodResources {
	out := &api.PodResources{Name: pod.Name, Namespace: pod.Namespace}
	for i := range pod.Spec.InitContainers {
		if p := pod.Spec.InitContainers[i].RestartPolicy; p != nil && *p == corev1.ContainerRestartPolicyAlways {
			out.Containers = append(out.Containers, s.container(pod, &pod.Spec.InitContainers[i]))
		}
	}
	for i := range pod.Spec.Containers {
		out.Containers = append(out.Containers, s.container(pod, &pod.Spec.Containers[i]))
	}
	return out
}

func (s *Server) container(pod *corev1.Pod, c *corev1.Container) *api.ContainerResources {
	out := &api.ContainerResources{Name: c.Name, Devices: devices(s.cfg.Devices.Of(pod.UID, c.Name)), Memory: blocks(s.cfg.Memory.Of(pod.UID, c.Name))}
	if set, own := s.cfg.CPUs.Of(pod.UID, c.Name); own {
		for _, id := range set.List() {
			out.CpuIds = append(out.CpuIds, int64(id))
		}
	}
	if s.cfg.Claims == nil {
		return out
	}
	for _, claim := range s.cfg.Claims.Of(pod, c) {
		r := &api.DynamicResource{ClaimName: claim.Claim, ClaimNamespace: claim.Namespace}
		for _, driver := range slices.Sorted(maps.Keys(claim.Devices)) {
			for _, d := range claim.Devices[driver] {
				cr := &api.ClaimResource{DriverName: driver, PoolName: d.Pool, DeviceName: d.Name}
				for _, id := range d.CDI {
					cr.CdiDevices = append(cr.CdiDevices, &api.CDIDevice{Name: id})
				}
				r.ClaimResources = append(r.ClaimResources, cr)
			}
		}
		out.DynamicResources = append(out.DynamicResources, r)
	}
	return out
}

// devices are grouped by resource and place, as upstream does.
func devices(list []device.Held) []*api.ContainerDevices {
	var out []*api.ContainerDevices
	index := map[string]int{}
	for _, d := range list {
		key := fmt.Sprint(d.Resource, d.Nodes)
		i, ok := index[key]
		if !ok {
			i = len(out)
			index[key] = i
			out = append(out, &api.ContainerDevices{ResourceName: d.Resource, Topology: nodes(d.Nodes)})
		}
		out[i].DeviceIds = append(out[i].DeviceIds, d.ID)
	}
	return out
}

func blocks(list []memory.Block) []*api.ContainerMemory {
	var out []*api.ContainerMemory
	for _, b := range list {
		out = append(out, &api.ContainerMemory{MemoryType: string(b.Type), Size: uint64(b.Size), Topology: nodes(b.Nodes)})
	}
	return out
}

func nodes(ids []int) *api.TopologyInfo {
	if len(ids) == 0 {
		return nil
	}
	out := &api.TopologyInfo{}
	for _, id := range ids {
		out.Nodes = append(out.Nodes, &api.NUMANode{ID: int64(id)})
	}
	return out
}
