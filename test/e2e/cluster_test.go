package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestPodsServicesAndNamesAcrossNodes(t *testing.T) {
	server := func(node string) string {
		return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: web-%[1]s, labels: {app: web-%[1]s}}
spec:
  nodeName: %[1]s
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: "mote.local/peer:1", args: [serve, from %[1]s], readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1}}
---`, node)
	}
	apply(t, server("n0")+server("n1")+server("n2")+`
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web-n1}
  ports: [{port: 80, targetPort: 8080, nodePort: 31080}]
`)
	kubectl(t, "wait", "--for=condition=Ready", "pod/web-n0", "pod/web-n1", "pod/web-n2", "--timeout=30s")
	ip := kubectl(t, "get", "pod", "web-n1", "-o", "jsonpath={.status.podIP}")
	for _, url := range []string{"http://" + ip + ":8080/", "http://web.default.svc.cluster.local/", "http://web/"} {
		for _, from := range []string{"web-n0", "web-n1", "web-n2"} { // web-n1 meets itself: the hairpin
			until(t, url+" answers "+from, 10*time.Second, func() bool {
				out, err := try("exec", from, "--", "/peer", "get", url)
				return err == nil && strings.Contains(out, "from n1")
			})
		}
	}
	service := kubectl(t, "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	for _, node := range cluster.Nodes {
		for from, url := range map[string]string{
			"the node itself": "http://" + service + "/", "the node, to the pod": "http://" + ip + ":8080/", "outside": "http://" + node.IP + ":31080/",
		} {
			until(t, url+" answers "+from+" of "+node.Name, 10*time.Second, func() bool {
				in := node.Name
				if from == "outside" {
					in = "sw"
				}
				out, err := within(in, "curl", "-s", "-m", "2", url)
				return err == nil && strings.Contains(out, "from n1")
			})
		}
	}
}

func TestLogsExecAndCopyOnEachNode(t *testing.T) {
	for _, node := range []string{"n0", "n1", "n2"} {
		name := "tools-" + node
		apply(t, busybox(name, node, "echo first; echo second >&2; sleep 1000"))
		kubectl(t, "wait", "--for=condition=Ready", "pod/"+name, "--timeout=30s")
		until(t, "both lines are in the log", 5*time.Second, func() bool {
			out, err := try("logs", name)
			return err == nil && strings.Contains(out, "first\n") && strings.Contains(out, "second\n")
		})
		if got := kubectl(t, "exec", name, "--", "/busybox", "sh", "-c", "echo $((6*7))"); got != "42" {
			t.Errorf("exec on %s: %q", node, got)
		}
		if out, err := try("exec", name, "--", "/busybox", "sh", "-c", "exit 3"); err == nil || !strings.Contains(err.Error(), "exit code 3") {
			t.Errorf("exit code on %s: %v, %s", node, err, out)
		}
	}
}

func TestDeploymentRollsOutAndBack(t *testing.T) {
	apply(t, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: roll}
spec:
  replicas: 3
  selector: {matchLabels: {app: roll}}
  template:
    metadata: {labels: {app: roll}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: c, image: "mote.local/busybox:1", args: [sleep, "1000"], env: [{name: V, value: one}]}]
`)
	kubectl(t, "rollout", "status", "deployment/roll", "--timeout=60s")
	kubectl(t, "set", "env", "deployment/roll", "V=two")
	kubectl(t, "rollout", "status", "deployment/roll", "--timeout=60s")
	kubectl(t, "rollout", "undo", "deployment/roll")
	kubectl(t, "rollout", "status", "deployment/roll", "--timeout=60s")
	if v := kubectl(t, "get", "deployment", "roll", "-o", "jsonpath={.spec.template.spec.containers[0].env[0].value}"); v != "one" {
		t.Errorf("after undo: %q", v)
	}
	kubectl(t, "scale", "deployment/roll", "--replicas=1")
	kubectl(t, "rollout", "status", "deployment/roll", "--timeout=60s")
	if out := kubectl(t, "get", "deployment", "roll"); !strings.Contains(out, "1/1") {
		t.Error(out)
	}
}

func TestBadInputIsExplained(t *testing.T) {
	for title, tc := range map[string]struct {
		args []string
		want string
	}{
		"invalid name":      {[]string{"create", "configmap", "Bad_Name"}, "Invalid value: \"Bad_Name\""},
		"unknown namespace": {[]string{"-n", "nowhere", "create", "configmap", "a"}, `namespaces "nowhere" not found`},
		"missing":           {[]string{"get", "pod", "nobody"}, `pods "nobody" not found`},
	} {
		if out, err := try(tc.args...); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, %s", title, err, out)
		}
	}
	apply(t, strings.Replace(busybox("noimage", "n1", "true"), "mote.local/busybox:1", "mote.local/none:1", 1))
	until(t, "the pod says that its image can't be had", time.Minute, func() bool {
		out, err := try("get", "pod", "noimage")
		return err == nil && (strings.Contains(out, "ErrImagePull") || strings.Contains(out, "ImagePullBackOff"))
	})
}
