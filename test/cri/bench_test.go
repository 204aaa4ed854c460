package cri

import (
	"fmt"
	"os"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	api "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// BenchmarkPod measures what the kubelet waits for: sandbox, container, start; and what an idle pod costs.
func BenchmarkPod(b *testing.B) {
	steps := map[string][]time.Duration{}
	measure := func(name string, f func() error) {
		begin := time.Now()
		if err := f(); err != nil {
			b.Fatalf("%s: %v", name, err)
		}
		steps[name] = append(steps[name], time.Since(begin))
	}
	ctx := testContext(b)
	time.Sleep(12 * time.Second)
	before := rss(b, "mote-runtime")
	var pods []*pod
	for b.Loop() {
		p := &pod{t: b, n: shared, config: podConfig(b, func(c *api.PodSandboxConfig) {
			if os.Getenv("BENCH_CNI") != "" {
				c.Linux.SecurityContext.NamespaceOptions.Network = api.NamespaceMode_POD
			}
		})}
		var ctrID string
		begin := time.Now()
		measure("sandbox", func() error {
			reply, err := shared.rt.RunPodSandbox(ctx, &api.RunPodSandboxRequest{Config: p.config})
			p.id = reply.GetPodSandboxId()
			return err
		})
		config := containerConfig("sleep", "1000")
		config.Linux.SecurityContext.Seccomp = &api.SecurityProfile{ProfileType: api.SecurityProfile_RuntimeDefault}
		measure("create", func() error {
			reply, err := shared.rt.CreateContainer(ctx, &api.CreateContainerRequest{PodSandboxId: p.id, Config: config, SandboxConfig: p.config})
			ctrID = reply.GetContainerId()
			return err
		})
		measure("start", func() error {
			_, err := shared.rt.StartContainer(ctx, &api.StartContainerRequest{ContainerId: ctrID})
			return err
		})
		steps["total"] = append(steps["total"], time.Since(begin))
		measure("exec", func() error {
			_, err := shared.rt.ExecSync(ctx, &api.ExecSyncRequest{ContainerId: ctrID, Cmd: []string{"true"}})
			return err
		})
		pods = append(pods, p)
	}
	b.StopTimer()
	time.Sleep(12 * time.Second) // the runtime gives memory back ten seconds after work
	after := rss(b, "mote-runtime")
	b.ReportMetric(float64(after)/1024, "runtime-MB")
	b.ReportMetric(float64(rss(b, "mote-hold"))/1024, "hold-MB")
	b.ReportMetric(float64(after-before)/1024/float64(len(pods)), "MB/pod")
	for name, all := range steps {
		sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
		b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, name+"-p50-ms")
	}
	for _, p := range pods {
		p.remove()
	}
}

// rss is a program's resident memory in KiB.
func rss(b *testing.B, program string) int {
	pid := shared.hold.Process.Pid
	if program == "mote-runtime" {
		pid = shared.runtimePid(b)
	}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	kib := 0
	for line := range strings.Lines(string(raw)) {
		_, _ = fmt.Sscanf(line, "VmRSS: %d kB", &kib)
	}
	return kib
}

// BenchmarkBurst starts 60 pods at once, each with its own network.
func BenchmarkBurst(b *testing.B) {
	const pods = 60
	for b.Loop() {
		var wait sync.WaitGroup
		ids := make([]string, pods)
		for i := range pods {
			wait.Go(func() {
				config := podConfig(b, onPodNetwork)
				ctx := testContext(b)
				sb, err := shared.rt.RunPodSandbox(ctx, &api.RunPodSandboxRequest{Config: config})
				if err != nil {
					b.Error(err)
					return
				}
				ids[i] = sb.PodSandboxId
				c := containerConfig("sleep", "1000")
				c.Linux.SecurityContext.Seccomp = &api.SecurityProfile{}
				created, err := shared.rt.CreateContainer(ctx, &api.CreateContainerRequest{PodSandboxId: sb.PodSandboxId, Config: c, SandboxConfig: config})
				if err == nil {
					_, err = shared.rt.StartContainer(ctx, &api.StartContainerRequest{ContainerId: created.ContainerId})
				}
				if err != nil {
					b.Error(err)
				}
			})
		}
		wait.Wait()
		b.StopTimer()
		b.ReportMetric(float64(rss(b, "mote-runtime"))/1024, "runtime-MB")
		begin := time.Now()
		for _, id := range ids {
			wait.Go(func() {
				if _, err := shared.rt.StopPodSandbox(testContext(b), &api.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
					b.Error(err)
				}
				if _, err := shared.rt.RemovePodSandbox(testContext(b), &api.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
					b.Error(err)
				}
			})
		}
		wait.Wait()
		b.ReportMetric(float64(time.Since(begin).Milliseconds()), "removal-ms")
		b.StartTimer()
	}
}

// BenchmarkRestart measures how long a killed runtime is away with 100 containers running.
func BenchmarkRestart(b *testing.B) {
	var pods []*pod
	for range 100 {
		p := &pod{t: b, n: shared, config: podConfig(b)}
		reply, err := shared.rt.RunPodSandbox(testContext(b), &api.RunPodSandboxRequest{Config: p.config})
		if err != nil {
			b.Fatal(err)
		}
		p.id = reply.PodSandboxId
		p.start(containerConfig("sleep", "1000"))
		pods = append(pods, p)
	}
	for b.Loop() {
		killRuntime(b)
	}
	for _, p := range pods {
		p.remove()
	}
}
