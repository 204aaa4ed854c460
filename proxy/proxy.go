package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mote-edge/mote/internal/iptables"
	"github.com/mote-edge/mote/internal/kubeclient"
	"github.com/mote-edge/mote/proxy/route"
	"github.com/mote-edge/mote/proxy/rules"
	"github.com/mote-edge/mote/proxy/snapshot"
)

// Config says what the proxy serves, and where.
type Config struct {
	Client   *kubeclient.Client
	NodeName string
	// ClusterCIDR is the range of all pods, ServiceCIDR that of cluster IPs.
	ClusterCIDR, ServiceCIDR netip.Prefix
	// DNSAddress is the cluster DNS address, answered on every node. The zero value turns cluster DNS off.
	DNSAddress netip.Addr
	// ClusterDomain is the DNS suffix of the cluster; "cluster.local" if empty.
	ClusterDomain string
	// ResolvConf names the file with the servers that other names are asked of; "/etc/resolv.conf" if empty.
	ResolvConf string
	// MinInterval is the least time between two rule changes; 100 ms if 0.
	MinInterval time.Duration
	// Checkpoint names the file in which the snapshot outlives this process, so that names resolve after a restart while
	// the API server is away. It should not outlive the node's uptime: pods have other addresses then. Empty is none.
	Checkpoint string
	// OnFlush, if set, is called when another program has removed rules: the place to mend those of others.
	OnFlush func(ctx context.Context)
}

// Validate reports the first field that cannot be used.
func (c *Config) Validate() error {
	switch {
	case c.Client == nil:
		return errors.New("service proxy: no API client")
	case c.NodeName == "":
		return errors.New("service proxy: no node name")
	case !c.ClusterCIDR.IsValid() || !c.ClusterCIDR.Addr().Is4():
		return fmt.Errorf("service proxy: cluster CIDR %s is not an IPv4 range: set --cluster-cidr, as in 10.42.0.0/16", c.ClusterCIDR)
	case !c.ServiceCIDR.IsValid() || !c.ServiceCIDR.Addr().Is4():
		return fmt.Errorf("service proxy: service CIDR %s is not an IPv4 range: set --service-cidr, as in 10.43.0.0/16", c.ServiceCIDR)
	case c.DNSAddress.IsValid() && !c.ServiceCIDR.Contains(c.DNSAddress):
		return fmt.Errorf("cluster DNS: address %s is outside of the service CIDR %s: set --cluster-dns to an address in it", c.DNSAddress, c.ServiceCIDR)
	}
	return nil
}

// Proxy is the service proxy of one node.
type Proxy struct {
	cfg   Config
	store *snapshot.Store

	mu    sync.Mutex
	dirty map[snapshot.Name]struct{}
	wake  chan struct{}
	// unsaved wakes the keeper of the checkpoint.
	unsaved chan struct{}
	// flushed is set when the kernel no longer holds what was applied.
	flushed atomic.Bool
}

// New returns a proxy that does nothing until Run.
func New(cfg Config) (*Proxy, error) {
	if cfg.ClusterDomain == "" {
		cfg.ClusterDomain = "cluster.local"
	}
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = "/etc/resolv.conf"
	}
	if cfg.MinInterval == 0 {
		cfg.MinInterval = 100 * time.Millisecond
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	p := &Proxy{cfg: cfg, store: snapshot.NewStore(cfg.NodeName), dirty: map[snapshot.Name]struct{}{}, wake: make(chan struct{}, 1), unsaved: make(chan struct{}, 1)}
	p.store.OnChange(p.changed)
	return p, nil
}

// Run serves until ctx ends. A failure to set rules is logged and retried with back-off, for as long as it takes: the
// node's other work goes on.
func (p *Proxy) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	p.restore(ctx)
	wg.Go(func() { snapshot.Watch(ctx, p.cfg.Client, p.store) })
	if p.cfg.DNSAddress.IsValid() {
		wg.Go(func() { p.runDNS(ctx) })
	}
	if err := route.Ensure(p.cfg.ServiceCIDR); err != nil {
		slog.WarnContext(ctx, "services are out of reach of this node's own processes while it has no default route", "error", err)
	}
	select {
	case <-ctx.Done():
		return nil
	case <-p.store.Ready():
	}
	wg.Go(func() { p.guard(ctx) })
	wg.Go(func() { p.keepCheckpoint(ctx) })
	p.loop(ctx)
	return nil
}

// changed notes what to look at again.
func (p *Proxy) changed(services []snapshot.Name) {
	p.mu.Lock()
	for _, n := range services {
		p.dirty[n] = struct{}{}
	}
	p.mu.Unlock()
	for _, wake := range []chan struct{}{p.wake, p.unsaved} {
		select {
		case wake <- struct{}{}:
		default: // it is awake
		}
	}
}

func (p *Proxy) take() map[snapshot.Name]struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	dirty := p.dirty
	p.dirty = map[snapshot.Name]struct{}{}
	return dirty
}

// Back-off of the rules after a failure.
const (
	retryFirst = time.Second
	retryMost  = 30 * time.Second
)

func (p *Proxy) loop(ctx context.Context) {
	var s *syncer
	defer func() {
		if s != nil {
			s.health.close()
		}
	}()
	retry := time.Duration(0)
	for {
		started := time.Now()
		dirty := p.take()
		err := func() error {
			if s == nil {
				run, err := p.program()
				if err != nil {
					return err
				}
				s = p.newSyncer(run)
			}
			if p.flushed.Swap(false) {
				s.apply.forget()
			}
			return s.sync(ctx, dirty)
		}()
		pause := p.cfg.MinInterval - time.Since(started)
		if err != nil && ctx.Err() == nil {
			retry = min(max(2*retry, retryFirst), retryMost)
			pause = retry
			slog.ErrorContext(ctx, "services may not be reachable from this node: rules are not set", "error", err, "retryIn", retry)
			names := make([]snapshot.Name, 0, len(dirty))
			for n := range dirty {
				names = append(names, n)
			}
			p.changed(names) // wakes the loop after the pause
		} else {
			retry = 0
		}
		if !sleep(ctx, pause) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		}
	}
}

func (p *Proxy) program() (ruleProgram, error) { return iptables.Find() }

func (p *Proxy) newSyncer(program ruleProgram) *syncer {
	cfg := rules.Config{ClusterCIDR: p.cfg.ClusterCIDR, ServiceCIDR: p.cfg.ServiceCIDR}
	if p.cfg.DNSAddress.IsValid() {
		cfg.LocalVIPs = append(cfg.LocalVIPs, p.cfg.DNSAddress)
	}
	return newSyncer(cfg, p.cfg.NodeName, p.store, program)
}

func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// Cleanup takes away all rules of the proxy, the cluster DNS address and its route. What is not there is not an error.
func Cleanup(ctx context.Context, dnsAddress netip.Addr) error {
	return errors.Join(iptables.RemoveChains(ctx, rules.OwnChain), route.Cleanup(), releaseDNSAddress(dnsAddress))
}
