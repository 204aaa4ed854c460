package e2e

import (
	"context"
	"strings"
	"syscall"
	"testing"
	"time"
)

// preferN1 is a Deployment that runs on n1 as long as it can, and leaves a silent node after a second.
const preferN1 = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: moves}
spec:
  selector: {matchLabels: {app: moves}}
  template:
    metadata: {labels: {app: moves}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 1}
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 1}
      affinity:
        nodeAffinity:
          preferredDuringSchedulingIgnoredDuringExecution:
          - {weight: 100, preference: {matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [n1]}]}}
      containers: [{name: c, image: "mote.local/busybox:1", args: [sleep, "1000"]}]
`

func runsReadyOn(node string) bool {
	out, err := try("get", "pods", "-l", "app=moves", "--field-selector", "spec.nodeName="+node,
		"-o", `jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{end}`)
	return err == nil && strings.Contains(out, "True")
}

func runsReadyElsewhere() bool { return runsReadyOn("n0") || runsReadyOn("n2") }

func TestDrain(t *testing.T) {
	apply(t, preferN1)
	until(t, "the pod runs on n1", 30*time.Second, func() bool { return runsReadyOn("n1") })
	defer kubectl(t, "uncordon", "n1")
	kubectl(t, "drain", "n1", "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=60s")
	until(t, "the pod runs on another node", 30*time.Second, runsReadyElsewhere)
	if out := kubectl(t, "get", "node", "n1"); !strings.Contains(out, "SchedulingDisabled") {
		t.Error(out)
	}
}

func TestPodsLeaveADeadNode(t *testing.T) {
	n := cluster.Nodes[1]
	apply(t, preferN1)
	until(t, "the pod runs on n1", 30*time.Second, func() bool { return runsReadyOn("n1") })
	if err := n.Kill(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := n.StartAgent(context.Background(), ""); err != nil {
			t.Fatal(err)
		}
		kubectl(t, "wait", "--for=condition=Ready", "node/n1", "--timeout=60s")
	}()
	until(t, "the silent node is tainted", 90*time.Second, func() bool {
		out, err := try("get", "node", "n1", "-o", "jsonpath={.spec.taints[*].key}")
		return err == nil && strings.Contains(out, "node.kubernetes.io/unreachable")
	})
	until(t, "the pod runs on another node", 60*time.Second, runsReadyElsewhere)
}
