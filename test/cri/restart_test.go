package cri

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func needsMote(t *testing.T) {
	if shared.kind != "mote" {
		t.Skip("a promise of mote-runtime's own")
	}
}

// killRuntime ends mote-runtime without warning and waits for the next one.
func killRuntime(t testing.TB) {
	t.Helper()
	pid := shared.runtimePid(t)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the next runtime", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), slow(time.Second))
		defer cancel()
		_, err := shared.rt.Version(ctx, &api.VersionRequest{})
		return err == nil
	})
}

func hostPid(t *testing.T, c *ctr) int {
	t.Helper()
	reply, err := shared.rt.ContainerStatus(testContext(t), &api.ContainerStatusRequest{ContainerId: c.id, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(reply.Info["info"], `"pid":`)
	digits, _, _ := strings.Cut(rest, ",")
	pid, err := strconv.Atoi(digits)
	if err != nil {
		t.Fatalf("pid in %q: %v", reply.Info["info"], err)
	}
	return pid
}

// The blueprint's promise 4: a restart of the runtime neither kills a writer nor loses or repeats a line.
func TestRuntimeKilledWhileContainerCounts(t *testing.T) {
	needsMote(t)
	p := newPod(t)
	const lines = 60000
	c := p.run(fmt.Sprintf("i=0; while [ $i -lt %d ]; do i=$((i+1)); echo line $i; done; exit 9", lines))
	pid := hostPid(t, c)
	for range 4 {
		time.Sleep(60 * time.Millisecond)
		killRuntime(t)
		if st := c.status(); st.State == api.ContainerState_CONTAINER_RUNNING && hostPid(t, c) != pid {
			t.Fatalf("pid changed from %d to %d", pid, hostPid(t, c))
		}
	}
	if st := c.wait(); st.ExitCode != 9 {
		t.Errorf("exit code %d, want 9 (%s)", st.ExitCode, st.Reason)
	}
	next := 1
	for line := range strings.Lines(c.logs()) {
		if want := fmt.Sprintf("line %d\n", next); line != want {
			t.Fatalf("log line %q, want %q", line, want)
		}
		next++
	}
	if next != lines+1 {
		t.Errorf("%d lines in the log, want %d", next-1, lines)
	}
}

func TestExitWhileRuntimeIsDown(t *testing.T) {
	needsMote(t)
	p := newPod(t)
	c := p.run("echo before; while [ ! -e /tmp/go ]; do sleep 0.02; done; echo after; printf unterminated; exit 23")
	pid := hostPid(t, c)
	victim := shared.runtimePid(t)
	if err := unix.Kill(victim, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/root/tmp/go", pid), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond) // the container ends while nobody looks
	if err := unix.Kill(victim, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the next runtime", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), slow(time.Second))
		defer cancel()
		_, err := shared.rt.Version(ctx, &api.VersionRequest{})
		return err == nil
	})
	if st := c.wait(); st.ExitCode != 23 || st.Reason != "Error" {
		t.Errorf("exit code %d, reason %s", st.ExitCode, st.Reason)
	}
	if got := c.logs(); got != "before\nafter\nunterminated" {
		t.Errorf("log %q", got)
	}
}

func TestExecAndStopAfterRestart(t *testing.T) {
	needsMote(t)
	p := newPod(t)
	c := p.run("trap 'echo bye; exit 5' TERM; while :; do sleep 0.02; done")
	created := p.create(containerConfig("echo", "late"))
	killRuntime(t)
	if out, _, _ := c.exec("echo", "hello"); out != "hello\n" {
		t.Errorf("exec: %q", out)
	}
	if _, err := p.n.rt.StopContainer(testContext(t), &api.StopContainerRequest{ContainerId: c.id, Timeout: seconds(10)}); err != nil {
		t.Fatal(err)
	}
	if st := c.status(); st.ExitCode != 5 {
		t.Errorf("exit code %d", st.ExitCode)
	}
	if got := c.logs(); got != "bye\n" {
		t.Errorf("log %q", got)
	}
	if _, err := p.n.rt.StartContainer(testContext(t), &api.StartContainerRequest{ContainerId: created.id}); err != nil {
		t.Errorf("start what was created before the restart: %v", err)
	}
	if created.wait(); created.logs() != "late\n" {
		t.Errorf("log %q", created.logs())
	}
}

// When the holder dies, the runtime's own process becomes the holder: containers stay children of the same pid.
func TestHolderKilled(t *testing.T) {
	needsMote(t)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	n := &node{kind: "mote", dir: dir, bin: shared.bin}
	if err := n.restartable(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.close)
	old := shared
	shared = n
	defer func() { shared = old }()
	p := newPod(t)
	c := p.run("i=0; while [ $i -lt 30000 ]; do i=$((i+1)); echo line $i; done; exit 11")
	pid := hostPid(t, c)
	runtimePid := n.runtimePid(t)
	if err := unix.Kill(n.hold.Process.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = n.hold.Wait()
	eventually(t, "the runtime to become the holder", func() bool {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", runtimePid))
		ctx, cancel := context.WithTimeout(context.Background(), slow(time.Second))
		defer cancel()
		_, err := n.rt.Version(ctx, &api.VersionRequest{})
		return strings.TrimSpace(string(comm)) == "mote-hold" && err == nil
	})
	n.hold.Process, _ = os.FindProcess(runtimePid)
	if st := c.status(); st.State == api.ContainerState_CONTAINER_RUNNING && hostPid(t, c) != pid {
		t.Error("the container was restarted")
	}
	if st := c.wait(); st.ExitCode != 11 {
		t.Errorf("exit code %d (%s)", st.ExitCode, st.Reason)
	}
	if got := strings.Count(c.logs(), "\n"); got != 30000 {
		t.Errorf("%d lines", got)
	}
	p.remove()
}

// Holder and runtime die together: the container lives on, and its streams are found again.
func TestBothKilled(t *testing.T) {
	needsMote(t)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	n := &node{kind: "mote", dir: dir, bin: shared.bin}
	if err := n.restartable(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.close() })
	old := shared
	shared = n
	defer func() { shared = old }()
	p := newPod(t)
	c := p.run("while [ ! -e /tmp/go ]; do sleep 0.05; done; echo after; sleep 1000")
	pid := hostPid(t, c)
	victim := n.runtimePid(t)
	if err := unix.Kill(victim, unix.SIGSTOP); err != nil { // so that it can't become the holder
		t.Fatal(err)
	}
	// The namespaces live as long as a process is in them; keep them for the next holder.
	keeper := n.hold.Process.Pid
	namespaces := exec.Command("nsenter", "-t", strconv.Itoa(keeper), "-n", "-m", "sleep", "100")
	if err := namespaces.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = namespaces.Process.Kill(); _ = namespaces.Wait() }()
	eventually(t, "a process that keeps the namespaces", func() bool {
		a, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", keeper))
		b, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", namespaces.Process.Pid))
		return a == b
	})
	_ = unix.Kill(keeper, unix.SIGKILL)
	_ = unix.Kill(victim, unix.SIGKILL)
	_ = n.hold.Wait()
	n.enter = namespaces.Process.Pid
	if err := n.start(); err != nil {
		t.Fatal(err)
	}
	if err := n.await(); err != nil {
		t.Fatal(err)
	}
	if st := c.status(); st.State != api.ContainerState_CONTAINER_RUNNING || hostPid(t, c) != pid {
		t.Fatalf("the container is %v", st)
	}
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/root/tmp/go", pid), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the line in the log", func() bool { return c.logs() == "after\n" })
	p.remove()
}

func (n *node) restartable() error {
	if err := n.start(); err != nil {
		return err
	}
	if err := n.connect("unix://" + n.socket); err != nil {
		return err
	}
	archive, err := busyboxArchive(testImage)
	if err != nil {
		return err
	}
	return n.importImage(archive)
}
