package cri

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	api "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func needsControllers(t *testing.T) {
	if os.Getenv("MOTE_CGROUP2") != "" {
		t.Skip("the v2 hierarchy of a hybrid machine has no controllers")
	}
}

// cgroupFile reads a container's control file: by its v1 name and controller, or its v2 name.
func cgroupFile(t *testing.T, c *ctr, v1, v2 string) string {
	t.Helper()
	path := filepath.Join("/sys/fs/cgroup", c.config.Linux.CgroupParent, c.id, v2)
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		controller, file, _ := strings.Cut(v1, "/")
		path = filepath.Join("/sys/fs/cgroup", controller, c.config.Linux.CgroupParent, c.id, file)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(raw))
}

func TestResources(t *testing.T) {
	needsControllers(t)
	p := newPod(t)
	c := p.run("sleep 1000", func(c *api.ContainerConfig) {
		c.Linux.Resources = &api.LinuxContainerResources{
			CpuShares: 512, CpuPeriod: 100000, CpuQuota: 50000, MemoryLimitInBytes: 64 << 20, OomScoreAdj: 500, CpusetCpus: "0",
		}
	})
	if got := cgroupFile(t, c, "memory/memory.limit_in_bytes", "memory.max"); got != "67108864" {
		t.Errorf("memory limit %s", got)
	}
	if got := cgroupFile(t, c, "cpu/cpu.cfs_quota_us", "cpu.max"); got != "50000" && got != "50000 100000" {
		t.Errorf("cpu quota %s", got)
	}
	if out, _, _ := c.exec("cat", "/proc/1/oom_score_adj"); out != "500\n" {
		t.Errorf("oom_score_adj %q", out)
	}
	_, err := shared.rt.UpdateContainerResources(testContext(t), &api.UpdateContainerResourcesRequest{
		ContainerId: c.id, Linux: &api.LinuxContainerResources{MemoryLimitInBytes: 128 << 20, CpuQuota: 70000, CpuPeriod: 100000},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := cgroupFile(t, c, "memory/memory.limit_in_bytes", "memory.max"); got != "134217728" {
		t.Errorf("updated memory limit %s", got)
	}
	if r := c.status().Resources.Linux; r.MemoryLimitInBytes != 128<<20 || r.CpuQuota != 70000 || r.CpuShares != 512 {
		t.Errorf("status shows %v", r)
	}
}

func TestOOMKilled(t *testing.T) {
	needsControllers(t)
	p := newPod(t)
	c := p.run("x=a; while :; do x=$x$x; done", func(c *api.ContainerConfig) {
		c.Linux.Resources = &api.LinuxContainerResources{MemoryLimitInBytes: 20 << 20}
	})
	if st := c.wait(); st.Reason != "OOMKilled" || st.ExitCode != 137 {
		t.Errorf("reason %q, exit code %d", st.Reason, st.ExitCode)
	}
}

func TestNegativeOOMScore(t *testing.T) {
	p := newPod(t)
	c := p.run("cat /proc/self/oom_score_adj", func(c *api.ContainerConfig) { c.Linux.Resources.OomScoreAdj = -997 })
	if st := c.wait(); st.ExitCode != 0 {
		t.Errorf("a score below what we may set must be clamped, not fail: %v", st)
	}
}

func TestStats(t *testing.T) {
	needsControllers(t)
	p := newPod(t, onPodNetwork)
	c := p.run("head -c 3000000 /dev/zero > /big; i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; sleep 1000")
	ctx := testContext(t)
	eventually(t, "all stats", func() bool {
		reply, err := shared.rt.ContainerStats(ctx, &api.ContainerStatsRequest{ContainerId: c.id})
		if err != nil {
			t.Fatal(err)
		}
		s := reply.Stats
		return s.Cpu.GetUsageCoreNanoSeconds().GetValue() > 1e7 && s.Memory.GetWorkingSetBytes().GetValue() > 10000 &&
			s.WritableLayer.GetUsedBytes().GetValue() >= 3000000 && s.Attributes.Id == c.id && s.Cpu.Timestamp > 0
	})
	list, err := shared.rt.ListContainerStats(ctx, &api.ListContainerStatsRequest{Filter: &api.ContainerStatsFilter{PodSandboxId: p.id}})
	if err != nil || len(list.Stats) != 1 {
		t.Fatalf("list: %v, %v", list, err)
	}
	time.Sleep(50 * time.Millisecond)
	pods, err := shared.rt.ListPodSandboxStats(ctx, &api.ListPodSandboxStatsRequest{Filter: &api.PodSandboxStatsFilter{Id: p.id}})
	if err != nil || len(pods.Stats) != 1 {
		t.Fatalf("pods: %v, %v", pods, err)
	}
	s := pods.Stats[0].Linux
	if len(s.Containers) != 1 || s.Cpu.GetUsageCoreNanoSeconds().GetValue() < 1e7 || s.Memory.GetWorkingSetBytes().GetValue() == 0 ||
		s.Process.GetProcessCount().GetValue() == 0 || s.Network.GetDefaultInterface().GetName() != "eth0" {
		t.Errorf("pod stats: %v", s)
	}
}

func TestEvents(t *testing.T) {
	ctx := testContext(t)
	stream, err := shared.rt.GetContainerEvents(ctx, &api.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	// Read all the time: containerd, whose queue holds what nobody heard, waits for a listener that doesn't.
	events, failed := make(chan *api.ContainerEventResponse, 5000), make(chan error, 1)
	go func() {
		for {
			event, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case events <- event:
			case <-ctx.Done():
			}
		}
	}()
	time.Sleep(100 * time.Millisecond) // until the server has subscribed us
	p := newPod(t)
	c := p.run("sleep 0.3; exit 3")
	var seen []string
	for len(seen) < 3 {
		var event *api.ContainerEventResponse
		select {
		case event = <-events:
		case err := <-failed:
			t.Fatalf("after %q: %v", seen, err)
		}
		if event.ContainerId != c.id {
			continue
		}
		if event.PodSandboxStatus.GetId() != p.id || len(event.ContainersStatuses) != 1 {
			t.Errorf("event without its pod: %v", event)
		}
		seen = append(seen, event.ContainerEventType.String())
	}
	if got := strings.Join(seen, " "); got != "CONTAINER_CREATED_EVENT CONTAINER_STARTED_EVENT CONTAINER_STOPPED_EVENT" {
		t.Errorf("events: %s", got)
	}
}

func TestLogRotation(t *testing.T) {
	p := newPod(t)
	c := p.run("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo line $i; done; sleep 1000")
	eventually(t, "some lines", func() bool { return len(c.logs()) > 1000 })
	if err := os.Rename(c.logPath, c.logPath+".1"); err != nil {
		t.Fatal(err)
	}
	if _, err := shared.rt.ReopenContainerLog(testContext(t), &api.ReopenContainerLogRequest{ContainerId: c.id}); err != nil {
		t.Fatal(err)
	}
	rotated := &ctr{pod: p, id: c.id, logPath: c.logPath + ".1"}
	eventually(t, "every line in one of the files", func() bool {
		return strings.Count(rotated.logs(), "\n")+strings.Count(c.logs(), "\n") == 20000
	})
	long := p.output("head -c 40000 /dev/zero | tr '\\0' x; echo; printf 'no newline'")
	if long != strings.Repeat("x", 40000)+"\nno newline" {
		t.Errorf("a long line came back with %d bytes", len(long))
	}
}

// A container sees its own cgroup of every hierarchy, read-only, under the names that programs look for; a privileged one may
// write; and none of these mounts reaches the host.
func TestCgroupView(t *testing.T) {
	needsControllers(t)
	p := newPod(t, func(c *api.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true })
	limited := func(privileged bool) *ctr {
		return p.run("sleep 1000", func(c *api.ContainerConfig) {
			c.Linux.SecurityContext.Privileged = privileged
			c.Linux.Resources = &api.LinuxContainerResources{MemoryLimitInBytes: 64 << 20}
		})
	}
	c := limited(false)
	out, _, _ := c.exec("sh", "-c", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null")
	if out != "67108864\n" {
		t.Errorf("the limit as the container sees it: %q", out)
	}
	for _, file := range []string{"/sys/fs/cgroup/new", "/sys/fs/cgroup/memory/new", "/sys/fs/cgroup/pids/new"} {
		if out, _, code := c.exec("sh", "-c", "mkdir -p "+file+" && echo made"); code == 0 {
			t.Errorf("mkdir %s: %q", file, out)
		}
	}
	w := limited(true)
	if out, errs, code := w.exec("sh", "-c", "d=/sys/fs/cgroup/memory; [ -d $d ] || d=/sys/fs/cgroup; mkdir $d/new && rmdir $d/new"); code != 0 {
		t.Errorf("a privileged container: %q %q", out, errs)
	}
	hierarchies, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		for _, h := range hierarchies {
			name := filepath.Base(filepath.Dir(h))
			if name == "unified" { // cgroup v2 beside v1; it isn't anybody's to see
				continue
			}
			if out, _, _ := c.exec("cat", "/sys/fs/cgroup/"+name+"/cgroup.procs"); !strings.HasPrefix(out, "1\n") {
				t.Errorf("hierarchy %s: its processes are %q, want the container's own", name, out)
			}
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, c.id) && strings.Contains(line, "cgroup") {
			t.Errorf("on the host: %s", line)
		}
	}
}
