package e2e

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The agent may be restarted at any time: nobody who watches a pod notices.
func TestAgentRestartChangesNoPod(t *testing.T) {
	n := cluster.Nodes[1]
	apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: calm}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 1
  initContainers:
  - {name: side, image: "mote.local/busybox:1", args: [sleep, "3600"], restartPolicy: Always, startupProbe: {exec: {command: [/busybox, "true"]}, periodSeconds: 1}}
  containers:
  - name: probed
    image: mote.local/busybox:1
    args: [sleep, "3600"]
    readinessProbe: {exec: {command: [/busybox, "true"]}, periodSeconds: 5}
    livenessProbe: {exec: {command: [/busybox, "true"]}, periodSeconds: 5}
  - {name: plain, image: "mote.local/busybox:1", args: [sleep, "3600"]}
`, n.Name))
	kubectl(t, "wait", "--for=condition=Ready", "pod/calm", "--timeout=30s")
	before := kubectl(t, "get", "pod", "calm", "-o", "jsonpath={.metadata.resourceVersion} {.status}")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	watch := exec.CommandContext(ctx, "nsenter", "--net="+cluster.Switch(), "kubectl", "--kubeconfig", cluster.Kubeconfig(), "get", "pod", "calm", "-w",
		"-o", `jsonpath={.metadata.resourceVersion} {.status.conditions[*].status}{"\n"}`)
	seen, err := watch.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 100)
	go func() {
		for sc := bufio.NewScanner(seen); sc.Scan(); {
			lines <- sc.Text()
		}
		close(lines)
	}()
	<-lines // as it is
	for range 3 {
		if err := n.Kill(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := n.StartAgent(context.Background(), ""); err != nil {
			t.Fatal(err)
		}
		until(t, "the new agent serves the pod", 30*time.Second, func() bool {
			_, err := try("exec", "calm", "-c", "plain", "--", "/busybox", "true")
			return err == nil
		})
	}
	time.Sleep(6 * time.Second) // a round of every probe
	cancel()
	_ = watch.Wait()
	for l := range lines {
		t.Errorf("the pod was written: %s", l)
	}
	if after := kubectl(t, "get", "pod", "calm", "-o", "jsonpath={.metadata.resourceVersion} {.status}"); after != before {
		t.Errorf("the pod has changed:\n%s\n%s", before, after)
	}
}

// What the agent was told to end, its next run ends: with the container's own exit code, and one run of the hook.
func TestAgentKilledInAGracePeriod(t *testing.T) {
	n := cluster.Nodes[1]
	out := filepath.Join(n.Dir(), "hooks")
	if err := os.MkdirAll(out, 0o777); err != nil {
		t.Fatal(err)
	}
	apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: ending, finalizers: [mote.test/held]}
spec:
  nodeName: %s
  restartPolicy: Never
  terminationGracePeriodSeconds: 20
  volumes: [{name: out, hostPath: {path: %s}}]
  containers:
  - name: c
    image: mote.local/busybox:1
    args: [sh, -c, "trap 'sleep 5; exit 3' TERM; while true; do sleep 0.1; done"]
    securityContext: {runAsUser: 0}
    volumeMounts: [{name: out, mountPath: /out}]
    lifecycle: {preStop: {exec: {command: [/busybox, sh, -c, "echo ran >> /out/log"]}}}
`, n.Name, out))
	free := func() {
		_, _ = try("patch", "pod", "ending", "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
	}
	t.Cleanup(free)
	kubectl(t, "wait", "--for=condition=Ready", "pod/ending", "--timeout=30s")
	kubectl(t, "delete", "pod", "ending", "--wait=false")
	until(t, "the hook has run", 10*time.Second, func() bool {
		b, err := os.ReadFile(filepath.Join(out, "log"))
		return err == nil && len(b) > 0
	})
	time.Sleep(500 * time.Millisecond) // the stop signal has been sent
	began := time.Now()
	if err := n.Kill(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := n.StartAgent(context.Background(), ""); err != nil {
		t.Fatal(err)
	}
	code := ""
	until(t, "the container has ended", 30*time.Second, func() bool {
		out, err := try("get", "pod", "ending", "-o", "jsonpath={.status.containerStatuses[0].state.terminated.exitCode}")
		code = strings.TrimSpace(out)
		return err == nil && code != ""
	})
	if code != "3" {
		t.Errorf("exit code %s, want the container's own, 3", code)
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("it took %s: the grace period began anew", took)
	}
	if b, err := os.ReadFile(filepath.Join(out, "log")); err != nil || string(b) != "ran\n" {
		t.Errorf("the hook ran %d times, %v", strings.Count(string(b), "\n"), err)
	}
	free()
	until(t, "the pod is gone", 20*time.Second, func() bool {
		out, err := try("get", "pod", "ending", "--ignore-not-found")
		return err == nil && strings.TrimSpace(out) == ""
	})
}

// A node that loses power starts its pods from what it has on disk, without the control plane.
func TestBootWithoutTheServer(t *testing.T) {
	server, n := cluster.Nodes[0], cluster.Nodes[1]
	out := filepath.Join(n.Dir(), "boots")
	if err := os.MkdirAll(out, 0o777); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "create", "configmap", "island", "--from-literal=v=config")
	kubectl(t, "create", "secret", "generic", "island", "--from-literal=v=secret")
	defer func() { _, _ = try("delete", "configmap/island", "secret/island") }()
	apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: island}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 1
  volumes: [{name: out, hostPath: {path: %s}}, {name: s, secret: {secretName: island}}]
  containers:
  - name: c
    image: mote.local/busybox:1
    args: [sh, -c, 'echo "$V $(cat /s/v)" >> /out/log; exec sleep 3600']
    securityContext: {runAsUser: 0}
    env: [{name: V, valueFrom: {configMapKeyRef: {name: island, key: v}}}]
    volumeMounts: [{name: out, mountPath: /out}, {name: s, mountPath: /s}]
`, n.Name, out))
	kubectl(t, "wait", "--for=condition=Ready", "pod/island", "--timeout=30s")
	kept := filepath.Join(n.Dir(), "data", "agent", "kept", "secrets_default_island")
	until(t, "the secret is on the node's disk", 5*time.Second, func() bool { _, err := os.Stat(kept); return err == nil })
	uid := kubectl(t, "get", "pod", "island", "-o", "jsonpath={.metadata.uid}")
	if err := server.Kill(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	defer func() { // whatever happens here, the other tests want a cluster
		if !server.Running() {
			if err := server.StartServer(context.Background()); err != nil {
				t.Error(err)
			}
		}
	}()
	t.Cleanup(func() {
		if log, err := os.ReadFile(n.Log()); t.Failed() && err == nil {
			t.Logf("the end of the node's log:\n%s", log[max(0, len(log)-3000):])
		}
	})
	if err := n.PowerOff(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := n.StartAgent(context.Background(), ""); err != nil {
		t.Fatal(err)
	}
	const want = "config secret\nconfig secret\n"
	until(t, "the pod runs again, without a server", 60*time.Second, func() bool {
		b, err := os.ReadFile(filepath.Join(out, "log"))
		return err == nil && string(b) == want
	})
	if err := server.StartServer(context.Background()); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "wait", "--for=condition=Ready", "pod/island", "--timeout=60s")
	if now := kubectl(t, "get", "pod", "island", "-o", "jsonpath={.metadata.uid}"); now != uid {
		t.Errorf("another pod: %s, was %s", now, uid)
	}
	if b, err := os.ReadFile(filepath.Join(out, "log")); err != nil || string(b) != want {
		t.Errorf("the server's return restarted it: %q, %v", b, err)
	}
}
