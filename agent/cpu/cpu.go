// Package cpu gives containers CPUs of their own: the static policy of kubelets. A container of a Guaranteed pod that
// asks for whole CPUs gets exclusive ones; all others share what is left.
//
// Reads:  the machine's shape; pods.
// Writes: <data>/agent/cpu_manager_state.
package cpu

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/cpuset"

	"github.com/mote-edge/mote/agent/cgroup"
	"github.com/mote-edge/mote/agent/checkpoint"
	"github.com/mote-edge/mote/agent/numa"
	"github.com/mote-edge/mote/agent/topology"
)

// The policies, as KubeletConfiguration spells them.
const (
	PolicyNone   = "none"
	PolicyStatic = "static"
)

// Config is the administrator's choice.
type Config struct {
	Policy  string // empty: none
	Options map[string]string
	// Reserved are the CPUs that no container gets for itself (reservedSystemCPUs). Empty: as many as ReservedMilli asks
	// for, picked by topology.
	Reserved      cpuset.CPUSet
	ReservedMilli int64 // systemReserved and kubeReserved
	Machine       numa.Machine
	File          string // the checkpoint
}

// SMTError refuses a pod under full-pcpus-only.
type SMTError struct{ message string }

func (e *SMTError) Error() string { return e.message }

// SMTReason is the admission reason of an SMTError.
const SMTReason = "SMTAlignmentError"

// CPUs is the state of the policy. It is safe for concurrent use.
type CPUs struct {
	cfg                         Config
	fullCores, strict, oneCache bool
	reserved, reservedCores     cpuset.CPUSet

	mu       sync.Mutex
	shared   cpuset.CPUSet
	assigned map[types.UID]map[string]cpuset.CPUSet
}

// state is the checkpoint; the names are upstream's.
type state struct {
	PolicyName    string                          `json:"policyName"`
	DefaultCPUSet string                          `json:"defaultCpuSet"`
	Entries       map[types.UID]map[string]string `json:"entries,omitempty"`
}

// Counts returns how many CPUs all containers share, and how many belong to one each.
func (c *CPUs) Counts() (shared, exclusive int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, containers := range c.assigned {
		for _, set := range containers {
			exclusive += set.Size()
		}
	}
	return c.shared.Size(), exclusive
}

// New checks the configuration and reads the checkpoint.
func New(cfg Config) (*CPUs, error) {
	if cfg.Policy == "" {
		cfg.Policy = PolicyNone
	}
	c := &CPUs{cfg: cfg, assigned: map[types.UID]map[string]cpuset.CPUSet{}}
	switch cfg.Policy {
	case PolicyNone:
		if len(cfg.Options) > 0 {
			return nil, errors.New("CPU manager policy none takes no policy options: leave them out, or choose the policy static")
		}
	case PolicyStatic:
		if err := c.options(); err != nil {
			return nil, err
		}
		if err := c.reserve(); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("CPU manager policy %q: give none or static", cfg.Policy)
	}
	if err := c.restore(); err != nil {
		return nil, fmt.Errorf("could not restore state from checkpoint: %w, please drain this node and delete the CPU manager checkpoint file %q before restarting Kubelet", err, cfg.File)
	}
	return c, nil
}

func (c *CPUs) options() error {
	for _, name := range slices.Sorted(maps.Keys(c.cfg.Options)) {
		on, err := strconv.ParseBool(c.cfg.Options[name])
		if err != nil {
			return fmt.Errorf("CPU manager policy option %s=%q: give true or false", name, c.cfg.Options[name])
		}
		switch name {
		case "full-pcpus-only":
			c.fullCores = on
		case "strict-cpu-reservation":
			c.strict = on
		case "prefer-align-cpus-by-uncorecache":
			c.oneCache = on
		case "distribute-cpus-across-numa", "align-by-socket", "distribute-cpus-across-cores":
			return fmt.Errorf("CPU manager policy option %s is not stable upstream, and not built here: leave it out", name)
		default:
			return fmt.Errorf("unknown CPU Manager Policy option: %q: give full-pcpus-only, strict-cpu-reservation or prefer-align-cpus-by-uncorecache", name)
		}
	}
	return nil
}

