package device

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/mote-edge/mote/agent/meter"
)

const (
	dialTimeout     = 10 * time.Second
	allocateTimeout = 2 * time.Minute
	preStartTimeout = pluginapi.KubeletPreStartContainerRPCTimeoutInSecs * time.Second
)

// endpoint is the connection to one plugin.
type endpoint struct {
	resource, socket string
	conn             *grpc.ClientConn
	api              pluginapi.DevicePluginClient
	options          *pluginapi.DevicePluginOptions
	stop             context.CancelFunc
}

// connect dials a plugin, asks for its options, and follows its devices from then on. A plugin that is registered anew at
// the same socket replaces the connection.
func (p *Plugins) connect(ctx context.Context, name, socket string) error {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
	if err != nil {
		return fmt.Errorf("device plugin %s at %s: %w", name, socket, err)
	}
	e := &endpoint{resource: name, socket: socket, conn: conn, api: pluginapi.NewDevicePluginClient(conn)}
	ask, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if e.options, err = e.api.GetDevicePluginOptions(ask, &pluginapi.Empty{}, grpc.WaitForReady(true)); err != nil {
		_ = conn.Close()
		return fmt.Errorf("failed to get device plugin options of %s at %s: %w", name, socket, err)
	}
	p.cfg.Tally.Add(meter.DeviceRegistrations, 1, name)
	follow, stop := context.WithCancel(context.Background())
	e.stop = stop
	p.mu.Lock()
	k := p.kind(name)
	if old := k.endpoints[socket]; old != nil {
		old.stop()
	}
	k.endpoints[socket], k.current, k.gone = e, e, time.Time{}
	if k.expire != nil {
		k.expire.Stop()
		k.expire = nil
	}
	p.mu.Unlock()
	p.cfg.Log.Info("device plugin registered", "resource", name, "socket", socket)
	go p.follow(follow, e) //nolint:contextcheck // the registration ends; the plugin is followed until it does
	return nil
}

// follow reads a plugin's devices until it ends.
func (p *Plugins) follow(ctx context.Context, e *endpoint) {
	defer func() { _ = e.conn.Close() }()
	stream, err := e.api.ListAndWatch(ctx, &pluginapi.Empty{})
	for err == nil {
		var list *pluginapi.ListAndWatchResponse
		if list, err = stream.Recv(); err == nil {
			p.update(e.resource, e, list.GetDevices())
		}
	}
	p.disconnected(e, err)
}

// disconnected notes that a plugin has ended. Another one of the same resource takes over.
func (p *Plugins) disconnected(e *endpoint, why error) {
	e.stop()
	p.mu.Lock()
	k := p.resources[e.resource]
	if k == nil || k.endpoints[e.socket] != e {
		p.mu.Unlock()
		return // replaced
	}
	delete(k.endpoints, e.socket)
	if k.current == e {
		k.current = nil
		for _, other := range k.endpoints {
			k.current = other
		}
		if k.current == nil {
			p.lost(e.resource, k)
		}
	}
	var ids []string
	for id := range k.devices {
		ids = append(ids, id)
	}
	sick := p.holders(e.resource, ids)
	p.mu.Unlock()
	p.cfg.Log.Info("device plugin disconnected", "resource", e.resource, "socket", e.socket, "reason", why)
	p.cfg.Changed()
	if len(sick) > 0 {
		p.cfg.Sick(sick)
	}
}

// disconnect ends the connection to a plugin that says it goes.
func (p *Plugins) disconnect(name, socket string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if k := p.resources[name]; k != nil && k.endpoints[socket] != nil {
		k.endpoints[socket].stop() // follow does the rest
	}
}

// stopAll ends every connection.
func (p *Plugins) stopAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range p.resources {
		if k.expire != nil {
			k.expire.Stop()
		}
		for socket, e := range k.endpoints {
			delete(k.endpoints, socket)
			e.stop()
		}
	}
}
