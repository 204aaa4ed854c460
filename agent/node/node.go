// Package node is the node's own object: its registration, what it can give, its conditions, its lease; and what follows
// from its address range: the CNI configuration, and routes to the ranges of the other nodes on the same segment.
//
// Reads:  /proc, /sys, statfs; the runtime's status; Node objects.
// Writes: this Node and its Lease; <CNI dir>/10-mote.conflist; routes of protocol RouteProtocol.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// Config is all that the node needs to know.
type Config struct {
	Name           string
	Addresses      []netip.Addr // the node's addresses, the primary one first; empty: that of the default route
	Labels         map[string]string
	Taints         []corev1.Taint // given at registration
	ProviderID     string
	KubeletPort    int // of the node API, 10250
	MaxPods        int
	DataDir        string // whose file system is the ephemeral storage
	KubeletVersion string
	// Reserved is taken from the capacity before pods get it; nil: nothing.
	Reserved func(capacity corev1.ResourceList) corev1.ResourceList
	// LookEvery is how often the node looks at itself, ReportEvery how often it reports though nothing has changed; 0 means
	// ten seconds and five minutes.
	LookEvery, ReportEvery time.Duration
	LeaseSeconds           int32 // 0 means 40; renewed after a quarter
	MaxImages              int   // in the status; 0 means none, below 0 all
	DontRegister           bool  // somebody else makes the Node object
	AttachDetach           bool  // the control plane attaches volumes
	// DeclaredFeatures are what pods may need and not every node has, sorted.
	DeclaredFeatures []string

	CNI CNIConfig
	// Routes says whether to route to the other nodes' ranges.
	Routes bool

	API     API // nil: standalone; nothing is registered
	Runtime Runtime
	// Pressure tells what the node is short of; nil means nothing.
	Pressure func() (memory, disk, pids bool)
	// Devices tells what plugins add to what the node has and gives; nil means nothing. A resource that was there and is
	// gone is reported as 0: it is somebody's request still.
	Devices func() (capacity, allocatable corev1.ResourceList)
	// Faults tells what else keeps the node from being ready; nil means nothing.
	Faults func() error
	// Event records an event about the node; nil drops it.
	Event func(eventType, reason, message string)
	Log   *slog.Logger
}

// API is the API server as this node sees it. Not found is the API's own error.
type API interface {
	CreateNode(ctx context.Context, n *corev1.Node) (*corev1.Node, error)
	GetNode(ctx context.Context) (*corev1.Node, error)
	// PatchNode applies a strategic merge patch to the node, or to its status.
	PatchNode(ctx context.Context, patch []byte, subresource ...string) (*corev1.Node, error)
	// ListNodes and WatchNodes take a reflector's options as they are: it asks for a streamed list where the server has it.
	ListNodes(ctx context.Context, o metav1.ListOptions) (*corev1.NodeList, error)
	WatchNodes(ctx context.Context, o metav1.ListOptions) (watch.Interface, error)
	// RenewLease creates or renews the node's lease, owned by the Node of the given UID.
	RenewLease(ctx context.Context, n *corev1.Node) error
}

// Node keeps the node's object true. It is safe for concurrent use.
type Node struct {
	cfg   Config
	facts facts
	hosts []string
	wake  chan struct{}

	mu         sync.Mutex
	labels     map[string]string
	registered *corev1.Node // as the API server last answered; nil before registration
	images     bool         // the images changed
	// cordoned is whether the node took new pods when it was last seen; known: it was.
	cordoned, known bool
	peers           map[string]peer
	plugged         map[corev1.ResourceName]bool // resources of plugins that were reported
	gone            bool                         // somebody deleted the Node object
	ready           chan struct{}                // closed at the first Ready
}

// New reads the machine's facts. It registers nothing.
func New(cfg Config) (*Node, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.LookEvery == 0 {
		cfg.LookEvery = 10 * time.Second
	}
	if cfg.ReportEvery == 0 {
		cfg.ReportEvery = 5 * time.Minute
	}
	if cfg.LeaseSeconds == 0 {
		cfg.LeaseSeconds = 40
	}
	if cfg.Reserved == nil {
		cfg.Reserved = func(corev1.ResourceList) corev1.ResourceList { return nil }
	}
	if cfg.Devices == nil {
		cfg.Devices = func() (capacity, allocatable corev1.ResourceList) { return nil, nil }
	}
	if cfg.Event == nil {
		cfg.Event = func(string, string, string) {}
	}
	f, err := readFacts(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	if len(cfg.Addresses) == 0 {
		a, err := defaultAddress()
		if err != nil {
			return nil, err
		}
		cfg.Addresses = []netip.Addr{a}
	}
	n := &Node{cfg: cfg, facts: f, wake: make(chan struct{}, 1), peers: map[string]peer{}, plugged: map[corev1.ResourceName]bool{}, ready: make(chan struct{}), images: true}
	n.labels = n.wantLabels()
	for _, a := range cfg.Addresses {
		n.hosts = append(n.hosts, a.String())
	}
	return n, nil
}

// HostIPs returns the node's addresses, the primary one first.
func (n *Node) HostIPs() []string { return n.hosts }

// Allocatable is what the node gives to pods.
func (n *Node) Allocatable() corev1.ResourceList {
	_, a := n.resources()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.registered != nil { // what somebody else has put into the node's status: extended resources without a plugin
		for name, q := range n.registered.Status.Allocatable {
			if _, ours := a[name]; !ours && strings.Contains(string(name), "/") {
				a[name] = q
			}
		}
	}
	return a
}

// Capacity is what the node has.
func (n *Node) Capacity() corev1.ResourceList { return n.facts.capacity(n.cfg.MaxPods) }

// Labels are the node's labels as last seen.
func (n *Node) Labels() map[string]string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.labels
}

