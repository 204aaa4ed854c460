package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/mote-edge/mote/agent/cgroup"
	"github.com/mote-edge/mote/agent/criconfig"
	"github.com/mote-edge/mote/agent/evict"
	"github.com/mote-edge/mote/agent/kubeletconfig"
)

// kernelDefaults are what kubelets want of the kernel.
var kernelDefaults = map[string]string{
	"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
	"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
}

// checkMachine says what the configuration forbids about this machine, a line for each.
func checkMachine(k *kubeletconfig.Configuration, cgroups *cgroup.Tree) error {
	var errs []error
	if k.FailCgroupV1 && !cgroups.V2() {
		errs = append(errs, errors.New("failCgroupV1: this machine has cgroup v1: boot it with systemd.unified_cgroup_hierarchy=1, or remove the field"))
	}
	if b, err := os.ReadFile("/proc/swaps"); k.FailSwapOn && err == nil && strings.Count(strings.TrimSpace(string(b)), "\n") > 0 {
		errs = append(errs, errors.New("failSwapOn: this machine has swap: swapoff -a, or set the field to false"))
	}
	if k.ProtectKernelDefaults {
		for name, want := range kernelDefaults {
			if b, err := os.ReadFile("/proc/sys/" + name); err == nil && strings.TrimSpace(string(b)) != want {
				errs = append(errs, fmt.Errorf("protectKernelDefaults: %s is %s: sysctl -w %[1]s=%s", strings.ReplaceAll(name, "/", "."), strings.TrimSpace(string(b)), want))
			}
		}
	}
	return errors.Join(errs...)
}

// settle gives this process what the configuration asks for it. What the kernel refuses is said in an event, once.
func settle(k *kubeletconfig.Configuration, event func(kind, reason, message string)) {
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(int(k.OOMScoreAdj))), 0); err != nil {
		event(corev1.EventTypeWarning, "OOMScoreNotSet", fmt.Sprintf("oom_score_adj %d is refused by the kernel (it needs CAP_SYS_RESOURCE): the agent may be killed before its pods are", k.OOMScoreAdj))
	}
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil || limit.Max >= uint64(k.MaxOpenFiles) {
		return
	}
	limit = syscall.Rlimit{Cur: uint64(k.MaxOpenFiles), Max: uint64(k.MaxOpenFiles)}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil && k.MaxOpenFiles != kubeletconfig.Default().MaxOpenFiles {
		event(corev1.EventTypeWarning, "MaxOpenFilesNotSet", fmt.Sprintf("maxOpenFiles %d is refused by the kernel (it needs CAP_SYS_RESOURCE): set LimitNOFILE= in the systemd unit", k.MaxOpenFiles))
	}
}

// reservations are what pods don't get: set aside for the system and for the node's own processes, and, as what is
// allocatable is concerned, what must stay free lest pods be evicted.
func (a *Agent) reservations() (enforced, all func(corev1.ResourceList) corev1.ResourceList) {
	system, kube := a.cfg.Kubelet.Reserved()
	enforced = func(corev1.ResourceList) corev1.ResourceList { return sum(system, kube) }
	thresholds, _ := evict.Thresholds(a.cfg.Kubelet.Eviction()) // validated
	all = func(capacity corev1.ResourceList) corev1.ResourceList {
		free := corev1.ResourceList{}
		for _, t := range thresholds {
			name := t.Signal.Resource()
			have, ok := capacity[name]
			if t.Grace == 0 && ok && (t.Signal == evict.MemoryAvailable || t.Signal == evict.NodeFsAvailable) {
				free[name] = *resource.NewQuantity(t.Left.Of(have.Value()), resource.BinarySI)
			}
		}
		return sum(system, kube, free)
	}
	return enforced, all
}

func bytes(n int64) *resource.Quantity { return resource.NewQuantity(n, resource.BinarySI) }

func sum(lists ...corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{}
	for _, l := range lists {
		for name, q := range l {
			have := out[name]
			have.Add(q)
			out[name] = have
		}
	}
	return out
}