func (c *CPUs) reserve() error {
	all := c.cfg.Machine.All()
	switch c.reserved = c.cfg.Reserved; {
	case !c.reserved.IsSubsetOf(all):
		return fmt.Errorf("reserved CPUs %s: the machine has %s", c.reserved, all)
	case c.reserved.IsEmpty() && c.cfg.ReservedMilli <= 0:
		return errors.New("the static CPU manager policy requires systemReserved.cpu + kubeReserved.cpu (or reservedSystemCPUs) to be greater than zero")
	case c.reserved.IsEmpty():
		var err error
		if c.reserved, err = take(c.cfg.Machine, all, int((c.cfg.ReservedMilli+999)/1000), false); err != nil {
			return fmt.Errorf("reserve CPUs for the system: %w", err)
		}
	}
	cores := map[int]bool{}
	for _, cpu := range c.cfg.Machine.CPUs {
		if c.reserved.Contains(cpu.ID) {
			cores[cpu.Core] = true
		}
	}
	c.reservedCores = c.cfg.Machine.Where(func(cpu numa.CPU) bool { return cores[cpu.Core] })
	return nil
}

// known is what the shared pool and the assignments add up to.
func (c *CPUs) known() cpuset.CPUSet {
	if c.strict {
		return c.cfg.Machine.All().Difference(c.reserved)
	}
	return c.cfg.Machine.All()
}

func (c *CPUs) restore() error {
	c.shared = c.known()
	if c.cfg.File == "" {
		return nil
	}
	var st state
	found, err := checkpoint.Read(c.cfg.File, &st)
	if err != nil {
		return err
	}
	if !found {
		if c.cfg.Policy == PolicyNone {
			return nil // nothing to remember
		}
		return c.save()
	}
	if st.PolicyName != c.cfg.Policy {
		return fmt.Errorf("configured policy %q differs from state checkpoint policy %q", c.cfg.Policy, st.PolicyName)
	}
	if c.cfg.Policy == PolicyNone {
		return nil
	}
	if c.shared, err = parse(st.DefaultCPUSet); err != nil {
		return fmt.Errorf("could not parse default CPU set %q: %w", st.DefaultCPUSet, err)
	}
	total := c.shared
	for uid, containers := range st.Entries {
		c.assigned[uid] = map[string]cpuset.CPUSet{}
		for name, text := range containers {
			set, err := parse(text)
			if err != nil {
				return fmt.Errorf("could not parse cpuset %q for container %q in pod %q: %w", text, name, uid, err)
			}
			if both := set.Intersection(c.shared); !both.IsEmpty() {
				return fmt.Errorf("pod: %s, container: %s cpuset: %q overlaps with default cpuset %q", uid, name, set, c.shared)
			}
			c.assigned[uid][name], total = set, total.Union(set)
		}
	}
	if !total.Equals(c.known()) {
		return fmt.Errorf("current set of available CPUs %q doesn't match with CPUs in state %q", c.known(), total)
	}
	if in := c.reserved.Intersection(c.shared); c.strict && !in.IsEmpty() {
		return fmt.Errorf("some of strictly reserved cpus: %q are present in defaultCpuSet: %q", in, c.shared)
	} else if !c.strict && !in.Equals(c.reserved) {
		return fmt.Errorf("not all reserved cpus: %q are present in defaultCpuSet: %q", c.reserved, c.shared)
	}
	return nil
}

// maxCPUs is more than any kernel can be built for.
const maxCPUs = 1 << 16

// parse reads a list of CPUs. The library would make a set of as many as a damaged file says.
func parse(text string) (cpuset.CPUSet, error) {
	for _, number := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == '-' }) {
		if n, err := strconv.Atoi(number); err == nil && n >= maxCPUs {
			return cpuset.New(), fmt.Errorf("no machine has a CPU %d", n)
		}
	}
	return cpuset.Parse(text)
}

func (c *CPUs) save() error {
	if c.cfg.File == "" {
		return nil
	}
	st := state{PolicyName: c.cfg.Policy, DefaultCPUSet: c.shared.String(), Entries: map[types.UID]map[string]string{}}
	for uid, containers := range c.assigned {
		st.Entries[uid] = map[string]string{}
		for name, set := range containers {
			st.Entries[uid][name] = set.String()
		}
	}
	return checkpoint.Write(c.cfg.File, st)
}

// Static tells whether the policy gives out CPUs at all.
func (c *CPUs) Static() bool { return c.cfg.Policy == PolicyStatic }

// Exclusive is how many CPUs of its own a container of the pod gets.
func (c *CPUs) Exclusive(pod *corev1.Pod, container *corev1.Container) int {
	if !c.Static() || cgroup.QOSClass(pod) != corev1.PodQOSGuaranteed || podLevel(pod) {
		return 0
	}
	q := container.Resources.Requests[corev1.ResourceCPU]
	if q.Value()*1000 != q.MilliValue() {
		return 0
	}
	return int(q.Value())
}

