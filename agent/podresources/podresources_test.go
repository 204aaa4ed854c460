package podresources

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	api "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/mote-edge/mote/agent/cpu"
	"github.com/mote-edge/mote/agent/device"
	"github.com/mote-edge/mote/agent/memory"
	"github.com/mote-edge/mote/agent/numa/numatest"
	"github.com/mote-edge/mote/agent/topology"
)

type pods []*corev1.Pod

func (p pods) Pods() []*corev1.Pod { return p }

func (p pods) Pod(namespace, name string) (*corev1.Pod, bool) {
	for _, pod := range p {
		if pod.Namespace == namespace && pod.Name == name {
			return pod, true
		}
	}
	return nil, false
}

func TestServer(t *testing.T) {
	machine := numatest.Shape{Sockets: 1, NodesPerSocket: 1, CachesPerNode: 1, CoresPerCache: 2, ThreadsPerCore: 2, Memory: 4 << 30}.Machine()
	gi := func(n string) corev1.ResourceList { return corev1.ResourceList{"memory": resource.MustParse(n)} }
	cpus, err := cpu.New(cpu.Config{Policy: cpu.PolicyStatic, ReservedMilli: 1000, Machine: machine})
	if err != nil {
		t.Fatal(err)
	}
	mem, err := memory.New(memory.Config{Policy: memory.PolicyStatic, Node: gi("1Gi"), Reserved: map[int]corev1.ResourceList{0: gi("1Gi")}, Machine: machine})
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "pr")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	devices, err := device.New(device.Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	list := gi("1Gi")
	list["cpu"] = resource.MustParse("2")
	own := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "own", UID: "own"}, Spec: corev1.PodSpec{Containers: []corev1.Container{
		{Name: "c", Resources: corev1.ResourceRequirements{Requests: list, Limits: list}},
	}}}
	over := own.DeepCopy()
	over.Name, over.UID, over.Status.Phase = "over", "over", corev1.PodSucceeded
	hint := topology.Hint{Any: true}
	if err := cpus.Allocate(own, &own.Spec.Containers[0], hint); err != nil {
		t.Fatal(err)
	}
	if err := mem.Allocate(own, &own.Spec.Containers[0], hint); err != nil {
		t.Fatal(err)
	}
	s := New(Config{Dir: filepath.Join(dir, "p"), Pods: pods{own, over}, CPUs: cpus, Memory: mem, Devices: devices})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	conn, err := grpc.NewClient("unix://"+filepath.Join(dir, "p", "kubelet.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	client := api.NewPodResourcesListerClient(conn)

	all, err := client.List(ctx, &api.ListPodResourcesRequest{}, grpc.WaitForReady(true))
	if err != nil || len(all.GetPodResources()) != 1 {
		t.Fatalf("List: %v, %v", all, err)
	}
	c := all.GetPodResources()[0].GetContainers()[0]
	if len(c.GetCpuIds()) != 2 || len(c.GetMemory()) != 1 || c.GetMemory()[0].GetSize() != 1<<30 || c.GetMemory()[0].GetTopology().GetNodes()[0].GetID() != 0 {
		t.Errorf("container: %v", c)
	}
	if one, err := client.Get(ctx, &api.GetPodResourcesRequest{PodNamespace: "ns", PodName: "own"}); err != nil || one.GetPodResources().GetName() != "own" {
		t.Errorf("Get: %v, %v", one, err)
	}
	if _, err := client.Get(ctx, &api.GetPodResourcesRequest{PodNamespace: "ns", PodName: "none"}); status.Convert(err).Message() != "pod none in namespace ns not found" {
		t.Errorf("Get: %v", err)
	}
	if a, err := client.GetAllocatableResources(ctx, &api.AllocatableResourcesRequest{}); err != nil || len(a.GetCpuIds()) != 3 || a.GetMemory()[0].GetSize() != 3<<30 {
		t.Errorf("GetAllocatableResources: %v, %v", a, err)
	}
	limited := false
	for range 1000 {
		if _, err := client.List(ctx, &api.ListPodResourcesRequest{}); status.Code(err) == codes.ResourceExhausted {
			limited = true
			break
		}
	}
	if !limited {
		t.Error("a client may ask without end")
	}
}
