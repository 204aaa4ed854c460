package vm

import (
	"context"
	"fmt"
	"math/rand"
	"os"
	"strings"
	"testing"
	"time"
)

// TestPowerCuts cuts the power at random moments while the node pulls and imports images and starts pods: it comes back
// Ready, every image that is marked present runs and holds what it was made of, and the pods come back; at the end also
// without their server. VM_CUTS says how often (default 20), VM_SEED repeats a run's moments.
func TestPowerCuts(t *testing.T) {
	seed, cuts := time.Now().UnixNano()%1e9, 20
	if s := os.Getenv("VM_SEED"); s != "" {
		seed = int64(number(t, s))
	}
	if s := os.Getenv("VM_CUTS"); s != "" {
		cuts = number(t, s)
	}
	t.Logf("VM_SEED=%d", seed)
	r := rand.New(rand.NewSource(seed))
	reg := startRegistry(t)
	m := newMachine(t)
	boot(t, m)
	sh(t, m, 5*time.Minute, "cp /opt/mote/busybox.tar /var/lib/mote/images/ && mkdir -p /etc/mote && echo '"+reg.mirror()+"' >/etc/mote/registries.yaml && systemctl enable --now mote-server && "+apart+
		"for i in $(seq 1200); do mote token create --data-dir /var/lib/mote-server --run-dir /run/mote-server --config-dir /etc/mote-server >/etc/mote-token 2>/dev/null && break; sleep 0.5; done; "+
		"sync; systemctl enable --now mote-agent && "+ready)
	sh(t, m, 3*time.Minute, apart+apply(
		pod("stays-0", "", "i=0; while true; do echo $i; i=$((i+1)); sleep 0.2; done"),
		pod("stays-1", "", "echo up; exec sleep 100000"),
	)+"kubectl wait --for=condition=Ready pod --all --timeout=600s; sync")
	for i := range cuts {
		bytes := reg.add(t, "cut", fmt.Sprint(i), r)
		reg.sent.Store(0)
		sh(t, m, 2*time.Minute, work(i))
		wait := time.Duration(r.Intn(12000)) * time.Millisecond
		time.Sleep(wait)
		m.Cut()
		sent, started := reg.sent.Load(), time.Now()
		boot(t, m)
		sh(t, m, 5*time.Minute, apart+ready)
		sh(t, m, 5*time.Minute, apart+"kubectl wait --for=condition=Ready pod --all --timeout=800s")
		t.Logf("cut %d after %s, %.1f of %.1f MB pulled: back after %s, %.1f MB more pulled", i, wait, float64(sent)/1e6, float64(bytes)/1e6,
			time.Since(started).Round(time.Second), float64(reg.sent.Load()-sent)/1e6)
		judge(t, m, i)
		if t.Failed() {
			t.Log(sh(t, m, time.Minute, "tail -n 30 /var/log/mote-agent.log /run/mote/runtime.log; "+apart+"kubectl get pods -o wide; kubectl get events | tail -n 20"))
			return
		}
	}
	resumed := 0
	reg.asked.Range(func(any, any) bool { resumed++; return true })
	t.Logf("%d downloads went on where they had broken off", resumed)

	// Offline: the worker boots without its server, and its pods start.
	sh(t, m, time.Minute, "systemctl disable mote-server; sync")
	m.Cut()
	boot(t, m)
	got := sh(t, m, 4*time.Minute, `for i in $(seq 400); do c=$(find /sys/fs/cgroup -path '*kubepods*' -name cgroup.procs -exec cat {} + 2>/dev/null | wc -l); [ "$c" -ge 2 ] && break; sleep 0.5; done; systemctl is-active mote-server; echo $c`)
	words := strings.Fields(got)
	if len(words) != 2 || words[0] == "active" || number(t, words[1]) < 2 {
		t.Errorf("offline: server and processes of pods: %v; %s", words, sh(t, m, time.Minute, "tail -n 30 /var/log/mote-agent.log"))
	}
}