// Swap is how much swap the machine has, in bytes.
func (n *Node) Swap() int64 { return n.facts.swap }

// UID is the Node object's, empty before registration.
func (n *Node) UID() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.registered == nil {
		return ""
	}
	return string(n.registered.UID)
}

// Ready is closed once the API server has been told for the first time that the node is ready.
func (n *Node) Ready() <-chan struct{} { return n.ready }

// Poke asks for the conditions to be looked at now.
func (n *Node) Poke() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// ImagesChanged says that the runtime's images did.
func (n *Node) ImagesChanged() {
	n.mu.Lock()
	n.images = true
	n.mu.Unlock()
}

// Run registers the node and keeps its object, lease and routes true until ctx ends.
func (n *Node) Run(ctx context.Context) error {
	if n.cfg.API == nil {
		<-ctx.Done()
		return nil
	}
	if err := n.register(ctx); err != nil {
		return err
	}
	var wg sync.WaitGroup
	wg.Go(func() { n.keepLease(ctx) })
	wg.Go(func() { n.watchNodes(ctx) })
	n.keepStatus(ctx)
	wg.Wait()
	return nil
}

// register creates the Node object or adopts the one that is there, trying until it succeeds or ctx ends.
func (n *Node) register(ctx context.Context) error {
	backoff := 50 * time.Millisecond
	var last string
	for {
		got, err := n.registerOnce(ctx)
		if err == nil {
			n.mu.Lock()
			n.registered, n.labels = got, got.Labels
			n.mu.Unlock()
			n.cfg.Log.Info("node is registered", "node", n.cfg.Name)
			return nil
		}
		if ctx.Err() != nil {
			return nil
		}
		if err.Error() != last {
			last = err.Error()
			n.cfg.Log.Warn("node isn't registered yet", "node", n.cfg.Name, "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, 2*time.Second)
	}
}

func (n *Node) registerOnce(ctx context.Context) (*corev1.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	want := n.object()
	var got *corev1.Node
	var err error = apierrors.NewAlreadyExists(corev1.Resource("nodes"), n.cfg.Name)
	if !n.cfg.DontRegister {
		got, err = n.cfg.API.CreateNode(ctx, want)
	}
	if err == nil {
		n.cfg.Event(corev1.EventTypeNormal, "Starting", "Starting kubelet.")
		return got, nil
	}
	if !apierrors.IsAlreadyExists(err) {
		return nil, fmt.Errorf("register node %s: %w", n.cfg.Name, err)
	}
	if got, err = n.cfg.API.GetNode(ctx); err != nil {
		return nil, fmt.Errorf("register node %s: %w", n.cfg.Name, err)
	}
	n.cfg.Event(corev1.EventTypeNormal, "Starting", "Starting kubelet.")
	if id := got.Status.NodeInfo.BootID; id != "" && id != n.facts.bootID {
		n.cfg.Event(corev1.EventTypeWarning, "Rebooted", fmt.Sprintf("Node %s has been rebooted, boot id: %s", n.cfg.Name, n.facts.bootID))
	}
	patch := labelPatch(got.Labels, want.Labels)
	if patch == nil {
		return got, nil
	}
	if got, err = n.cfg.API.PatchNode(ctx, patch); err != nil {
		return nil, fmt.Errorf("label node %s: %w", n.cfg.Name, err)
	}
	return got, nil
}

// keepLease renews the lease after a quarter of the time for which it holds.
func (n *Node) keepLease(ctx context.Context) {
	every := time.Duration(n.cfg.LeaseSeconds) * time.Second / 4
	retry := min(2*time.Second, every)
	wait, failing := time.Duration(0), false
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		n.mu.Lock()
		owner := n.registered
		n.mu.Unlock()
		call, cancel := context.WithTimeout(ctx, every)
		err := n.cfg.API.RenewLease(call, owner)
		cancel()
		if wait = every; err != nil && ctx.Err() == nil {
			wait = retry
			if !failing {
				n.cfg.Log.Warn("lease isn't renewed: the control plane will count this node as lost", "node", n.cfg.Name, "error", err)
			}
		}
		failing = err != nil
	}
}

// Cleanup removes the routes and the CNI configuration.
func (n *Node) Cleanup() error {
	return errors.Join(CleanupRoutes(), n.cfg.CNI.Remove())
}
