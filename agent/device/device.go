// Package device serves device plugins (v1beta1): it takes their registrations, keeps account of their devices, and
// gives containers the devices that they ask for as extended resources.
//
// Reads:  what plugins report; pods.
// Writes: <kubelet dir>/device-plugins: kubelet.sock and the checkpoint of what is allocated.
package device

import (
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/mote-edge/mote/agent/checkpoint"
	"github.com/mote-edge/mote/agent/meter"
	"github.com/mote-edge/mote/agent/numa"
)

// grace is how long the devices of a plugin that has gone stay in the node's capacity: the time of an upgrade.
const grace = 5 * time.Minute

// checkpointName is the file's name in the plugins' directory, as with upstream.
const checkpointName = "kubelet_internal_checkpoint"

// noNode stands for devices that lie on no memory node.
const noNode = -1

// Config is what the plugins' side of the node needs to know.
type Config struct {
	Dir   string    // device-plugins
	Nodes numa.Mask // the machine's memory nodes
	// Changed is called when the node's capacity has changed; Sick when the health of pods' devices has. They don't block.
	Changed func()
	Sick    func([]types.UID)
	Tally   *meter.Tally // nil counts nothing
	Log     *slog.Logger
}

// Plugins is the device plugins of the node and what they have given away. It is safe for concurrent use.
type Plugins struct {
	cfg   Config
	ready chan struct{} // closed when plugins can register
	turn  sync.Mutex    // one allocation at a time: it is held across calls to plugins, mu isn't

	mu        sync.Mutex
	resources map[string]*kind
	held      map[types.UID]map[string]map[string]*Allocation // pod → container → resource
}

// kind is the devices of one resource.
type kind struct {
	devices   map[string]*pluginapi.Device
	endpoints map[string]*endpoint // by socket; the last one of a resource stays when it has gone
	current   *endpoint            // who is asked; nil before the plugin has come back after a restart
	gone      time.Time            // since when nobody serves it
	expire    *time.Timer
}

// Allocation is the devices of one resource that a container has.
type Allocation struct {
	Devices  map[int][]string `json:"devices"` // by memory node; noNode for those on none
	Response []byte           `json:"response"`
}

