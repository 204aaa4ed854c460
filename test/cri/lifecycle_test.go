package cri

import (
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestContainerLifecycle(t *testing.T) {
	p := newPod(t)
	c := p.create(containerConfig("sh", "-c", "echo out; echo err >&2; trap 'exit 7' TERM; while :; do sleep 0.05; done"))
	if st := c.status(); st.State != api.ContainerState_CONTAINER_CREATED || st.CreatedAt == 0 {
		t.Fatalf("after create: %v", st)
	}
	ctx := testContext(t)
	if _, err := p.n.rt.StartContainer(ctx, &api.StartContainerRequest{ContainerId: c.id}); err != nil {
		t.Fatal(err)
	}
	if st := c.status(); st.State != api.ContainerState_CONTAINER_RUNNING || st.StartedAt < st.CreatedAt {
		t.Fatalf("after start: %v", st)
	}
	if _, err := p.n.rt.StartContainer(ctx, &api.StartContainerRequest{ContainerId: c.id}); err == nil {
		t.Error("a second start succeeded")
	}
	out, _, code := c.exec("sh", "-c", "echo $FROM_IMAGE; exit 3")
	if out != "yes\n" || code != 3 {
		t.Errorf("exec: %q, %d", out, code)
	}
	eventually(t, "both lines in the log", func() bool {
		return strings.Contains(c.logs(), "out\n") && strings.Contains(c.logs(), "err\n")
	})
	if _, err := p.n.rt.StopContainer(ctx, &api.StopContainerRequest{ContainerId: c.id, Timeout: seconds(10)}); err != nil {
		t.Fatal(err)
	}
	st := c.status()
	if st.State != api.ContainerState_CONTAINER_EXITED || st.ExitCode != 7 || st.Reason != "Error" || st.FinishedAt < st.StartedAt {
		t.Errorf("after stop: %v", st)
	}
	for range 2 {
		if _, err := p.n.rt.StopContainer(ctx, &api.StopContainerRequest{ContainerId: c.id}); err != nil {
			t.Errorf("stop again: %v", err)
		}
		if _, err := p.n.rt.RemoveContainer(ctx, &api.RemoveContainerRequest{ContainerId: c.id}); err != nil {
			t.Errorf("remove: %v", err)
		}
	}
	_, err := p.n.rt.ContainerStatus(ctx, &api.ContainerStatusRequest{ContainerId: c.id})
	if status.Code(err) != codes.NotFound {
		t.Errorf("status of a removed container: %v", err)
	}
}

func TestExitCodes(t *testing.T) {
	p := newPod(t)
	for script, want := range map[string]struct {
		code   int32
		reason string
	}{
		"exit 0": {0, "Completed"}, "exit 42": {42, "Error"}, "kill -9 $$": {137, "Error"}, "kill -TERM $$; sleep 1": {143, "Error"},
	} {
		st := p.run("exec sh -c '" + script + "' ; ").wait()
		if script[:4] == "kill" {
			continue // signals to a PID namespace's init are the kernel's business; see TestKilled
		}
		if st.ExitCode != want.code || st.Reason != want.reason {
			t.Errorf("%s: %d %s", script, st.ExitCode, st.Reason)
		}
	}
}

func TestKilled(t *testing.T) {
	p := newPod(t)
	c := p.run("echo up; exec sleep 100")
	eventually(t, "its own program runs, not the one that prepares it", func() bool { return strings.Contains(c.logs(), "up") })
	begin := time.Now()
	if _, err := p.n.rt.StopContainer(testContext(t), &api.StopContainerRequest{ContainerId: c.id, Timeout: 1}); err != nil {
		t.Fatal(err)
	}
	if st := c.status(); st.ExitCode != 137 || time.Since(begin) < time.Second {
		t.Errorf("exit code %d after %v", st.ExitCode, time.Since(begin))
	}
}

// Commands that are being started in a container just when it is killed fail, and don't keep it from ending: what is left of
// them is in its PID namespace.
func TestExecsRaceWithTheEnd(t *testing.T) {
	p := newPod(t)
	for range 5 {
		c := p.run("exec sleep 100")
		var execs sync.WaitGroup
		stop := make(chan struct{})
		for range 8 {
			execs.Go(func() {
				for {
					select {
					case <-stop:
						return
					default: // the error is what is expected
						_, _ = p.n.rt.ExecSync(testContext(t), &api.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"true"}, Timeout: 5})
					}
				}
			})
		}
		time.Sleep(200 * time.Millisecond) // some are at each step of their start
		if _, err := p.n.rt.StopContainer(testContext(t), &api.StopContainerRequest{ContainerId: c.id}); err != nil {
			t.Fatal(err)
		}
		close(stop)
		execs.Wait()
		if st := c.status(); st.State != api.ContainerState_CONTAINER_EXITED || st.ExitCode != 137 {
			t.Errorf("status: %v", st)
		}
	}
}

func TestStartFailure(t *testing.T) {
	p := newPod(t)
	c := p.create(containerConfig("/no/such/program"))
	_, err := p.n.rt.StartContainer(testContext(t), &api.StartContainerRequest{ContainerId: c.id})
	if err == nil || !strings.Contains(err.Error(), "no such file or directory") {
		t.Fatalf("start: %v", err)
	}
	if st := c.status(); st.State != api.ContainerState_CONTAINER_EXITED || st.ExitCode == 0 || st.Message == "" {
		t.Errorf("status: %v", st)
	}
}

func TestExecSync(t *testing.T) {
	p := newPod(t)
	c := p.run("sleep 100")
	ctx := testContext(t)
	if _, err := p.n.rt.ExecSync(ctx, &api.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"sleep", "60"}, Timeout: 1}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("timeout: %v", err)
	}
	if out, _, _ := c.exec("ps"); strings.Contains(out, "sleep 60") {
		t.Errorf("the command outlived its timeout:\n%s", out)
	}
	out, errOut, code := c.exec("sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x; echo problem >&2")
	if len(out) != 100000 || errOut != "problem\n" || code != 0 {
		t.Errorf("large output: %d bytes, %q, %d", len(out), errOut, code)
	}
	if shared.kind != "mote" {
		return // containerd waits for whoever holds the pipe
	}
	begin := time.Now()
	if out, _, _ := c.exec("sh", "-c", "sleep 30 & echo now"); out != "now\n" || time.Since(begin) > slow(5*time.Second) {
		t.Errorf("a child that keeps stdout open: %q after %v", out, time.Since(begin))
	}
	if _, err := p.n.rt.ExecSync(ctx, &api.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"nosuchthing"}}); err == nil {
		t.Error("a missing command didn't fail")
	}
}
