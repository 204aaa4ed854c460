package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// within runs a program in a node's network namespace, or in the switch's, "sw".
func within(part, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + strings.TrimSuffix(cluster.Switch(), "sw") + part, name}, args...)...).CombinedOutput()
	return string(out), err
}

// counting starts a pod that writes a number ten times a second, and its process's own number first.
func counting(t *testing.T, name, node string) {
	t.Helper()
	apply(t, busybox(name, node, "i=0; while true; do echo $i; i=$((i+1)); sleep 0.1; done"))
	kubectl(t, "wait", "--for=condition=Ready", "pod/"+name, "--timeout=30s")
}

// noGap checks that the log holds 0, 1, 2, … up to at least least.
func noGap(t *testing.T, name string, least int) {
	t.Helper()
	var lines []string
	until(t, fmt.Sprintf("%s has counted to %d", name, least), 30*time.Second, func() bool {
		out, err := try("logs", name)
		lines = strings.Fields(out)
		return err == nil && len(lines) > least
	})
	for i, l := range lines {
		if l != strconv.Itoa(i) {
			t.Fatalf("line %d of the log is %q: lines were lost or repeated", i, l)
		}
	}
}

func restarts(t *testing.T, name string) string {
	t.Helper()
	return kubectl(t, "get", "pod", name, "-o", "jsonpath={.status.containerStatuses[0].restartCount}/{.status.containerStatuses[0].containerID}")
}

func TestKillRuntime(t *testing.T) {
	n := cluster.Nodes[1]
	counting(t, "count-runtime", n.Name)
	apply(t, busybox("ends", n.Name, "sleep 2; exit 7"))
	kubectl(t, "wait", "--for=condition=Ready", "pod/ends", "--timeout=30s")
	before := restarts(t, "count-runtime")
	for range 3 {
		for _, pid := range n.Programs()["mote-runtime"] {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(700 * time.Millisecond) // let it come back and be killed again at work
	}
	noGap(t, "count-runtime", 40)
	if after := restarts(t, "count-runtime"); after != before {
		t.Errorf("the container was restarted: %s, then %s", before, after)
	}
	until(t, "the exit code of a container that ended meanwhile is known", 20*time.Second, func() bool {
		out, err := try("get", "pod", "ends", "-o", "jsonpath={.status.containerStatuses[0].state.terminated.exitCode}")
		return err == nil && strings.TrimSpace(out) == "7"
	})
}

func TestKillAgent(t *testing.T) {
	n := cluster.Nodes[1]
	counting(t, "count-agent", n.Name)
	before := restarts(t, "count-agent")
	for range 2 {
		if err := n.Kill(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := n.StartAgent(context.Background(), ""); err != nil { // no token: the node has joined
			t.Fatal(err)
		}
	}
	noGap(t, "count-agent", 40)
	if after := restarts(t, "count-agent"); after != before {
		t.Errorf("the container was restarted: %s, then %s", before, after)
	}
}

func TestKillServerLosesNoAcknowledgedWrite(t *testing.T) {
	n := cluster.Nodes[0]
	counting(t, "count-server", n.Name)
	before := restarts(t, "count-server")
	var acknowledged []string
	for i := range 20 {
		name := fmt.Sprintf("kept-%d", i)
		kubectl(t, "create", "configmap", name, "--from-literal=i="+strconv.Itoa(i))
		acknowledged = append(acknowledged, name)
	}
	if err := n.Kill(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := n.StartServer(context.Background()); err != nil {
		t.Fatal(err)
	}
	have := kubectl(t, "get", "configmaps", "-o", "name")
	for _, name := range acknowledged {
		if !strings.Contains(have, "configmap/"+name+"\n") && !strings.HasSuffix(have, "configmap/"+name) {
			t.Errorf("%s is gone", name)
		}
	}
	kubectl(t, append([]string{"delete", "configmap"}, acknowledged...)...)
	noGap(t, "count-server", 40)
	if after := restarts(t, "count-server"); after != before {
		t.Errorf("the container was restarted: %s, then %s", before, after)
	}
}

// A datastore that another machine had, or this one under another name: its server isn't waited for.
func TestServerTakesUpWhereAnotherStopped(t *testing.T) {
	const holder = "lease/mote-controllers"
	own := kubectl(t, "-n", "kube-system", "get", holder, "-o", "jsonpath={.spec.holderIdentity}")
	now := time.Now().UTC().Format("2006-01-02T15:04:05.000000Z")
	kubectl(t, "-n", "kube-system", "patch", holder, "--type=merge", "-p", `{"spec":{"holderIdentity":"another","renewTime":"`+now+`"}}`)
	n := cluster.Nodes[0]
	if err := n.Kill(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := n.StartServer(context.Background()); err != nil {
		t.Fatal(err)
	}
	until(t, "the server holds the lease", 30*time.Second, func() bool {
		got, err := try("-n", "kube-system", "get", holder, "-o", "jsonpath={.spec.holderIdentity}")
		return err == nil && got == own
	})
	kubectl(t, "create", "namespace", "led")
	kubectl(t, "delete", "namespace", "led", "--timeout=30s") // by a controller
}
