package vm

import (
	"strings"
	"testing"
	"time"
)

// limits shows those of the pod of this name: the only one that is burstable.
const limits = `d=$(find /sys/fs/cgroup -type d -path '*kubepods*burstable*' -name '[0-9a-f]*' | awk -F/ 'length($NF)==64' | head -n 1); cat $d/memory.max $d/cpu.max`

// configured starts the whole cluster with a KubeletConfiguration of these lines.
func configured(lines string) string {
	return "cp /opt/mote/*.tar /var/lib/mote/images/ && mkdir -p /etc/mote /etc/systemd/system/mote.service.d\n" +
		"printf '%s\n' 'apiVersion: kubelet.config.k8s.io/v1beta1' 'kind: KubeletConfiguration' '" + lines + "' >/etc/mote/kubelet.yaml\n" +
		"printf '%s\n' '[Service]' ExecStart= 'ExecStart=/opt/mote/mote server --kubelet-config /etc/mote/kubelet.yaml' >/etc/systemd/system/mote.service.d/config.conf\n" +
		"systemctl daemon-reload && systemctl enable --now mote && " + whole
}

// TestSmoke: a cluster under systemd on kernel 6.1 with cgroup v2 alone: the node is Ready, pods run with their limits, are
// killed for their memory, can be entered, counted and logged.
func TestSmoke(t *testing.T) {
	m := newMachine(t)
	boot(t, m)
	if fs := sh(t, m, time.Minute, "stat -fc %T /sys/fs/cgroup; uname -r; ps -p 1 -o comm= 2>/dev/null || cat /proc/1/comm"); !strings.HasPrefix(fs, "cgroup2fs") {
		t.Fatalf("not a machine with cgroup v2: %s", fs)
	}
	sh(t, m, 5*time.Minute, configured("evictionPressureTransitionPeriod: 10s")+ready)
	t.Log(sh(t, m, time.Minute, whole+"kubectl get nodes -o wide"))
	sh(t, m, 5*time.Minute, whole+apply(
		pod("limits", "container:resources: {requests: {cpu: 100m, memory: 20Mi}, limits: {cpu: 250m, memory: 32Mi}}", "echo up; exec sleep 10000"),
		pod("oom", "pod:restartPolicy: Never,|container:resources: {limits: {memory: 16Mi}}", "head -c 64m /dev/zero | tail -c 64m | wc -c; exit 0"),
		pod("hungry", "pod:restartPolicy: Never,|container:resources: {limits: {memory: 16Mi}}", "x=a; while true; do x=$x$x; done"),
		pod("ends", "pod:restartPolicy: Never,", "echo bye; exit 7"),
	)+"kubectl wait --for=condition=Ready pod/limits --timeout=600s")

	t.Run("limits", func(t *testing.T) {
		if got := strings.Join(strings.Fields(sh(t, m, time.Minute, limits)), " "); got != "33554432 25000 100000" {
			t.Errorf("memory.max and cpu.max are %q", got)
		}
		// systemd looks at its whole tree anew: what it didn't make stays as it is.
		if got := strings.Join(strings.Fields(sh(t, m, time.Minute, "systemctl daemon-reload && systemctl daemon-reexec && "+limits)), " "); got != "33554432 25000 100000" {
			t.Errorf("after systemd began anew memory.max and cpu.max are %q", got)
		}
	})
	t.Run("resize", func(t *testing.T) {
		got := sh(t, m, 2*time.Minute, whole+`kubectl patch pod limits --subresource resize -p '{"spec":{"containers":[{"name":"c","resources":{"limits":{"cpu":"500m","memory":"48Mi"}}}]}}' >&2
for i in $(seq 200); do kubectl get pod limits -o jsonpath={.status.containerStatuses[0].resources.limits.memory} | grep -q 48Mi && break; sleep 0.5; done; `+limits+"; kubectl get pod limits -o jsonpath={.status.containerStatuses[0].restartCount}")
		if words := strings.Fields(got); len(words) < 4 || strings.Join(words[len(words)-4:], " ") != "50331648 50000 100000 0" {
			t.Errorf("memory.max, cpu.max and restarts are %q", got)
		}
	})
	t.Run("user namespace", func(t *testing.T) {
		got := sh(t, m, 2*time.Minute, whole+apply(pod("users", "pod:hostUsers: false, restartPolicy: Never, automountServiceAccountToken: false,", "cat /proc/self/uid_map; touch /mine; ls -ln /mine; exit 0"))+
			"kubectl wait --for=jsonpath={.status.phase}=Succeeded pod/users --timeout=400s >&2; kubectl logs users")
		words := strings.Fields(got[max(0, strings.LastIndex(got, "met")):])
		if len(words) < 8 || words[1] != "0" || words[2] == "0" || words[3] != "65536" || words[6] != "0" {
			t.Errorf("the map, and the owner of a file: %q", got)
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
			// Debian's static busybox crashes in wget: nc with an address doesn't look names up.
			"'a=$(/busybox nslookup web.default.svc.cluster.local | /busybox awk \"/^Name/ {n=1} n && /^Address/ {print \\$NF}\") && printf \"GET / HTTP/1.0\\r\\n\\r\\n\" | /busybox nc -w 5 $a 80 | grep hello' && exit 0; sleep 0.5; done; exit 1")
		if !strings.HasSuffix(got, "hello") {
			t.Error(got)
		}
	})
	t.Run("memory", func(t *testing.T) {
		t.Log(sh(t, m, time.Minute, "for p in mote mote-runtime mote-hold; do for f in $(grep -slx $p /proc/[0-9]*/comm); do echo $p $(grep VmRSS ${f%comm}status); done; done; true"))
	})
	t.Run("eviction", func(t *testing.T) {
		// 16 MiB every three seconds, until less than a tenth of the memory is left: what dd has read stays in its buffer, as nobody takes it.
		// That costs one system call; what takes memory faster, or copies it, is on a busy host ahead of the emulated agent, and the kernel kills it.
		sh(t, m, time.Minute, whole+apply(pod("greedy", "pod:restartPolicy: Never,", "i=0; while [ $i -lt 60 ]; do dd if=/dev/zero bs=16M count=1 2>/dev/null | sleep 10000 & i=$((i+1)); sleep 3; done; wait")))
		got := sh(t, m, 4*time.Minute, whole+"kubectl wait --for=jsonpath={.status.phase}=Failed pod/greedy --timeout=600s >&2; kubectl get pod greedy -o jsonpath={.status.reason}; echo; kubectl get pod limits -o jsonpath={.status.phase}")
		if words := strings.Fields(got); len(words) < 2 || strings.Join(words[len(words)-2:], " ") != "Evicted Running" {
			t.Errorf("%s; %s", got, sh(t, m, time.Minute, whole+"kubectl get events | tail -n 20; dmesg | grep -i killed | tail -n 3; tail -n 20 /var/log/mote.log"))
		}
		sh(t, m, 4*time.Minute, whole+"kubectl wait --for=condition=MemoryPressure=False node --all --timeout=800s")
	})
	t.Run("clean-up", func(t *testing.T) {
		sh(t, m, 3*time.Minute, whole+"kubectl delete pod --all --timeout=600s")
		got := sh(t, m, time.Minute, `find /sys/fs/cgroup -type d -path '*kubepods*' -name 'pod*'; ls /run/mote/netns /run/mote/ctr /run/mote/runc; ip -o link | grep -c ': mote[0-9a-f]*@' || true`)
		if strings.TrimSpace(strings.NewReplacer("/run/mote/netns:", "", "/run/mote/ctr:", "", "/run/mote/runc:", "", "\n", "").Replace(got)) != "0" {
			t.Errorf("left: %s", got)
		}
	})
}