// podLevel tells whether the pod has resources as a whole: those pods stay in the shared pool, as upstream's do while
// PodLevelResourceManagers is off by default.
func podLevel(pod *corev1.Pod) bool {
	return pod.Spec.Resources != nil && len(pod.Spec.Resources.Requests)+len(pod.Spec.Resources.Limits) > 0
}

// available are the CPUs that can be given away.
func (c *CPUs) available() cpuset.CPUSet { return c.shared.Difference(c.reserved) }

// Allocate gives a container its CPUs, on the hinted nodes as far as they reach. Idempotent.
func (c *CPUs) Allocate(pod *corev1.Pod, container *corev1.Container, hint topology.Hint) error {
	n := c.Exclusive(pod, container)
	if n == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.assigned[pod.UID][container.Name]; ok {
		return nil
	}
	if err := c.alignedToCores(n); err != nil {
		return err
	}
	free := c.available().Union(c.reusable(pod, container.Name))
	got := cpuset.New()
	var err error
	if !hint.Any {
		near := free.Intersection(c.cfg.Machine.In(hint.Nodes))
		if got, err = take(c.cfg.Machine, near, min(n, near.Size()), c.oneCache); err != nil {
			return err
		}
	}
	rest, err := take(c.cfg.Machine, free.Difference(got), n-got.Size(), c.oneCache)
	if err != nil {
		return err
	}
	got = got.Union(rest)
	before := c.shared
	c.shared = c.shared.Difference(got)
	if c.assigned[pod.UID] == nil {
		c.assigned[pod.UID] = map[string]cpuset.CPUSet{}
	}
	c.assigned[pod.UID][container.Name] = got
	if err := c.save(); err != nil { // what isn't on disk would be given away twice after a restart
		c.shared = before
		delete(c.assigned[pod.UID], container.Name)
		return err
	}
	return nil
}

func (c *CPUs) alignedToCores(n int) error {
	if !c.fullCores {
		return nil
	}
	threads := c.cfg.Machine.ThreadsPerCore()
	if n%threads != 0 {
		return &SMTError{fmt.Sprintf("SMT Alignment Error: requested %d cpus not multiple cpus per core = %d", n, threads)}
	}
	if have := c.shared.Difference(c.reservedCores).Size(); n > have {
		return &SMTError{fmt.Sprintf("SMT Alignment Error: not enough free physical CPUs: available physical CPUs = %d, requested CPUs = %d, CPUs per core = %d", have, n, threads)}
	}
	return nil
}

// reusable are the CPUs of the pod's init containers that have ended before this container starts: those of earlier ones,
// less what longer-lived containers took of them.
func (c *CPUs) reusable(pod *corev1.Pod, until string) cpuset.CPUSet {
	out := cpuset.New()
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if list[i].Name == until {
				return out
			}
			set, ok := c.assigned[pod.UID][list[i].Name]
			if !ok {
				continue
			}
			if p := list[i].RestartPolicy; i < len(pod.Spec.InitContainers) && &list[i] == &pod.Spec.InitContainers[i] &&
				(p == nil || *p != corev1.ContainerRestartPolicyAlways) {
				out = out.Union(set)
			} else {
				out = out.Difference(set)
			}
		}
	}
	return out
}

// Release gives a pod's CPUs back. It reports whether there were any; not found is fine.
func (c *CPUs) Release(uid types.UID) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.assigned[uid]) == 0 {
		delete(c.assigned, uid)
		return false, nil
	}
	for _, set := range c.assigned[uid] {
		c.shared = c.shared.Union(set)
	}
	delete(c.assigned, uid)
	return true, c.save()
}

// Pods are those that have CPUs of their own.
func (c *CPUs) Pods() []types.UID {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.assigned))
}

// Of is the CPUs of a container, and whether they are its own. Under the policy none it is empty: all of the node's.
func (c *CPUs) Of(uid types.UID, container string) (set cpuset.CPUSet, own bool) {
	if !c.Static() {
		return cpuset.New(), false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if set, own = c.assigned[uid][container]; own {
		return set, true
	}
	return c.shared, false
}

// HasExclusive tells whether any container of a pod has CPUs of its own: such a pod gets no CPU quota.
func (c *CPUs) HasExclusive(uid types.UID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.assigned[uid]) > 0
}

// Allocatable are the CPUs that containers can get for themselves.
func (c *CPUs) Allocatable() cpuset.CPUSet { return c.cfg.Machine.All().Difference(c.reserved) }