// enforceReservations bounds all pods together, and what else the configuration names, by their share of the machine.
func (a *Agent) enforceReservations(p *parts) error {
	capacity := p.node.Capacity()
	system, kube := a.cfg.Kubelet.Reserved()
	enforced, _ := a.reservations()
	taken := enforced(capacity)
	for _, what := range a.cfg.Kubelet.EnforceNodeAllocatable {
		var err error
		switch what {
		case "pods":
			left := corev1.ResourceList{}
			for name, q := range capacity {
				r := taken[name]
				q = q.DeepCopy()
				q.Sub(r)
				left[name] = q
			}
			err = p.cgroups.Bound(p.cgroups.Root(), limitsOf(left, false))
		case "system-reserved", "system-reserved-compressible":
			err = p.cgroups.Bound(a.cfg.Kubelet.SystemReservedCgroup, limitsOf(system, strings.HasSuffix(what, "compressible")))
		case "kube-reserved", "kube-reserved-compressible":
			err = p.cgroups.Bound(a.cfg.Kubelet.KubeReservedCgroup, limitsOf(kube, strings.HasSuffix(what, "compressible")))
		}
		switch {
		case errors.Is(err, syscall.EBUSY) && what == "pods": // they use more already: it is tried again at the next start
			a.nodeEvent(p)(corev1.EventTypeWarning, "FailedNodeAllocatableEnforcement", fmt.Sprintf("Failed to update Node Allocatable Limits %q: %v", p.cgroups.Root(), err))
		case err != nil:
			return fmt.Errorf("enforceNodeAllocatable: %s: %w: does the cgroup exist?", what, err)
		case what == "pods":
			a.nodeEvent(p)(corev1.EventTypeNormal, "NodeAllocatableEnforced", "Updated Node Allocatable limit across pods")
		}
	}
	return nil
}

func limitsOf(list corev1.ResourceList, compressible bool) cgroup.Limits {
	var l cgroup.Limits
	if q, ok := list[corev1.ResourceCPU]; ok {
		l.CPUShares = cgroup.Shares(q.MilliValue())
	}
	if compressible {
		return l
	}
	if q, ok := list[corev1.ResourceMemory]; ok {
		l.Memory = q.Value()
	}
	if q, ok := list["pid"]; ok {
		l.PIDs = q.Value()
	}
	return l
}

// maxBackoff bounds the time between restarts of a container; 0: as usual.
func (a *Agent) maxBackoff() time.Duration {
	if d := a.cfg.Kubelet.CrashLoopBackOff.MaxContainerRestartPeriod; d != nil {
		return d.Duration
	}
	return 0
}

// tuning is what the configuration says about all containers.
func (a *Agent) tuning(p *parts) criconfig.Tuning {
	k := &a.cfg.Kubelet
	memory := p.node.Capacity()[corev1.ResourceMemory]
	t := criconfig.Tuning{
		CPUPeriod: k.CPUCFSQuotaPeriod.Duration, NoQuota: !k.CPUCFSQuota, SeccompDefault: k.SeccompDefault, Memory: memory.Value(), CgroupV2: p.cgroups.V2(),
	}
	if names, err := os.ReadDir("/sys/kernel/mm/hugepages"); err == nil {
		for _, n := range names {
			t.HugePages = append(t.HugePages, criconfig.HugePageSizes([]string{n.Name()})...)
		}
	}
	allocatable := p.node.Allocatable()[corev1.ResourceMemory]
	t.SingleOOM = k.SingleProcessOOMKill
	t.MemoryQoS = criconfig.MemoryQoS{Throttle: k.Throttle(), Protect: k.MemoryReservationPolicy == kubeletconfig.TieredReservation, Allocatable: allocatable.Value()}
	_, err := os.Stat(filepath.Join("/sys/fs/cgroup", p.cgroups.Root(), "memory.swap.max"))
	t.SwapControl = err == nil
	if k.MemorySwap.SwapBehavior == "LimitedSwap" {
		t.Swap = p.node.Swap()
	}
	return t
}
