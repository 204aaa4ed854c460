package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A container's end starts its whole pod over, in place: same address, init container again, whatever the restart policy.
func TestRestartAllContainers(t *testing.T) {
	apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: anew}
spec:
  nodeName: n1
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  initContainers:
  - {name: first, image: "mote.local/busybox:1", args: [sh, -c, "echo once >> /work/first"], volumeMounts: [{name: work, mountPath: /work}], securityContext: {runAsUser: 0}}
  - {name: side, image: "mote.local/busybox:1", args: [sleep, "3600"], restartPolicy: Always}
  containers:
  - name: source
    image: mote.local/busybox:1
    args: [sh, -c, "if [ -e /work/again ]; then sleep 3600; fi; touch /work/again; sleep 1; exit 42"]
    restartPolicy: Never
    restartPolicyRules:
    - {action: RestartAllContainers, exitCodes: {operator: In, values: [42]}}
    volumeMounts: [{name: work, mountPath: /work}]
    securityContext: {runAsUser: 0}
  - {name: other, image: "mote.local/busybox:1", args: [sleep, "3600"], volumeMounts: [{name: work, mountPath: /work}]}
  volumes: [{name: work, emptyDir: {}}]
`)
	const counts = "jsonpath={.status.initContainerStatuses[*].restartCount} {.status.containerStatuses[*].restartCount}"
	until(t, "all containers were restarted", 60*time.Second, func() bool {
		out, err := try("get", "pod", "anew", "-o", counts)
		return err == nil && out == "1 1 1 1"
	})
	kubectl(t, "wait", "--for=condition=Ready", "pod/anew", "--timeout=30s")
	if got := kubectl(t, "exec", "anew", "-c", "other", "--", "/busybox", "cat", "/work/first"); got != "once\nonce" {
		t.Errorf("the init container's traces: %q", got)
	}
	if got := kubectl(t, "get", "pod", "anew", "-o", "jsonpath={.status.containerStatuses[*].lastState.terminated.exitCode} {.status.containerStatuses[*].lastState.terminated.reason}"); got != "137 42 RestartingAllContainers Error" && got != "42 137 Error RestartingAllContainers" {
		t.Errorf("what they ended with: %s", got)
	}
	if got := kubectl(t, "get", "pod", "anew", "-o", `jsonpath={.status.conditions[?(@.type=="AllContainersRestarting")].status}`); got != "False" {
		t.Errorf("condition: %q", got)
	}
	file := filepath.Join(t.TempDir(), "wrong.json")
	wrong := `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"wrong"},"spec":{"containers":[{"name":"c","image":"x","restartPolicy":"Never",
		"restartPolicyRules":[{"action":"Reboot","exitCodes":{"operator":"In","values":[1]}}]}]}}`
	if err := os.WriteFile(file, []byte(wrong), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := try("create", "-f", file); err == nil || !strings.Contains(err.Error(), `Unsupported value: "Reboot"`) {
		t.Errorf("a wrong action: %v", err)
	}
}

// A pod knows the zone of its node, the node says what it can, and statistics have what monitoring asks for.
func TestNodeTellsAboutItself(t *testing.T) {
	kubectl(t, "label", "node", "n1", "topology.kubernetes.io/zone=z1", "--overwrite")
	defer kubectl(t, "label", "node", "n1", "topology.kubernetes.io/zone-")
	if got := kubectl(t, "get", "node", "n1", "-o", "jsonpath={.status.declaredFeatures}"); !strings.Contains(got, "RestartAllContainersOnContainerExits") {
		t.Errorf("declared features: %s", got)
	}
	apply(t, strings.Replace(busybox("zoned", "n1", "sleep 3600"), "nodeName: n1", `nodeSelector: {kubernetes.io/hostname: n1}`, 1))
	kubectl(t, "wait", "--for=condition=Ready", "pod/zoned", "--timeout=30s")
	if got := kubectl(t, "get", "pod", "zoned", "-o", `jsonpath={.metadata.labels.topology\.kubernetes\.io/zone}`); got != "z1" {
		t.Errorf("zone: %q", got)
	}
	var summary struct {
		Node struct {
			Network          struct{ Interfaces []any }
			SystemContainers []struct{ Name string }
		}
	}
	if err := json.Unmarshal([]byte(kubectl(t, "get", "--raw", "/api/v1/nodes/n1/proxy/stats/summary")), &summary); err != nil {
		t.Fatal(err)
	}
	if s := summary.Node; len(s.SystemContainers) == 0 || s.SystemContainers[0].Name != "pods" {
		t.Errorf("%+v", s)
	}
	if got := kubectl(t, "get", "--raw", "/api/v1/nodes/n1/proxy/statusz"); !strings.Contains(got, "kubelet statusz") {
		t.Error(got)
	}
}

// A pod asks for a device by an extended resource that a class backs, and gets it by a claim; when the device is tainted,
// the pod goes and the rule tells of it.
func TestDevicesOfAClass(t *testing.T) {
	n := cluster.Nodes[1]
	cdi := "/run/cdi"
	driver := filepath.Join(t.TempDir(), "dradriver")
	if out, err := exec.Command("go", "build", "-o", driver, "../dradriver").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	name := fmt.Sprintf("e2e%d.example.com", os.Getpid())
	cmd := exec.Command(driver, "-name", name, "-kubelet-dir", filepath.Join(n.Dir(), "data", "kubelet"), "-cdi-dir", cdi)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Signal(syscall.SIGTERM); _ = cmd.Wait() })
	apply(t, fmt.Sprintf(`
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {name: e2e}
spec: {extendedResourceName: example.com/e2e, selectors: [{cel: {expression: 'device.driver == "%[1]s"'}}]}
---
apiVersion: resource.k8s.io/v1
kind: ResourceSlice
metadata: {name: e2e}
spec:
  driver: %[1]s
  nodeName: n1
  pool: {name: n1, generation: 1, resourceSliceCount: 1}
  devices: [{name: all}]
