// Package allocate gives pods what the node has in countable pieces. It asks devices, CPUs and memory where they could
// serve a pod, lets the topology policy decide, has each give its part, and tells containers of it. Resource claims
// (DRA) are readied here too; the scheduler has decided about those.
//
// Reads:  pods.
// Writes: nothing of its own: each provider keeps its checkpoint.
package allocate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/cgroup"
	"github.com/mote-edge/mote/agent/cpu"
	"github.com/mote-edge/mote/agent/device"
	"github.com/mote-edge/mote/agent/memory"
	"github.com/mote-edge/mote/agent/meter"
	"github.com/mote-edge/mote/agent/podworker"
	"github.com/mote-edge/mote/agent/topology"
)

// Claims readies what resource claims stand for.
type Claims interface {
	// Prepare asks the drivers of the pod's claims; it is idempotent.
	Prepare(ctx context.Context, pod *corev1.Pod) error
	// Container returns the names of the CDI devices of a container's claims.
	Container(pod *corev1.Pod, c *corev1.Container) ([]string, error)
	Health(pod *corev1.Pod, container string) []corev1.ResourceStatus
	// Release tells the drivers that the pod is done with its claims; not found is success.
	Release(ctx context.Context, uid types.UID) error
	Pods() []types.UID
}

// Config are the providers. CPU and Memory are always there, with policies that may do nothing.
type Config struct {
	CPU      *cpu.CPUs
	Memory   *memory.Memory
	Devices  *device.Plugins
	Claims   Claims // nil: claims are refused
	Topology *topology.Policy
	// SharedCPUs is called when the CPUs of containers without some of their own have changed. It doesn't block.
	SharedCPUs func()
	Tally      *meter.Tally // nil counts nothing
}

// Allocator is what pod workers ask. It is safe for concurrent use.
type Allocator struct {
	cfg  Config
	turn sync.Mutex // hints and what follows from them must not be overtaken by another pod's
}

var _ podworker.Resources = (*Allocator)(nil)

// New returns an allocator over the providers.
func New(cfg Config) *Allocator { return &Allocator{cfg: cfg} }

// unexpected is the admission reason of failures that the scheduler should have foreseen.
const unexpected = "UnexpectedAdmissionError"

func containers(pod *corev1.Pod) []*corev1.Container {
	var out []*corev1.Container
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			out = append(out, &list[i])
		}
	}
	return out
}

// Wants implements podworker.Resources.
func (a *Allocator) Wants(pod *corev1.Pod) bool {
	if len(pod.Spec.ResourceClaims) > 0 || a.cfg.Memory.Static() || a.cfg.Topology.Active() {
		return true
	}
	for _, c := range containers(pod) {
		if a.cfg.CPU.Exclusive(pod, c) > 0 {
			return true
		}
		for name := range c.Resources.Limits {
			if strings.Contains(string(name), "/") && a.cfg.Devices.Manages(string(name)) {
				return true
			}
		}
	}
	return false
}

// Admit implements podworker.Resources.
func (a *Allocator) Admit(ctx context.Context, pod *corev1.Pod) (reason, message string) {
	a.turn.Lock()
	defer a.turn.Unlock()
	before, _ := a.cfg.CPU.Of("", "")
	err := a.admit(ctx, pod)
	if err != nil {
		_, cerr := a.cfg.CPU.Release(pod.UID)
		err = errors.Join(err, cerr, a.cfg.Memory.Release(pod.UID), a.cfg.Devices.Release(pod.UID))
	}
	if after, _ := a.cfg.CPU.Of("", ""); !after.Equals(before) {
		a.cfg.SharedCPUs()
	}
	var smt *cpu.SMTError
	switch {
	case err == nil:
		return "", ""
	case errors.Is(err, errTopology):
		return topology.ErrorReason, topology.ErrorMessage
	case errors.As(err, &smt):
		return cpu.SMTReason, smt.Error()
	default:
		return unexpected, fmt.Sprintf("Allocate failed due to %v, which is unexpected", err)
	}
}

var errTopology = errors.New(topology.ErrorMessage)

func (a *Allocator) admit(ctx context.Context, pod *corev1.Pod) (err error) {
	p := a.cfg.Topology
	hint := topology.Hint{Any: true}
	var ok bool
	if p.Active() {
		begin := time.Now()
		a.cfg.Tally.Add(meter.Alignments, 1)
		defer func() {
			if errors.Is(err, errTopology) {
				a.cfg.Tally.Add(meter.AlignmentsFailed, 1)
			}
			a.cfg.Tally.Observe(meter.AlignmentMillis, float64(time.Since(begin).Microseconds())/1000)
		}()
	}
	if p.Active() && p.PodScope() {
		if hint, ok = p.Merge([]topology.Hints{a.cfg.Devices.PodHints(pod), a.cfg.CPU.PodHints(pod), a.cfg.Memory.PodHints(pod)}); !ok {
			return errTopology
		}
	}
	for _, c := range containers(pod) {
		if p.Active() && !p.PodScope() {
			if hint, ok = p.Merge([]topology.Hints{a.cfg.Devices.ContainerHints(pod, c), a.cfg.CPU.ContainerHints(pod, c), a.cfg.Memory.ContainerHints(pod, c)}); !ok {
				return errTopology
			}
		}
		if err := a.cfg.Devices.Allocate(ctx, pod, c, hint); err != nil {
			return err
		}
		if err := a.counted(a.cfg.CPU.Exclusive(pod, c) > 0, meter.CPUPins, meter.CPUPinsFailed, a.cfg.CPU.Allocate(pod, c, hint)); err != nil {
			return err
		}
		pins := a.cfg.Memory.Static() && cgroup.QOSClass(pod) == corev1.PodQOSGuaranteed
		if err := a.counted(pins, meter.MemoryPins, meter.MemoryPinsFailed, a.cfg.Memory.Allocate(pod, c, hint)); err != nil {
			return err
		}
	}
	return nil
}

