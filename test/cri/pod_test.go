package cri

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	api "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var counter atomic.Int64

// pod is a sandbox under test.
type pod struct {
	t      testing.TB
	n      *node
	id     string
	config *api.PodSandboxConfig
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), slow(time.Minute))
	t.Cleanup(cancel)
	return ctx
}

// podConfig describes a pod on the host's network; options change it.
func podConfig(t testing.TB, options ...func(*api.PodSandboxConfig)) *api.PodSandboxConfig {
	name := fmt.Sprintf("pod-%d", counter.Add(1))
	config := &api.PodSandboxConfig{
		Metadata:     &api.PodSandboxMetadata{Name: name, Namespace: "test", Uid: name},
		LogDirectory: filepath.Join(t.TempDir(), "logs"),
		Linux: &api.LinuxPodSandboxConfig{
			CgroupParent: cgroupRoot + "/" + name,
			SecurityContext: &api.LinuxSandboxSecurityContext{NamespaceOptions: &api.NamespaceOption{
				Network: api.NamespaceMode_NODE, Pid: api.NamespaceMode_CONTAINER, Ipc: api.NamespaceMode_POD,
			}},
		},
	}
	for _, o := range options {
		o(config)
	}
	return config
}

func newPod(t testing.TB, options ...func(*api.PodSandboxConfig)) *pod {
	t.Helper()
	p := &pod{t: t, n: shared, config: podConfig(t, options...)}
	reply, err := shared.rt.RunPodSandbox(testContext(t), &api.RunPodSandboxRequest{Config: p.config})
	if err != nil {
		t.Fatalf("RunPodSandbox: %v", err)
	}
	p.id = reply.PodSandboxId
	t.Cleanup(p.remove)
	return p
}

func (p *pod) remove() {
	ctx, cancel := context.WithTimeout(context.Background(), slow(time.Minute))
	defer cancel()
	if _, err := p.n.rt.StopPodSandbox(ctx, &api.StopPodSandboxRequest{PodSandboxId: p.id}); err != nil {
		p.t.Errorf("StopPodSandbox: %v", err)
	}
	if _, err := p.n.rt.RemovePodSandbox(ctx, &api.RemovePodSandboxRequest{PodSandboxId: p.id}); err != nil {
		p.t.Errorf("RemovePodSandbox: %v", err)
	}
}

// ctr is a container under test.
type ctr struct {
	*pod
	id      string
	logPath string
}

func containerConfig(command ...string) *api.ContainerConfig {
	name := fmt.Sprintf("c-%d", counter.Add(1))
	return &api.ContainerConfig{
		Metadata: &api.ContainerMetadata{Name: name}, Image: &api.ImageSpec{Image: testImage, UserSpecifiedImage: testImage},
		Command: command, LogPath: name + ".log",
		Linux: &api.LinuxContainerConfig{SecurityContext: &api.LinuxContainerSecurityContext{
			NamespaceOptions: &api.NamespaceOption{Network: api.NamespaceMode_NODE, Pid: api.NamespaceMode_CONTAINER},
		}, Resources: &api.LinuxContainerResources{}},
	}
}

func (p *pod) create(config *api.ContainerConfig) *ctr {
	p.t.Helper()
	reply, err := p.n.rt.CreateContainer(testContext(p.t), &api.CreateContainerRequest{PodSandboxId: p.id, Config: config, SandboxConfig: p.config})
	if err != nil {
		p.t.Fatalf("CreateContainer: %v", err)
	}
	return &ctr{pod: p, id: reply.ContainerId, logPath: filepath.Join(p.config.LogDirectory, config.LogPath)}
}

func (p *pod) start(config *api.ContainerConfig) *ctr {
	p.t.Helper()
	c := p.create(config)
	if _, err := p.n.rt.StartContainer(testContext(p.t), &api.StartContainerRequest{ContainerId: c.id}); err != nil {
		p.t.Fatalf("StartContainer: %v", err)
	}
	return c
}

// run starts a shell script.
func (p *pod) run(script string, options ...func(*api.ContainerConfig)) *ctr {
	p.t.Helper()
	config := containerConfig("sh", "-c", script)
	for _, o := range options {
		o(config)
	}
	return p.start(config)
}

func (c *ctr) status() *api.ContainerStatus {
	c.t.Helper()
	reply, err := c.n.rt.ContainerStatus(testContext(c.t), &api.ContainerStatusRequest{ContainerId: c.id})
	if err != nil {
		c.t.Fatalf("ContainerStatus: %v", err)
	}
	return reply.Status
}

func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(slow(20 * time.Second))
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (c *ctr) wait() *api.ContainerStatus {
	c.t.Helper()
	var last *api.ContainerStatus
	eventually(c.t, "the container's end", func() bool {
		last = c.status()
		return last.State == api.ContainerState_CONTAINER_EXITED
	})
	return last
}

// logs returns the log's content without tags, stdout and stderr mixed.
func (c *ctr) logs() string {
	raw, _ := os.ReadFile(c.logPath)
	var out strings.Builder
	for line := range strings.Lines(string(raw)) {
		if !strings.HasSuffix(line, "\n") {
			break // it is being written
		}
		fields := strings.SplitN(line, " ", 4)
		if len(fields) < 4 {
			c.t.Errorf("malformed log line %q", line)
			continue
		}
		if fields[2] == "P" {
			out.WriteString(strings.TrimSuffix(fields[3], "\n"))
		} else {
			out.WriteString(fields[3])
		}
	}
	return out.String()
}

func (c *ctr) exec(command ...string) (string, string, int32) {
	c.t.Helper()
	reply, err := c.n.rt.ExecSync(testContext(c.t), &api.ExecSyncRequest{ContainerId: c.id, Cmd: command, Timeout: seconds(10)})
	if err != nil {
		c.t.Fatalf("ExecSync %v: %v", command, err)
	}
	return string(reply.Stdout), string(reply.Stderr), reply.ExitCode
}

// output runs a script to its end and returns what it said.
func (p *pod) output(script string, options ...func(*api.ContainerConfig)) string {
	p.t.Helper()
	c := p.run(script, options...)
	c.wait()
	return c.logs()
}
