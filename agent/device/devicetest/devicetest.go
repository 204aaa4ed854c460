// Package devicetest is a small device plugin: it serves devices that are files, and remembers what it was asked.
//
// Reads:  nothing.
// Writes: its socket.
package devicetest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// Plugin is one device plugin. Its fields are set before Start; calls are safe for concurrent use.
type Plugin struct {
	pluginapi.UnimplementedDevicePluginServer
	Resource string // example.com/thing
	Dir      string // the kubelet's directory of plugins
	Socket   string // the socket's name in it
	Options  pluginapi.DevicePluginOptions
	// Answer makes the answer to an allocation; nil answers with an environment variable that names the devices.
	Answer func(ids []string) (*pluginapi.ContainerAllocateResponse, error)
	// Prefer answers a question for preferred devices.
	Prefer func(available, must []string, size int) []string

	mu      sync.Mutex
	devices []*pluginapi.Device
	changed chan struct{}
	calls   []string
	server  *grpc.Server
}

var _ pluginapi.DevicePluginServer = (*Plugin)(nil)

// Device makes a device that lies on these memory nodes.
func Device(id string, healthy bool, nodes ...int64) *pluginapi.Device {
	d := &pluginapi.Device{ID: id, Health: pluginapi.Unhealthy}
	if healthy {
		d.Health = pluginapi.Healthy
	}
	if len(nodes) > 0 {
		d.Topology = &pluginapi.TopologyInfo{}
		for _, n := range nodes {
			d.Topology.Nodes = append(d.Topology.Nodes, &pluginapi.NUMANode{ID: n})
		}
	}
	return d
}

// Set replaces the devices.
func (p *Plugin) Set(devices ...*pluginapi.Device) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.devices = devices
	if p.changed != nil {
		close(p.changed)
	}
	p.changed = make(chan struct{})
}

// Calls are what the plugin was asked so far.
func (p *Plugin) Calls() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.calls)
}

func (p *Plugin) called(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls = append(p.calls, fmt.Sprintf(format, args...))
}

// Start serves the plugin.
func (p *Plugin) Start() error {
	path := filepath.Join(p.Dir, p.Socket)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	p.server = grpc.NewServer()
	pluginapi.RegisterDevicePluginServer(p.server, p)
	go func() { _ = p.server.Serve(l) }() // until Stop
	return nil
}

// Stop ends the plugin.
func (p *Plugin) Stop() { p.server.Stop() }

// Register tells the kubelet of the plugin.
func (p *Plugin) Register(ctx context.Context) error {
	conn, err := grpc.NewClient("unix://"+filepath.Join(p.Dir, "kubelet.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err = pluginapi.NewRegistrationClient(conn).Register(ctx, &pluginapi.RegisterRequest{
		Version: pluginapi.Version, Endpoint: p.Socket, ResourceName: p.Resource, Options: &p.Options,
	}, grpc.WaitForReady(true))
	return err
}

// GetDevicePluginOptions implements the plugin API.
func (p *Plugin) GetDevicePluginOptions(context.Context, *pluginapi.Empty) (*pluginapi.DevicePluginOptions, error) {
	return &p.Options, nil
}

// ListAndWatch implements the plugin API.
func (p *Plugin) ListAndWatch(_ *pluginapi.Empty, stream grpc.ServerStreamingServer[pluginapi.ListAndWatchResponse]) error {
	for {
		p.mu.Lock()
		if p.changed == nil {
			p.changed = make(chan struct{})
		}
		list, changed := p.devices, p.changed
		p.mu.Unlock()
		if err := stream.Send(&pluginapi.ListAndWatchResponse{Devices: list}); err != nil {
			return err
		}
		select {
		case <-stream.Context().Done():
			return nil
		case <-changed:
		}
	}
}

// GetPreferredAllocation implements the plugin API.
func (p *Plugin) GetPreferredAllocation(_ context.Context, req *pluginapi.PreferredAllocationRequest) (*pluginapi.PreferredAllocationResponse, error) {
	r := req.GetContainerRequests()[0]
	p.called("Prefer %v %v %d", r.GetAvailableDeviceIDs(), r.GetMustIncludeDeviceIDs(), r.GetAllocationSize())
	ids := p.Prefer(r.GetAvailableDeviceIDs(), r.GetMustIncludeDeviceIDs(), int(r.GetAllocationSize()))
	return &pluginapi.PreferredAllocationResponse{ContainerResponses: []*pluginapi.ContainerPreferredAllocationResponse{{DeviceIDs: ids}}}, nil
}

// Allocate implements the plugin API.
func (p *Plugin) Allocate(_ context.Context, req *pluginapi.AllocateRequest) (*pluginapi.AllocateResponse, error) {
	out := &pluginapi.AllocateResponse{}
	for _, r := range req.GetContainerRequests() {
		p.called("Allocate %v", r.GetDevicesIds())
		answer := &pluginapi.ContainerAllocateResponse{Envs: map[string]string{"DEVICES": strings.Join(r.GetDevicesIds(), ",")}}
		if p.Answer != nil {
			var err error
			if answer, err = p.Answer(r.GetDevicesIds()); err != nil {
				return nil, err
			}
		}
		out.ContainerResponses = append(out.ContainerResponses, answer)
	}
	return out, nil
}

// PreStartContainer implements the plugin API.
func (p *Plugin) PreStartContainer(_ context.Context, req *pluginapi.PreStartContainerRequest) (*pluginapi.PreStartContainerResponse, error) {
	p.called("PreStart %v", req.GetDevicesIds())
	return &pluginapi.PreStartContainerResponse{}, nil
}
