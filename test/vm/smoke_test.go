package vm

import (
	"strings"
	"testing"
	"time"
)

// TestSmoke: a cluster under systemd on kernel 6.1 with cgroup v2 alone: the node is Ready, pods run with their limits, are
// killed for their memory, can be entered, counted and logged.
func TestSmoke(t *testing.T) {
	m := newMachine(t)
	boot(t, m)
	if fs := sh(t, m, time.Minute, "stat -fc %T /sys/fs/cgroup; uname -r; ps -p 1 -o comm= 2>/dev/null || cat /proc/1/comm"); !strings.HasPrefix(fs, "cgroup2fs") {
		t.Fatalf("not a machine with cgroup v2: %s", fs)
	}
	sh(t, m, 5*time.Minute, "cp /opt/mote/*.tar /var/lib/mote/images/ && systemctl enable --now mote && "+whole+ready)
	t.Log(sh(t, m, time.Minute, whole+"kubectl get nodes -o wide"))
	sh(t, m, 5*time.Minute, whole+apply(
		pod("limits", "container:resources: {requests: {cpu: 100m, memory: 20Mi}, limits: {cpu: 250m, memory: 32Mi}}", "echo up; exec sleep 10000"),
		pod("oom", "pod:restartPolicy: Never,|container:resources: {limits: {memory: 16Mi}}", "head -c 64m /dev/zero | tail -c 64m | wc -c; exit 0"),
		pod("hungry", "pod:restartPolicy: Never,|container:resources: {limits: {memory: 16Mi}}", "x=a; while true; do x=$x$x; done"),
		pod("ends", "pod:restartPolicy: Never,", "echo bye; exit 7"),
	)+"kubectl wait --for=condition=Ready pod/limits --timeout=600s")

	t.Run("limits", func(t *testing.T) {
		got := sh(t, m, time.Minute, `d=$(find /sys/fs/cgroup -type d -path '*kubepods*burstable*' -name '[0-9a-f]*' | awk -F/ 'length($NF)==64' | head -n 1); cat $d/memory.max $d/cpu.max`)
		if strings.Join(strings.Fields(got), " ") != "33554432 25000 100000" {
			t.Errorf("memory.max and cpu.max are %q", got)
		}
	})
	t.Run("exec and logs", func(t *testing.T) {
		if got := sh(t, m, time.Minute, whole+"kubectl exec limits -- /busybox echo inside 2>/dev/null; kubectl logs limits"); got != "inside\nup" {
			t.Errorf("%q", got)
		}
	})
	t.Run("exit code", func(t *testing.T) {
		got := sh(t, m, 2*time.Minute, whole+"kubectl wait --for=jsonpath={.status.phase}=Failed pod/ends --timeout=400s >&2; kubectl get pod ends -o jsonpath={.status.containerStatuses[0].state.terminated.exitCode}")
		if !strings.HasSuffix(got, "7") {
			t.Error(got)
		}
	})
	t.Run("OOMKilled", func(t *testing.T) {
		got := sh(t, m, 3*time.Minute, whole+"kubectl wait --for=jsonpath={.status.phase}=Failed pod/hungry --timeout=600s >&2; kubectl get pod hungry -o jsonpath={.status.containerStatuses[0].state.terminated.reason},{.status.containerStatuses[0].state.terminated.exitCode}")
		if !strings.HasSuffix(got, "OOMKilled,137") {
			t.Error(got)
		}
	})
	t.Run("stats", func(t *testing.T) {
		got := sh(t, m, time.Minute, whole+"kubectl get --raw /api/v1/nodes/mote-vm/proxy/stats/summary | tr -d ' \\n' | grep -o '\"podRef\":{\"name\":\"limits\".*' | grep -o '\"workingSetBytes\":[0-9]*' | head -n 1")
		if !strings.HasPrefix(got, `"workingSetBytes":`) || strings.HasSuffix(got, ":0") {
			t.Error(got)
		}
	})
	t.Run("restart by systemd", func(t *testing.T) {
		before := sh(t, m, time.Minute, whole+"kubectl get pod limits -o jsonpath={.status.containerStatuses[0].containerID}")
		sh(t, m, 5*time.Minute, "systemctl kill -s KILL --kill-who=main mote; sleep 2; "+whole+ready)
		after := sh(t, m, 2*time.Minute, whole+"kubectl wait --for=condition=Ready pod/limits --timeout=400s >&2; kubectl get pod limits -o jsonpath={.status.containerStatuses[0].containerID},{.status.containerStatuses[0].restartCount}")
		if !strings.HasSuffix(after, before+",0") {
			t.Errorf("%s, then %s", before, after)
		}
	})
	t.Run("network", func(t *testing.T) {
		sh(t, m, 3*time.Minute, whole+apply(
			"{apiVersion: v1, kind: Pod, metadata: {name: web, labels: {app: web}}, spec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: 'mote.local/busybox:1', args: [sh, -c, 'mkdir -p /w; echo hello >/w/index.html; exec httpd -f -p 8080 -h /w'], securityContext: {runAsUser: 0}}]}}",
			"{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}}",
		)+"kubectl wait --for=condition=Ready pod/web --timeout=400s")
		got := sh(t, m, time.Minute, whole+"for i in $(seq 20); do kubectl exec limits -- /busybox sh -c "+
			// A static program of glibc's can't look names up by itself.
			"'a=$(/busybox nslookup web.default.svc.cluster.local | /busybox awk \"/^Name/ {n=1} n && /^Address/ {print \\$NF}\") && /busybox wget -qO- -T 5 http://$a/' && exit 0; sleep 0.5; done; exit 1")
		if !strings.HasSuffix(got, "hello") {
			t.Error(got)
		}
	})
	t.Run("memory", func(t *testing.T) {
		t.Log(sh(t, m, time.Minute, "for p in mote mote-runtime mote-hold; do for f in /proc/[0-9]*/comm; do [ \"$(cat $f 2>/dev/null)\" = $p ] && echo $p $(grep VmRSS ${f%comm}status); done; done; true"))
	})
	t.Run("clean-up", func(t *testing.T) {
		sh(t, m, 3*time.Minute, whole+"kubectl delete pod --all --timeout=600s")
		got := sh(t, m, time.Minute, `find /sys/fs/cgroup -type d -path '*kubepods*' -name 'pod*'; ls /run/mote/netns /run/mote/ctr /run/mote/runc; ip -o link | grep -c ': mote[0-9a-f]*@' || true`)
		if strings.TrimSpace(strings.NewReplacer("/run/mote/netns:", "", "/run/mote/ctr:", "", "/run/mote/runc:", "", "\n", "").Replace(got)) != "0" {
			t.Errorf("left: %s", got)
		}
	})
}