// counted counts an allocation that pins a container, and its failure.
func (a *Allocator) counted(pins bool, all, failed meter.Metric, err error) error {
	if pins {
		a.cfg.Tally.Add(all, 1)
		if err != nil {
			a.cfg.Tally.Add(failed, 1)
		}
	}
	return err
}

// Prepare implements podworker.Resources.
func (a *Allocator) Prepare(ctx context.Context, pod *corev1.Pod) error {
	if len(pod.Spec.ResourceClaims) == 0 && pod.Status.ExtendedResourceClaimStatus == nil {
		return nil
	}
	if a.cfg.Claims == nil {
		return errors.New("a node without an API server serves no resource claims: take resourceClaims out of the manifest")
	}
	return a.cfg.Claims.Prepare(ctx, pod)
}

// Container implements podworker.Resources.
func (a *Allocator) Container(ctx context.Context, pod *corev1.Pod, c *corev1.Container, cfg *runtimeapi.ContainerConfig) error {
	if cfg.Linux != nil && cfg.Linux.Resources != nil {
		a.Limits(pod, c, cfg.Linux.Resources)
	}
	g, err := a.cfg.Devices.Prepare(ctx, pod, c)
	if err != nil {
		return err
	}
	if a.cfg.Claims != nil {
		names, err := a.cfg.Claims.Container(pod, c)
		if err != nil {
			return err
		}
		for _, name := range names {
			if !slices.ContainsFunc(g.CDI, func(d *runtimeapi.CDIDevice) bool { return d.GetName() == name }) {
				g.CDI = append(g.CDI, &runtimeapi.CDIDevice{Name: name})
			}
		}
	}
	cfg.Envs = append(slices.Clip(g.Env), cfg.Envs...) // the pod's own variables win
	cfg.Mounts = append(cfg.Mounts, g.Mounts...)
	cfg.Devices = append(cfg.Devices, g.Devices...)
	cfg.CDIDevices = append(cfg.CDIDevices, g.CDI...)
	for _, k := range slices.Sorted(maps.Keys(g.Annotations)) {
		if cfg.Annotations == nil {
			cfg.Annotations = map[string]string{}
		}
		if _, ok := cfg.Annotations[k]; !ok {
			cfg.Annotations[k] = g.Annotations[k]
		}
	}
	return nil
}

// Limits implements podworker.Resources. CPUs of one's own come without a quota: it would only throttle what nobody else
// may use.
func (a *Allocator) Limits(pod *corev1.Pod, c *corev1.Container, r *runtimeapi.LinuxContainerResources) {
	if set, own := a.cfg.CPU.Of(pod.UID, c.Name); !set.IsEmpty() {
		r.CpusetCpus = set.String()
		if own && r.CpuQuota > 0 {
			r.CpuQuota = -1
		}
	}
	if nodes := a.cfg.Memory.Nodes(pod.UID, c.Name); nodes != 0 {
		r.CpusetMems = nodes.String()
	}
}

// MayResize implements podworker.Resources: what was given out for good isn't given anew while the pod runs.
func (a *Allocator) MayResize(pod *corev1.Pod) string {
	switch {
	case cgroup.QOSClass(pod) != corev1.PodQOSGuaranteed:
		return ""
	case a.cfg.CPU.Static():
		return fmt.Sprintf("Resize is infeasible for Guaranteed Pods alongside CPU Manager policy %q", cpu.PolicyStatic)
	case a.cfg.Memory.Static():
		return fmt.Sprintf("Resize is infeasible for Guaranteed Pods alongside Memory Manager policy %q", memory.PolicyStatic)
	}
	return ""
}

// Health implements podworker.Resources.
func (a *Allocator) Health(pod *corev1.Pod, container string) []corev1.ResourceStatus {
	out := a.cfg.Devices.Health(pod.UID, container)
	if a.cfg.Claims != nil {
		out = append(out, a.cfg.Claims.Health(pod, container)...)
	}
	return out
}

// Release implements podworker.Resources.
func (a *Allocator) Release(ctx context.Context, uid types.UID) error {
	changed, err := a.cfg.CPU.Release(uid)
	if changed {
		a.cfg.SharedCPUs()
	}
	errs := []error{err, a.cfg.Memory.Release(uid), a.cfg.Devices.Release(uid)}
	if a.cfg.Claims != nil {
		errs = append(errs, a.cfg.Claims.Release(ctx, uid))
	}
	return errors.Join(errs...)
}

// Pods implements podworker.Resources.
func (a *Allocator) Pods() ([]types.UID, error) {
	out := slices.Concat(a.cfg.CPU.Pods(), a.cfg.Memory.Pods(), a.cfg.Devices.Pods())
	if a.cfg.Claims != nil {
		out = append(out, a.cfg.Claims.Pods()...)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}
