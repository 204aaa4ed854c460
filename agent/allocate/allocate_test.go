package allocate

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/mote-edge/mote/agent/cpu"
	"github.com/mote-edge/mote/agent/device"
	"github.com/mote-edge/mote/agent/device/devicetest"
	"github.com/mote-edge/mote/agent/memory"
	"github.com/mote-edge/mote/agent/meter"
	"github.com/mote-edge/mote/agent/numa/numatest"
	"github.com/mote-edge/mote/agent/topology"
)

// Two nodes of four CPUs (0,1,4,5 and 2,3,6,7) and 8 GiB each; CPU 0 and 1 GiB on node 0 are reserved.
var machine = numatest.Shape{Sockets: 2, NodesPerSocket: 1, CachesPerNode: 1, CoresPerCache: 2, ThreadsPerCore: 2, Memory: 8 << 30}.Machine()

func list(s string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for _, kv := range strings.Fields(s) {
		k, v, _ := strings.Cut(kv, "=")
		out[corev1.ResourceName(k)] = resource.MustParse(v)
	}
	return out
}

func pod(uid string, containers ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid), Name: uid}}
	for i, c := range containers {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{
			Name: fmt.Sprint("c", i), Resources: corev1.ResourceRequirements{Requests: list(c), Limits: list(c)},
		})
	}
	return p
}

type fixture struct {
	*Allocator
	repinned int
	tally    *meter.Tally
}

// newFixture has GPUs a on node 0 and b, c on node 1.
func newFixture(t *testing.T, policy, scope string) *fixture {
	t.Helper()
	f := &fixture{tally: meter.NewTally()}
	cpus, err := cpu.New(cpu.Config{Policy: cpu.PolicyStatic, ReservedMilli: 500, Machine: machine})
	if err != nil {
		t.Fatal(err)
	}
	mem, err := memory.New(memory.Config{Policy: memory.PolicyStatic, Node: list("memory=1Gi"), Reserved: map[int]corev1.ResourceList{0: list("memory=1Gi")}, Machine: machine})
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "al")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	changed := make(chan struct{}, 10)
	devices, err := device.New(device.Config{Dir: dir, Nodes: machine.Mask(), Log: slog.New(slog.DiscardHandler), Tally: f.tally, Changed: func() { changed <- struct{}{} }})
	if err != nil {
		t.Fatal(err)
	}
	p, err := topology.New(topology.Config{Policy: policy, Scope: scope}, machine)
	if err != nil {
		t.Fatal(err)
	}
	f.Allocator = New(Config{CPU: cpus, Memory: mem, Devices: devices, Topology: p, SharedCPUs: func() { f.repinned++ }, Tally: f.tally})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = devices.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	<-devices.Ready()
	plugin := &devicetest.Plugin{Resource: "example.com/gpu", Dir: dir, Socket: "gpu.sock", Answer: func(ids []string) (*pluginapi.ContainerAllocateResponse, error) {
		return &pluginapi.ContainerAllocateResponse{
			Envs: map[string]string{"GPU": strings.Join(ids, ",")}, Annotations: map[string]string{"gpu": "yes"},
			Devices:    []*pluginapi.DeviceSpec{{ContainerPath: "/dev/gpu", HostPath: "/dev/null", Permissions: "r"}},
			CdiDevices: []*pluginapi.CDIDevice{{Name: "example.com/gpu=" + ids[0]}},
		}, nil
	}}
	plugin.Set(devicetest.Device("a", true, 0), devicetest.Device("b", true, 1), devicetest.Device("c", true, 1))
	if err := plugin.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(plugin.Stop)
	if err := plugin.Register(ctx); err != nil {
		t.Fatal(err)
	}
	<-changed
	return f
}

// admit shows what a pod gets: each container's devices, CPUs and memory nodes, or why it was refused.
func (f *fixture) admit(t *testing.T, p *corev1.Pod) string {
	t.Helper()
	if !f.Wants(p) {
		return "nothing to admit"
	}
	if reason, message := f.Admit(context.Background(), p); reason != "" {
		if pods, _ := f.Pods(); len(pods) != 0 {
			t.Errorf("held after a refusal: %v", pods)
		}
		return reason + ": " + message
	}
	var out []string
	for i := range p.Spec.Containers {
		cfg := &runtimeapi.ContainerConfig{Linux: &runtimeapi.LinuxContainerConfig{Resources: &runtimeapi.LinuxContainerResources{CpuQuota: 100}}, Envs: []*runtimeapi.KeyValue{{Key: "own"}}}
		if err := f.Container(context.Background(), p, &p.Spec.Containers[i], cfg); err != nil {
			t.Fatal(err)
		}
		r := cfg.Linux.Resources
		gpu := "-"
		if len(cfg.Devices) > 0 {
			gpu = string(cfg.Envs[0].Value)
			if cfg.Envs[1].Key != "own" || cfg.Annotations["gpu"] != "yes" || cfg.CDIDevices[0].Name != "example.com/gpu="+gpu[:1] {
				t.Errorf("configuration: %v", cfg)
			}
		}
		out = append(out, fmt.Sprintf("%s %s [%s] %d", gpu, r.CpusetCpus, r.CpusetMems, r.CpuQuota))
	}
	return strings.Join(out, "; ")
}