// TestShutdown: systemd takes the machine down, and pods end before it does, in their own time.
func TestShutdown(t *testing.T) {
	m := newMachine(t)
	boot(t, m)
	sh(t, m, 5*time.Minute, configured("shutdownGracePeriod: 60s\nshutdownGracePeriodCriticalPods: 20s")+ready)
	sh(t, m, 3*time.Minute, whole+apply(strings.ReplaceAll(pod("writes", "pod:volumes: [{name: v, hostPath: {path: /var/said, type: DirectoryOrCreate}}],|container:volumeMounts: [{name: v, mountPath: /said}]",
		"trap 'echo told >/said/it; sleep 3; echo done >>/said/it; exit 0' TERM; while true; do sleep 0.2; done"), "terminationGracePeriodSeconds: 1", "terminationGracePeriodSeconds: 40"))+
		"kubectl wait --for=condition=Ready pod/writes --timeout=600s; systemd-inhibit --list --no-pager")
	if _, err := m.Run(t.Context(), time.Minute, "systemctl --no-block poweroff"); err != nil {
		t.Log(err) // the guest may be gone before it has answered
	}
	if err := m.Wait(4 * time.Minute); err != nil {
		t.Fatal(err)
	}
	boot(t, m)
	if got := sh(t, m, time.Minute, "cat /var/said/it"); got != "told\ndone" {
		t.Errorf("the pod said %q", got)
	}
	sh(t, m, 5*time.Minute, whole+ready)
	t.Log(sh(t, m, time.Minute, whole+"kubectl get pods -o wide; kubectl get events | grep -i shut; grep -i shutdown /var/log/mote.log | tail -n 5"))
}
