package cri

import (
	"context"
	"fmt"
	"math/rand"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/runtime/stage"
)

// leftovers compares the kernel's state with "no pod": everything it finds is a leak.
func (n *node) leftovers() []string {
	var found []string
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", n.hold.Process.Pid))
	if err != nil {
		return []string{err.Error()}
	}
	for line := range strings.Lines(string(mounts)) {
		if point := strings.Fields(line)[4]; strings.HasPrefix(point, n.dir+"/") && point != stage.Path(filepath.Join(n.dir, "run")) {
			found = append(found, "mount "+point)
		}
	}
	for _, dir := range []string{
		"run/netns", "run/ns", "run/sandboxes", "run/ctr", "run/runc", "data/runtime/state", "data/runtime/snapshots",
		"run/cni/attachments", "run/cni/addresses",
	} {
		entries, _ := os.ReadDir(filepath.Join(n.dir, dir))
		for _, entry := range entries {
			found = append(found, filepath.Join(dir, entry.Name()))
		}
	}
	for _, dir := range cgroupDirs() {
		_ = filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
			if err != nil || !info.IsDir() {
				return nil
			}
			// Pod groups are the kubelet's to remove; containers' have 64 digits.
			if len(info.Name()) == 64 || strings.HasSuffix(info.Name(), "-init") {
				found = append(found, "cgroup "+path)
			}
			return nil
		})
	}
	_ = n.inNetns(func() error {
		links, err := net.Interfaces()
		for _, link := range links {
			if link.Name != "lo" && link.Name != "mote0" {
				found = append(found, "link "+link.Name)
			}
		}
		return err
	})
	tasks, _ := filepath.Glob("/proc/[0-9]*/cgroup")
	for _, task := range tasks {
		raw, _ := os.ReadFile(task)
		if strings.Contains(string(raw), cgroupRoot+"/") {
			found = append(found, "process in "+strings.TrimSpace(string(raw)))
		}
	}
	return found
}

// Kills of the runtime at random moments of pods' starts and ends leave nothing behind, and no pod that can't be
// removed.
func TestKilledAtRandomLeavesNothing(t *testing.T) {
	needsMote(t)
	rounds := 6
	if os.Getenv("CHAOS") != "" {
		rounds = 100
	}
	stop := make(chan struct{})
	var workers sync.WaitGroup
	for range 3 {
		workers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					churn(t)
				}
			}
		})
	}
	for range rounds {
		time.Sleep(time.Duration(20+rand.Intn(200)) * time.Millisecond)
		_ = unix.Kill(shared.runtimePid(t), unix.SIGKILL)
		eventually(t, "the next runtime", func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), slow(time.Second))
			defer cancel()
			_, err := shared.rt.Version(ctx, &api.VersionRequest{})
			return err == nil
		})
	}
	close(stop)
	workers.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), slow(time.Minute))
	defer cancel()
	list, err := shared.rt.ListPodSandbox(ctx, &api.ListPodSandboxRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, sb := range list.Items {
		if _, err := shared.rt.StopPodSandbox(ctx, &api.StopPodSandboxRequest{PodSandboxId: sb.Id}); err != nil {
			t.Errorf("stop %s: %v", sb.Id, err)
		}
		if _, err := shared.rt.RemovePodSandbox(ctx, &api.RemovePodSandboxRequest{PodSandboxId: sb.Id}); err != nil {
			t.Errorf("remove %s: %v", sb.Id, err)
		}
	}
	var found []string
	deadline := time.Now().Add(slow(5 * time.Second))
	for time.Now().Before(deadline) {
		if found = shared.leftovers(); len(found) == 0 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("left behind:\n%s", strings.Join(found, "\n"))
}

// churn takes a pod through its life as far as the runtime lives; errors are expected.
func churn(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), slow(20*time.Second))
	defer cancel()
	config := podConfig(t, onPodNetwork)
	c := containerConfig("sh", "-c", "echo up; sleep 1000")
	if rand.Intn(2) == 0 {
		ownUsers(config)
		c.Linux.SecurityContext.NamespaceOptions = config.Linux.SecurityContext.NamespaceOptions
	}
	sb, err := shared.rt.RunPodSandbox(ctx, &api.RunPodSandboxRequest{Config: config})
	if err != nil {
		time.Sleep(20 * time.Millisecond) // the runtime is away
		return
	}
	created, err := shared.rt.CreateContainer(ctx, &api.CreateContainerRequest{PodSandboxId: sb.PodSandboxId, Config: c, SandboxConfig: config})
	if err == nil {
		_, err = shared.rt.StartContainer(ctx, &api.StartContainerRequest{ContainerId: created.ContainerId})
	}
	if err == nil {
		_, err = shared.rt.StopContainer(ctx, &api.StopContainerRequest{ContainerId: created.ContainerId})
	}
	if err != nil {
		return // left for the end of the test
	}
	_, _ = shared.rt.StopPodSandbox(ctx, &api.StopPodSandboxRequest{PodSandboxId: sb.PodSandboxId})
	_, _ = shared.rt.RemovePodSandbox(ctx, &api.RemovePodSandboxRequest{PodSandboxId: sb.PodSandboxId})
}