func TestAdmit(t *testing.T) {
	const refused = "TopologyAffinityError: Resources cannot be allocated with Topology locality"
	for _, tc := range []struct {
		policy, scope string
		pod           *corev1.Pod
		want          string
	}{
		{topology.None, "", pod("p", "cpu=2 memory=1Gi example.com/gpu=1"), "a 1,5 [0] -1"},
		{topology.None, "", pod("p", "cpu=2 memory=1Gi example.com/gpu=3"), "a,b,c 1,5 [0] -1"},
		{topology.None, "", pod("p", "cpu=2 memory=1Gi example.com/gpu=4"), "UnexpectedAdmissionError: Allocate failed due to requested number of devices unavailable for example.com/gpu. Requested: 4, Available: 3, which is unexpected"},
		{topology.None, "", pod("p", "cpu=500m memory=1Gi"), "- 0-7 [0] 100"},
		{topology.BestEffort, "", pod("p", "cpu=2 memory=1Gi example.com/gpu=2"), "b,c 2,6 [1] -1"},
		{topology.BestEffort, "", pod("p", "cpu=4 memory=1Gi example.com/gpu=3"), "a,b,c 2-3,6-7 [0,1] -1"},
		{topology.Restricted, "", pod("p", "cpu=4 memory=1Gi example.com/gpu=1"), "b 2-3,6-7 [1] -1"},
		{topology.Restricted, "", pod("p", "cpu=4 memory=1Gi example.com/gpu=3"), refused},
		{topology.Restricted, "", pod("p", "cpu=6 memory=10Gi example.com/gpu=3"), "a,b,c 1-3,5-7 [0,1] -1"},
		{topology.SingleNUMANode, "", pod("p", "cpu=2 memory=1Gi example.com/gpu=2"), "b,c 2,6 [1] -1"},
		{topology.SingleNUMANode, "", pod("p", "cpu=6 memory=1Gi"), refused},
		{topology.SingleNUMANode, "", pod("p", "cpu=2 memory=1Gi", "cpu=3 memory=1Gi"), "- 1,5 [0] -1; - 2-3,6 [1] -1"},
		{topology.SingleNUMANode, topology.ScopePod, pod("p", "cpu=2 memory=1Gi", "cpu=1 memory=1Gi"), "- 1,5 [0] -1; - 4 [0] -1"},
		{topology.SingleNUMANode, topology.ScopePod, pod("p", "cpu=2 memory=1Gi", "cpu=3 memory=1Gi"), refused},
		{topology.SingleNUMANode, topology.ScopePod, pod("p", "cpu=2 memory=1Gi", "cpu=1 memory=1Gi example.com/gpu=2"), "- 2,6 [1] -1; b,c 3 [1] -1"},
	} {
		t.Run(fmt.Sprint(tc.policy, tc.scope, tc.pod.Spec.Containers[0].Resources.Limits), func(t *testing.T) {
			f := newFixture(t, tc.policy, tc.scope)
			if got := f.admit(t, tc.pod); got != tc.want {
				t.Errorf("got  %q\nwant %q", got, tc.want)
			}
		})
	}
}

// What is pinned, aligned and refused is counted under upstream's names.
func TestCounts(t *testing.T) {
	f := newFixture(t, topology.SingleNUMANode, "")
	_ = f.admit(t, pod("p", "cpu=2 memory=1Gi example.com/gpu=1"))
	if reason, _ := f.Admit(t.Context(), pod("q", "cpu=6 memory=1Gi")); reason != topology.ErrorReason {
		t.Errorf("a pod that fits on no node: %q", reason)
	}
	x := &meter.Text{}
	f.tally.Write(x)
	for _, want := range []string{
		"kubelet_topology_manager_admission_requests_total 2", "kubelet_topology_manager_admission_errors_total 1", "kubelet_topology_manager_admission_duration_ms_count 2",
		"kubelet_cpu_manager_pinning_requests_total 1", "kubelet_cpu_manager_pinning_errors_total 0", "kubelet_memory_manager_pinning_requests_total 1",
		`kubelet_device_plugin_registration_total{resource_name="example.com/gpu"} 1`, `kubelet_device_plugin_alloc_duration_seconds_count{resource_name="example.com/gpu"} 1`,
	} {
		if !strings.Contains(string(x.Bytes()), want+"\n") {
			t.Errorf("no %q in\n%s", want, x.Bytes())
		}
	}
	if shared, exclusive := f.cfg.CPU.Counts(); shared != 6 || exclusive != 2 {
		t.Errorf("%d CPUs are shared and %d are not", shared, exclusive)
	}
}

func TestSharedPoolFollows(t *testing.T) {
	f := newFixture(t, topology.None, "")
	if got := f.admit(t, pod("shared", "cpu=500m memory=1Gi")); got != "- 0-7 [0] 100" || f.repinned != 0 {
		t.Error(got, f.repinned)
	}
	if got := f.admit(t, pod("own", "cpu=2 memory=1Gi")); got != "- 1,5 [0] -1" || f.repinned != 1 {
		t.Error(got, f.repinned)
	}
	if got := f.admit(t, pod("shared", "cpu=500m memory=1Gi")); got != "- 0,2-4,6-7 [0] 100" {
		t.Error(got)
	}
	if pods, err := f.Pods(); err != nil || fmt.Sprint(pods) != "[own shared]" {
		t.Error(pods, err)
	}
	for range 2 {
		if err := f.Release(context.Background(), "own"); err != nil {
			t.Fatal(err)
		}
	}
	if f.repinned != 2 {
		t.Errorf("told %d times of other CPUs", f.repinned)
	}
}

func TestClaimsWithoutAPI(t *testing.T) {
	f := newFixture(t, topology.None, "")
	p := pod("p", "cpu=1 memory=1Mi")
	p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "x"}}
	if err := f.Prepare(context.Background(), p); err == nil || !strings.Contains(err.Error(), "without an API server") {
		t.Error(err)
	}
}