---
apiVersion: v1
kind: Pod
metadata: {name: device}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: "mote.local/busybox:1", args: [sleep, "3600"], resources: {limits: {example.com/e2e: 1}}}
`, name))
	if out, err := try("wait", "--for=condition=Ready", "pod/device", "--timeout=60s"); err != nil {
		events, _ := try("get", "events", "--field-selector", "involvedObject.name=device")
		t.Fatalf("%v: %s\n%s\n%s", err, out, events, said.String())
	}
	claim := kubectl(t, "get", "pod", "device", "-o", "jsonpath={.status.extendedResourceClaimStatus.resourceClaimName}")
	if got := kubectl(t, "exec", "device", "--", "/busybox", "env"); claim == "" || !strings.Contains(got, "DRA_CLAIM="+claim) {
		t.Errorf("claim %q, environment:\n%s", claim, got)
	}
	apply(t, fmt.Sprintf(`
apiVersion: resource.k8s.io/v1
kind: DeviceTaintRule
metadata: {name: e2e}
spec: {deviceSelector: {driver: %s}, taint: {key: example.com/sick, effect: NoExecute}}
`, name))
	until(t, "the pod has left its device", 60*time.Second, func() bool {
		out, err := try("get", "pod", "device", "--ignore-not-found", "-o", "name")
		return err == nil && out == ""
	})
	until(t, "the rule tells of it", 30*time.Second, func() bool {
		out, err := try("get", "devicetaintrule", "e2e", "-o", "jsonpath={.status.conditions[*].reason}")
		return err == nil && out == "Completed"
	})
	until(t, "its claim is gone, too", 60*time.Second, func() bool {
		out, err := try("get", "resourceclaims", "-o", "name")
		return err == nil && out == ""
	})
}