func (a *Allocation) ids() []string {
	var out []string
	for _, ids := range a.Devices {
		out = append(out, ids...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// saved is the checkpoint. Resources that were registered are remembered so that the node goes on reporting them, as
// empty, until their plugins are back: a resource that vanishes would be forgotten by those who wait for it.
type saved struct {
	Registered []string                                        `json:"registered"`
	Pods       map[types.UID]map[string]map[string]*Allocation `json:"pods"`
}

// New reads the checkpoint. A broken one is an error: what it held may be in use.
func New(cfg Config) (*Plugins, error) {
	p := &Plugins{cfg: cfg, ready: make(chan struct{}), resources: map[string]*kind{}, held: map[types.UID]map[string]map[string]*Allocation{}}
	if p.cfg.Changed == nil {
		p.cfg.Changed = func() {}
	}
	if p.cfg.Sick == nil {
		p.cfg.Sick = func([]types.UID) {}
	}
	var s saved
	if _, err := checkpoint.Read(p.file(), &s); err != nil {
		return nil, fmt.Errorf("devices that pods have: %w: drain the node and remove the file", err)
	}
	for uid, containers := range s.Pods {
		for container, resources := range containers {
			for name, a := range resources {
				if a == nil {
					return nil, fmt.Errorf("devices that pods have: checkpoint %s: nothing said of %s of container %s in pod %s: drain the node and remove the file", p.file(), name, container, uid)
				}
			}
		}
	}
	if s.Pods != nil {
		p.held = s.Pods
	}
	for _, name := range s.Registered {
		p.lost(name, p.kind(name))
	}
	return p, nil
}

func (p *Plugins) file() string { return filepath.Join(p.cfg.Dir, checkpointName) }

// save writes the checkpoint. The lock is held.
func (p *Plugins) save() error {
	return checkpoint.Write(p.file(), saved{Registered: slices.Sorted(maps.Keys(p.resources)), Pods: p.held})
}

func (p *Plugins) kind(name string) *kind {
	k := p.resources[name]
	if k == nil {
		k = &kind{devices: map[string]*pluginapi.Device{}, endpoints: map[string]*endpoint{}}
		p.resources[name] = k
	}
	return k
}

// lost notes that nobody serves a resource: its devices count as unhealthy, and after the grace they are forgotten.
func (p *Plugins) lost(name string, k *kind) {
	k.gone = time.Now()
	for id, d := range k.devices {
		k.devices[id] = &pluginapi.Device{ID: d.ID, Health: pluginapi.Unhealthy, Topology: d.Topology}
	}
	if k.expire != nil {
		k.expire.Stop()
	}
	k.expire = time.AfterFunc(grace, func() { p.forget(name) })
}

// forget drops a resource whose plugin hasn't come back.
func (p *Plugins) forget(name string) {
	p.mu.Lock()
	k := p.resources[name]
	if k == nil || k.gone.IsZero() || time.Since(k.gone) < grace {
		p.mu.Unlock()
		return
	}
	delete(p.resources, name)
	err := p.save()
	p.mu.Unlock()
	if err != nil {
		p.cfg.Log.Warn("device plugin that has gone not forgotten on disk", "resource", name, "err", err)
	}
	p.cfg.Changed()
}

// update takes a plugin's list of devices in.
func (p *Plugins) update(name string, e *endpoint, list []*pluginapi.Device) {
	p.mu.Lock()
	k := p.resources[name]
	if k == nil || k.current != e {
		p.mu.Unlock()
		return
	}
	before := k.devices
	k.devices = make(map[string]*pluginapi.Device, len(list))
	var changed []string
	for _, d := range list {
		if old := before[d.ID]; old == nil || old.Health != d.Health {
			changed = append(changed, d.ID)
		}
		k.devices[d.ID] = d
	}
	for id := range before {
		if k.devices[id] == nil {
			changed = append(changed, id)
		}
	}
	sick := p.holders(name, changed)
	err := p.save()
	p.mu.Unlock()
	if err != nil {
		p.cfg.Log.Warn("registered device plugins not noted on disk", "err", err)
	}
	p.cfg.Changed()
	if len(sick) > 0 {
		p.cfg.Sick(sick)
	}
}

// holders are the pods that have any of these devices.
func (p *Plugins) holders(name string, ids []string) []types.UID {
	var out []types.UID
	for uid, containers := range p.held {
		for _, kinds := range containers {
			if a := kinds[name]; a != nil && slices.ContainsFunc(a.ids(), func(id string) bool { return slices.Contains(ids, id) }) {
				out = append(out, uid)
				break
			}
		}
	}
	slices.Sort(out)
	return out
}

// Capacity is what the plugins have, and what of it is healthy.
func (p *Plugins) Capacity() (capacity, allocatable corev1.ResourceList) {
	p.mu.Lock()
	defer p.mu.Unlock()
	capacity, allocatable = corev1.ResourceList{}, corev1.ResourceList{}
	for name, k := range p.resources {
		capacity[corev1.ResourceName(name)] = *resource.NewQuantity(int64(len(k.devices)), resource.DecimalSI)
		allocatable[corev1.ResourceName(name)] = *resource.NewQuantity(int64(len(k.healthy())), resource.DecimalSI)
	}
	return capacity, allocatable
}

// healthy are the devices that may be given out, in order.
func (k *kind) healthy() []string {
	var out []string
	for id, d := range k.devices {
		if d.Health == pluginapi.Healthy {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// Manages tells whether a resource is a plugin's: one that is registered, or of which something is still held.
func (p *Plugins) Manages(name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.manages(name)
}

func (p *Plugins) manages(name string) bool {
	return p.resources[name] != nil || len(p.used(name)) > 0
}

// used are the devices of a resource that pods have.
func (p *Plugins) used(name string) map[string]bool {
	out := map[string]bool{}
	for _, containers := range p.held {
		for _, kinds := range containers {
			if a := kinds[name]; a != nil {
				for _, id := range a.ids() {
					out[id] = true
				}
			}
		}
	}
	return out
}

// Release gives a pod's devices back; not found is fine.
func (p *Plugins) Release(uid types.UID) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.held[uid]; !ok {
		return nil
	}
	delete(p.held, uid)
	return p.save()
}

// Pods are those that have devices.
func (p *Plugins) Pods() []types.UID {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(maps.Keys(p.held))
}

// Held is one device that a container has, or that is there to be had.
type Held struct {
	Resource, ID string
	Nodes        []int // memory nodes
	Healthy      bool
}

// Of is the devices of a container.
func (p *Plugins) Of(uid types.UID, container string) []Held {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []Held
	kinds := p.held[uid][container]
	for _, name := range slices.Sorted(maps.Keys(kinds)) {
		for _, id := range kinds[name].ids() {
			h := Held{Resource: name, ID: id}
			for node, ids := range kinds[name].Devices {
				if node != noNode && slices.Contains(ids, id) {
					h.Nodes = append(h.Nodes, node)
				}
			}
			slices.Sort(h.Nodes)
			if k := p.resources[name]; k != nil {
				d := k.devices[id]
				h.Healthy = d != nil && d.Health == pluginapi.Healthy
			}
			out = append(out, h)
		}
	}
	return out
}

// All is every healthy device of the node.
func (p *Plugins) All() []Held {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []Held
	for _, name := range slices.Sorted(maps.Keys(p.resources)) {
		k := p.resources[name]
		for _, id := range k.healthy() {
			out = append(out, Held{Resource: name, ID: id, Nodes: nodesOf(k.devices[id]), Healthy: true})
		}
	}
	return out
}

func nodesOf(d *pluginapi.Device) []int {
	if d == nil || d.Topology == nil {
		return nil
	}
	var out []int
	for _, n := range d.Topology.Nodes {
		out = append(out, int(n.ID))
	}
	return out
}
