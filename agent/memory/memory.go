// Package memory gives Guaranteed pods memory and huge pages of certain memory nodes: the Static policy of kubelets. What
// it gives out is accounted here and enforced by cpuset.mems.
//
// Reads:  the machine's shape; pods.
// Writes: <data>/agent/memory_manager_state.
package memory

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"github.com/mote-edge/mote/agent/cgroup"
	"github.com/mote-edge/mote/agent/checkpoint"
	"github.com/mote-edge/mote/agent/numa"
	"github.com/mote-edge/mote/agent/topology"
)

// The policies, as KubeletConfiguration spells them.
const (
	PolicyNone   = "None"
	PolicyStatic = "Static"
)

// Config is the administrator's choice.
type Config struct {
	Policy   string                      // empty: None
	Reserved map[int]corev1.ResourceList // reservedMemory, by memory node
	// Node is what is reserved on the node as a whole: systemReserved, kubeReserved, and the hard eviction threshold.
	Node    corev1.ResourceList
	Machine numa.Machine
	File    string // the checkpoint
}

// Block is memory of one kind that a container has on some nodes.
type Block struct {
	Nodes []int               `json:"numaAffinity"`
	Type  corev1.ResourceName `json:"type"`
	Size  int64               `json:"size"`
	// Taken is what of it lies on each node, less what was an ended init container's before.
	Taken map[int]int64 `json:"taken,omitempty"`
}

// table is the memory of a machine: node → kind → bytes.
type table map[int]map[corev1.ResourceName]int64

// Memory is the state of the policy. It is safe for concurrent use.
type Memory struct {
	cfg         Config
	nodes       numa.Mask
	allocatable table

	mu       sync.Mutex
	assigned map[types.UID]map[string][]Block
}

type state struct {
	PolicyName  string                           `json:"policyName"`
	Allocatable table                            `json:"allocatable,omitempty"`
	Entries     map[types.UID]map[string][]Block `json:"entries,omitempty"`
}

// New checks the configuration and reads the checkpoint.
func New(cfg Config) (*Memory, error) {
	if cfg.Policy == "" {
		cfg.Policy = PolicyNone
	}
	m := &Memory{cfg: cfg, nodes: cfg.Machine.Mask(), assigned: map[types.UID]map[string][]Block{}}
	switch cfg.Policy {
	case PolicyNone:
	case PolicyStatic:
		if err := m.reserve(); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("memory manager policy %q: give None or Static", cfg.Policy)
	}
	if err := m.restore(); err != nil {
		return nil, fmt.Errorf("could not restore state from checkpoint: %w, please drain this node and delete the memory manager checkpoint file %q before restarting Kubelet", err, cfg.File)
	}
	return m, nil
}

