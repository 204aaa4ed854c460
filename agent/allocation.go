package agent

import (
	"context"
	"fmt"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/cpuset"

	"github.com/mote-edge/mote/agent/allocate"
	"github.com/mote-edge/mote/agent/cpu"
	"github.com/mote-edge/mote/agent/device"
	"github.com/mote-edge/mote/agent/dra"
	"github.com/mote-edge/mote/agent/memory"
	"github.com/mote-edge/mote/agent/numa"
	"github.com/mote-edge/mote/agent/plugin"
	"github.com/mote-edge/mote/agent/podresources"
	"github.com/mote-edge/mote/agent/topology"
)

// allocator assembles what gives pods devices, CPUs and memory of their own.
func (a *Agent) allocator(ctx context.Context, p *parts) error {
	k := &a.cfg.Kubelet
	machine, err := numa.Read(numa.System)
	if err != nil {
		return fmt.Errorf("the machine's shape: %w: is /sys mounted?", err)
	}
	reserved, err := cpuset.Parse(k.ReservedSystemCPUs)
	if err != nil {
		return fmt.Errorf("reservedSystemCPUs: %w", err)
	}
	system, kube := k.Reserved()
	set := sum(system, kube)
	if p.cpus, err = cpu.New(cpu.Config{
		Policy: k.CPUManagerPolicy, Options: k.CPUManagerPolicyOptions, Reserved: reserved, ReservedMilli: set.Cpu().MilliValue(), Machine: machine,
		File: filepath.Join(a.cfg.Dirs.Agent(), "cpu_manager_state"),
	}); err != nil {
		return err
	}
	_, all := a.reservations()
	total := corev1.ResourceList{}
	for _, n := range machine.Nodes {
		total = sum(total, corev1.ResourceList{corev1.ResourceMemory: *bytes(n.Memory)})
	}
	memCfg := memory.Config{
		Policy: k.MemoryManagerPolicy, Node: all(total), Reserved: map[int]corev1.ResourceList{}, Machine: machine,
		File: filepath.Join(a.cfg.Dirs.Agent(), "memory_manager_state"),
	}
	for _, r := range k.ReservedMemory {
		memCfg.Reserved[int(r.NumaNode)] = sum(memCfg.Reserved[int(r.NumaNode)], r.Limits)
	}
	if p.memory, err = memory.New(memCfg); err != nil {
		return err
	}
	policy, err := topology.New(topology.Config{Policy: k.TopologyManagerPolicy, Scope: k.TopologyManagerScope, Options: k.TopologyManagerPolicyOptions}, machine)
	if err != nil {
		return err
	}
	look := func(uids []types.UID) { //nolint:contextcheck // a callback: the worker has a context of its own
		for _, uid := range uids {
			p.pods.Look(uid)
		}
	}
	if p.devices, err = device.New(device.Config{
		Dir: filepath.Join(a.cfg.KubeletDir, "device-plugins"), Nodes: machine.Mask(), Tally: p.meters.tally, Log: a.cfg.Log,
		Changed: func() { p.node.Poke() },
		Sick:    look,
	}); err != nil {
		return err
	}
	claims := dra.Config{File: filepath.Join(a.cfg.Dirs.Agent(), "dra_manager_state"), Registered: func() { p.pods.RetryAll() }, Sick: look, Log: a.cfg.Log} //nolint:contextcheck // as above
	if p.api != nil {
		claims.API = p.api
	}
	if p.claims, err = dra.New(ctx, claims); err != nil {
		return err
	}
	p.plugins = plugin.New(filepath.Join(a.cfg.KubeletDir, "plugins_registry"), map[string]plugin.Handler{
		plugin.Device: p.devices, plugin.DRA: p.claims.Drivers(),
	}, a.cfg.Log)
	p.allocate = allocate.New(allocate.Config{
		CPU: p.cpus, Memory: p.memory, Devices: p.devices, Claims: p.claims, Topology: policy, SharedCPUs: func() { p.pods.SharedCPUs() }, Tally: p.meters.tally,
	})
	return nil
}

// podResources tells the node's monitoring agents who has what.
func (a *Agent) podResources(p *parts) *podresources.Server {
	return podresources.New(podresources.Config{
		Dir: filepath.Join(a.cfg.KubeletDir, "pod-resources"), Pods: p.pods, CPUs: p.cpus, Memory: p.memory, Devices: p.devices, Claims: p.claims,
	})
}
