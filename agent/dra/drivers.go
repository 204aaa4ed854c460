package dra

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/apimachinery/pkg/types"
	draapi "k8s.io/kubelet/pkg/apis/dra/v1"
)

const (
	// callTimeout bounds a driver's work on the claims of one pod, as upstream's.
	callTimeout = 45 * time.Second
	// wipeAfter is how long a driver may be away before what it published of this node is deleted: the time of an update.
	wipeAfter = 30 * time.Second
)

// driver is one registered instance of a driver; during an update there are two.
type driver struct {
	name, endpoint string
	conn           *grpc.ClientConn
	api            draapi.DRAPluginClient
	stop           context.CancelFunc
	connected      bool
	health         string // the service that tells it
}

// Drivers are the node's registered drivers. It is safe for concurrent use.
type Drivers struct {
	ctx context.Context // of Run
	cfg Config
	log *slog.Logger

	mu    sync.Mutex
	known map[string][]*driver // by name, the newest last
	wipes map[string]*time.Timer
	// What drivers said of their devices' health, and when the first of it is stale.
	healths map[string]map[deviceID]health
	stale   map[string]*time.Timer
	users   func(driver string, devices []deviceID) []types.UID
}

// Validate implements plugin.Handler.
func (d *Drivers) Validate(name, endpoint string, services []string) error {
	if !slices.Contains(services, draapi.DRAPluginService) {
		return fmt.Errorf("invalid supported gRPC versions of DRA driver plugin %s at endpoint %s: none of services supported by the plugin (%q) are supported by the kubelet (%q)",
			name, endpoint, services, []string{draapi.DRAPluginService})
	}
	return nil
}

// Register implements plugin.Handler.
func (d *Drivers) Register(_ context.Context, name, endpoint string, services []string) error {
	if err := d.Validate(name, endpoint, services); err != nil {
		return err
	}
	conn, err := grpc.NewClient("unix:"+endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithIdleTimeout(0))
	if err != nil {
		return fmt.Errorf("create gRPC connection to DRA driver %s plugin at endpoint %s: %w", name, endpoint, err)
	}
	d.mu.Lock()
	if slices.ContainsFunc(d.known[name], func(o *driver) bool { return o.endpoint == endpoint }) {
		d.mu.Unlock()
		_ = conn.Close()
		return fmt.Errorf("endpoint %s already registered for DRA driver plugin %s", endpoint, name)
	}
	ctx, stop := context.WithCancel(d.ctx)
	n := &driver{name: name, endpoint: endpoint, conn: conn, api: draapi.NewDRAPluginClient(conn), stop: stop, health: healthService(services)}
	d.known[name] = append(d.known[name], n)
	d.mu.Unlock()
	go d.follow(ctx, n) //nolint:contextcheck // of Run: the registration ends before the driver does
	if n.health != "" {
		go d.watchHealth(ctx, n) //nolint:contextcheck // likewise
	}
	d.cfg.Registered()
	return nil
}

// follow notes whether an instance can be reached, and connects again when it can't: a driver that was killed leaves its
// socket behind.
func (d *Drivers) follow(ctx context.Context, n *driver) {
	defer func() { _ = n.conn.Close() }()
	for state := n.conn.GetState(); ; state = n.conn.GetState() {
		if state == connectivity.Idle {
			n.conn.Connect()
		}
		d.mu.Lock()
		n.connected = state == connectivity.Ready
		d.wipeUnlessUsable(n.name) //nolint:contextcheck // a timer, which outlives whoever sets it
		d.mu.Unlock()
		if !n.conn.WaitForStateChange(ctx, state) {
			return
		}
	}
}

// Deregister implements plugin.Handler.
func (d *Drivers) Deregister(name, endpoint string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := slices.IndexFunc(d.known[name], func(o *driver) bool { return o.endpoint == endpoint })
	if i < 0 {
		return
	}
	d.known[name][i].stop()
	d.known[name] = slices.Delete(d.known[name], i, i+1)
	if len(d.known[name]) == 0 {
		delete(d.known, name)
	}
	d.wipeUnlessUsable(name)
}

// usable tells whether an instance of a driver can be reached. The lock is held.
func (d *Drivers) usable(name string) bool {
	return slices.ContainsFunc(d.known[name], func(o *driver) bool { return o.connected })
}

// wipeUnlessUsable has what a driver published deleted after a while without it. The lock is held.
func (d *Drivers) wipeUnlessUsable(name string) {
	timer := d.wipes[name]
	if d.usable(name) {
		if timer != nil {
			timer.Stop()
			delete(d.wipes, name)
		}
		return
	}
	if timer == nil && d.cfg.API != nil {
		d.wipes[name] = time.AfterFunc(wipeAfter, func() { d.wipe(name) })
	}
}

func (d *Drivers) wipe(name string) {
	d.mu.Lock()
	delete(d.wipes, name)
	usable := d.usable(name)
	d.mu.Unlock()
	if usable || d.ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(d.ctx, callTimeout)
	defer cancel()
	if err := d.cfg.API.DeleteSlices(ctx, name); err != nil && d.ctx.Err() == nil {
		d.log.Warn("resource slices of a driver that has left not deleted, trying again", "driver", name, "err", err)
		d.mu.Lock()
		d.wipeUnlessUsable(name)
		d.mu.Unlock()
		return
	}
	d.log.Info("resource slices of a driver that has left are deleted", "driver", name)
}

// Run deletes, a while after the start, what drivers published that are no longer there; and ends the connections with
// ctx.
func (d *Drivers) Run(ctx context.Context) error {
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, list := range d.known {
			for _, n := range list {
				n.stop()
			}
		}
		for _, t := range d.wipes {
			t.Stop()
		}
		for _, t := range d.stale {
			t.Stop()
		}
	}()
	if d.cfg.API == nil {
		<-ctx.Done()
		return nil
	}
	for wait := wipeAfter; ; wait = 5 * time.Minute {
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
		names, err := d.cfg.API.SliceDrivers(ctx)
		if err != nil {
			continue // no API server yet: later
		}
		d.mu.Lock()
		for _, name := range names {
			d.wipeUnlessUsable(name) //nolint:contextcheck // likewise
		}
		d.mu.Unlock()
		<-ctx.Done()
		return nil
	}
}

// get is the instance to ask: the newest that can be reached, or the newest.
func (d *Drivers) get(name string) (draapi.DRAPluginClient, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := d.known[name]
	if len(list) == 0 {
		return nil, fmt.Errorf("DRA driver %s is not registered", name)
	}
	for _, n := range slices.Backward(list) {
		if n.connected {
			return n.api, nil
		}
	}
	return list[len(list)-1].api, nil
}