func isMemory(name corev1.ResourceName) bool {
	return name == corev1.ResourceMemory || strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

// reserve works out what pods may have of each node.
func (m *Memory) reserve() error {
	sum := corev1.ResourceList{}
	for node, list := range m.cfg.Reserved {
		if !m.nodes.Has(node) {
			return fmt.Errorf("the reserved memory configuration references a NUMA node %d that does not exist on this machine", node)
		}
		for name, q := range list {
			total := sum[name]
			total.Add(q)
			sum[name] = total
		}
	}
	names := slices.Collect(maps.Keys(sum))
	for name := range m.cfg.Node {
		if isMemory(name) {
			names = append(names, name)
		}
	}
	for _, name := range names {
		have, want := sum[name], m.cfg.Node[name]
		if have.Cmp(want) != 0 {
			return fmt.Errorf("reservedMemory: the total amount %q of type %q is not equal to the value %q determined by Node Allocatable feature (kubeReserved + systemReserved + evictionHard)",
				have.String(), name, want.String())
		}
	}
	if q := sum[corev1.ResourceMemory]; q.Sign() <= 0 {
		return errors.New("[memorymanager] you should specify the system reserved memory: give reservedMemory in the configuration")
	}
	m.allocatable = table{}
	for _, n := range m.cfg.Machine.Nodes {
		reserved := func(name corev1.ResourceName) int64 {
			q := m.cfg.Reserved[n.ID][name]
			return q.Value()
		}
		kinds := map[corev1.ResourceName]int64{}
		ordinary := n.Memory
		for size, count := range n.HugePages {
			name := corev1.ResourceName(corev1.ResourceHugePagesPrefix + resource.NewQuantity(size, resource.BinarySI).String())
			kinds[name] = max(size*int64(count)-reserved(name), 0)
			ordinary -= size * int64(count)
		}
		kinds[corev1.ResourceMemory] = max(ordinary-reserved(corev1.ResourceMemory), 0)
		m.allocatable[n.ID] = kinds
	}
	return nil
}

func (m *Memory) restore() error {
	if m.cfg.File == "" {
		return nil
	}
	var st state
	found, err := checkpoint.Read(m.cfg.File, &st)
	if err != nil {
		return err
	}
	if !found {
		if m.cfg.Policy == PolicyNone {
			return nil
		}
		return m.save()
	}
	if st.PolicyName != m.cfg.Policy {
		return fmt.Errorf("[memorymanager] configured policy %q differs from state checkpoint policy %q", m.cfg.Policy, st.PolicyName)
	}
	if m.cfg.Policy == PolicyNone {
		return nil
	}
	if !reflect.DeepEqual(st.Allocatable, m.allocatable) {
		return errors.New("[memorymanager] the expected machine state is different from the real one")
	}
	if st.Entries != nil {
		m.assigned = st.Entries
	}
	return nil
}

func (m *Memory) save() error {
	if m.cfg.File == "" {
		return nil
	}
	return checkpoint.Write(m.cfg.File, state{PolicyName: m.cfg.Policy, Allocatable: m.allocatable, Entries: m.assigned})
}

// Static tells whether the policy gives out memory at all.
func (m *Memory) Static() bool { return m.cfg.Policy == PolicyStatic }

// wants is what a container gets on certain nodes. Pods with resources as a whole are left to the kernel, as with
// upstream while PodLevelResourceManagers is off by default.
func (m *Memory) wants(pod *corev1.Pod, list corev1.ResourceList) map[corev1.ResourceName]int64 {
	if !m.Static() || cgroup.QOSClass(pod) != corev1.PodQOSGuaranteed {
		return nil
	}
	if r := pod.Spec.Resources; r != nil && len(r.Requests)+len(r.Limits) > 0 {
		return nil
	}
	var out map[corev1.ResourceName]int64
	for name, q := range list {
		if isMemory(name) && q.Sign() > 0 {
			if out == nil {
				out = map[corev1.ResourceName]int64{}
			}
			out[name] = q.Value()
		}
	}
	return out
}

// picture is the machine as the assignments leave it.
type picture struct {
	free   table
	busy   map[int]bool      // nodes that have assignments
	groups map[int]numa.Mask // nodes that share assignments with others
}

func (m *Memory) picture() picture {
	p := picture{free: table{}, busy: map[int]bool{}, groups: map[int]numa.Mask{}}
	for node, kinds := range m.allocatable {
		p.free[node] = maps.Clone(kinds)
	}
	for _, containers := range m.assigned {
		for _, blocks := range containers {
			for _, b := range blocks {
				for _, node := range b.Nodes {
					p.busy[node], p.groups[node] = true, numa.MaskOf(b.Nodes...)
				}
				for node, size := range b.Taken {
					p.free[node][b.Type] -= size
				}
			}
		}
	}
	return p
}

// open tells whether nodes may be given out together: a node's containers all have the same nodes, so that a container
// that is tied to one node can't be starved by one that reaches over several.
func (p picture) open(nodes numa.Mask) bool {
	for _, n := range nodes.Nodes() {
		if p.busy[n] && p.groups[n] != nodes {
			return false
		}
	}
	return true
}

func (p picture) enough(nodes numa.Mask, wants, reuse map[corev1.ResourceName]int64) bool {
	for name, size := range wants {
		free := reuse[name]
		for _, n := range nodes.Nodes() {
			free += p.free[n][name]
		}
		if free < size {
			return false
		}
	}
	return true
}

// Allocate gives a container its memory, on the hinted nodes or more. Idempotent.
func (m *Memory) Allocate(pod *corev1.Pod, container *corev1.Container, hint topology.Hint) error {
	wants := m.wants(pod, container.Resources.Requests)
	if len(wants) == 0 {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.assigned[pod.UID][container.Name] != nil {
		return nil
	}
	p := m.picture()
	reuse := func(nodes numa.Mask) map[corev1.ResourceName]int64 { return m.reusable(pod, container.Name, nodes) }
	if hint.Any {
		best, ok := bestOf(m.hints(p, wants, reuse), 0)
		switch {
		case !ok:
			return errors.New("[memorymanager] failed to get the default NUMA affinity, no NUMA nodes with enough memory is available")
		case !best.Preferred && hint.Preferred:
			return errors.New("[memorymanager] failed to find the default preferred hint")
		}
		hint = best
	}
	if !p.enough(hint.Nodes, wants, nil) && !p.enough(hint.Nodes, wants, reuse(hint.Nodes)) {
		best, ok := bestOf(m.hints(p, wants, reuse), hint.Nodes)
		switch {
		case !ok:
			return errors.New("[memorymanager] failed to find NUMA nodes to extend the current topology hint")
		case !best.Preferred && hint.Preferred:
			return errors.New("[memorymanager] failed to find the extended preferred hint")
		}
		hint = best
	}
	if !p.open(hint.Nodes) {
		return errors.New("[memorymanager] preferred hint violates NUMA node allocation")
	}
	var blocks []Block
	again := reuse(hint.Nodes)
	for _, name := range slices.Sorted(maps.Keys(wants)) {
		b := Block{Nodes: hint.Nodes.Nodes(), Type: name, Size: wants[name], Taken: map[int]int64{}}
		left := max(b.Size-again[name], 0)
		for _, n := range b.Nodes {
			if part := min(left, p.free[n][name]); part > 0 {
				b.Taken[n], left = part, left-part
			}
		}
		blocks = append(blocks, b)
	}
	if m.assigned[pod.UID] == nil {
		m.assigned[pod.UID] = map[string][]Block{}
	}
	m.assigned[pod.UID][container.Name] = blocks
	if err := m.save(); err != nil {
		delete(m.assigned[pod.UID], container.Name)
		return err
	}
	return nil
}

// reusable is the memory on these nodes that init containers had which have ended before this container starts.
func (m *Memory) reusable(pod *corev1.Pod, until string, nodes numa.Mask) map[corev1.ResourceName]int64 {
	out := map[corev1.ResourceName]int64{}
	walk := func(list []corev1.Container, init bool) bool {
		for i := range list {
			if list[i].Name == until {
				return true
			}
			ends := init && (list[i].RestartPolicy == nil || *list[i].RestartPolicy != corev1.ContainerRestartPolicyAlways)
			for _, b := range m.assigned[pod.UID][list[i].Name] {
				switch {
				case numa.MaskOf(b.Nodes...) != nodes:
				case ends:
					out[b.Type] = max(out[b.Type], b.Size)
				default:
					out[b.Type] = max(out[b.Type]-b.Size, 0)
				}
			}
		}
		return false
	}
	if !walk(pod.Spec.InitContainers, true) {
		walk(pod.Spec.Containers, false)
	}
	return out
}

// Release gives a pod's memory back; not found is fine.
func (m *Memory) Release(uid types.UID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.assigned[uid]; !ok {
		return nil
	}
	delete(m.assigned, uid)
	return m.save()
}

// Pods are those that have memory of their own.
func (m *Memory) Pods() []types.UID {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.assigned))
}

// Of is what a container has; nothing means that its memory may come from anywhere.
func (m *Memory) Of(uid types.UID, container string) []Block {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.assigned[uid][container])
}

// Nodes are the memory nodes that a container is held to, 0 for any.
func (m *Memory) Nodes(uid types.UID, container string) numa.Mask {
	var out numa.Mask
	for _, b := range m.Of(uid, container) {
		out |= numa.MaskOf(b.Nodes...)
	}
	return out
}

// Allocatable is what pods may have, a block a node and kind.
func (m *Memory) Allocatable() []Block {
	var out []Block
	for _, node := range slices.Sorted(maps.Keys(m.allocatable)) {
		for _, name := range slices.Sorted(maps.Keys(m.allocatable[node])) {
			if size := m.allocatable[node][name]; size > 0 {
				out = append(out, Block{Nodes: []int{node}, Type: name, Size: size})
			}
		}
	}
	return out
}