// work is what a cut interrupts: an image is imported under a new name and an older one removed, a pod pulls its image and
// starts, an older pod ends.
func work(i int) string {
	churn := strings.ReplaceAll(pod(fmt.Sprintf("churn-%d", i), "", "echo up; exec sleep 100000"), "'mote.local/busybox:1'", fmt.Sprintf("'vm.local/cut:%d'", i))
	return fmt.Sprintf(apart+`
cd /tmp && rm -rf w && mkdir w && cd w && tar -xf /opt/mote/busybox.tar && sed -i 's|mote.local/busybox:1|mote.local/cut-%[1]d:1|' manifest.json && tar -cf ../cut.tar . && cd .. && rm -rf w
kubectl delete pod churn-%[2]d --ignore-not-found --wait=false >/dev/null 2>&1
cat <<'EOF' | kubectl apply -f - >/dev/null
# YAML
%[3]s
EOF
(mote images import /tmp/cut.tar; mote images rm mote.local/cut-%[2]d:1; mote images rm vm.local/cut:%[4]d) >/dev/null 2>&1 &
`, i, i-2, churn, i-3)
}

// judgeAddresses compares the addresses that the API shows with those in the pods' network namespaces.
func judgeAddresses(t *testing.T, m *Machine) {
	t.Helper()
	got := sh(t, m, time.Minute, apart+`kubectl get pods -o jsonpath='{range .items[?(@.status.phase=="Running")]}{.metadata.name} {.status.podIP}{"\n"}{end}'; echo --
for ns in /run/mote/netns/*; do nsenter --net=$ns ip -4 -o address show dev eth0 | awk '{print $4}'; done`)
	shown, real, _ := strings.Cut(got, "--")
	have := map[string]bool{}
	for _, prefix := range strings.Fields(real) {
		address, _, _ := strings.Cut(prefix, "/")
		have[address] = true
	}
	owner := map[string]string{}
	for line := range strings.Lines(strings.TrimSpace(shown)) {
		name, address, _ := strings.Cut(strings.TrimSpace(line), " ")
		if other := owner[address]; other != "" || !have[address] {
			t.Errorf("pod %s is shown with the address %q, as %q is; the kernel has %v", name, address, other, have)
		}
		owner[address] = name
	}
	if len(owner) < 2 {
		t.Errorf("fewer than two pods run: %s", got)
	}
}

// judge runs every image that the node has, and has each compare what it holds with what it was made of.
func judge(t *testing.T, m *Machine, round int) {
	t.Helper()
	judgeAddresses(t, m)
	images := strings.Fields(sh(t, m, time.Minute, "mote images list | awk 'NR>1 && /(mote|vm).local/ {print $1}'"))
	if len(images) == 0 {
		t.Fatal("the node has no image")
	}
	var manifests []string
	for i, image := range images {
		manifests = append(manifests, strings.ReplaceAll(pod(fmt.Sprintf("runs-%d-%d", round, i), "pod:restartPolicy: Never,",
			"if [ -e /sums ]; then sha256sum -c /sums >/dev/null || exit 1; fi; sha256sum /busybox | cut -c1-64; exit 0"), "image: 'mote.local/busybox:1',", "image: '"+image+"', imagePullPolicy: Never,"))
	}
	names := ""
	for i := range images {
		names += fmt.Sprintf(" pod/runs-%d-%d", round, i)
	}
	out, err := m.Run(context.Background(), 20*time.Minute, apart+apply(manifests...)+"kubectl wait --for=jsonpath={.status.phase}=Succeeded"+names+" --timeout=800s >&2; for p in "+names+"; do kubectl logs $p; done; kubectl delete --wait=false "+names+" >&2")
	if err != nil {
		t.Errorf("images %v don't all run: %v; %s", images, err, sh(t, m, time.Minute, apart+"kubectl describe"+names+" | tail -n 40"))
		return
	}
	want := sh(t, m, time.Minute, "cd /tmp && rm -rf j && mkdir j && cd j && tar -xf /opt/mote/busybox.tar && tar -xf layer.tar && sha256sum busybox | cut -c1-64; rm -rf /tmp/j")
	if n := strings.Count(out, want); n != len(images) {
		t.Errorf("%d of %d images %v hold the program that they were made of: %s", n, len(images), images, out)
	}
	t.Logf("%d images run", len(images))
}
