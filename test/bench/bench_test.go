// Package bench measures a cluster of one server and one worker on this machine: memory, idle processor time, start-up,
// and the latency of pods. It prints; it asserts nothing, since the machine may be busy.
//
// Reads:  bin/ (from `make programs`), /proc.
// Writes: a lab, in a temporary directory.
package bench

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/mote-edge/mote/internal/kubeclient"
	"github.com/mote-edge/mote/test/lab"
)

const (
	onePods, manyPods = 20, 60
	settle, idle      = 15 * time.Second, 20 * time.Second
)

// usage is what a node's programs take.
type usage struct {
	rss  map[string]float64 // MB by program
	cpu  time.Duration
	when time.Time
}

func (u usage) total() (mb float64) {
	for _, v := range u.rss {
		mb += v
	}
	return mb
}

func (u usage) String() string {
	var parts []string
	for name, mb := range u.rss {
		parts = append(parts, fmt.Sprintf("%s %.1f", name, mb))
	}
	sort.Strings(parts)
	return fmt.Sprintf("%.1f MB (%s)", u.total(), strings.Join(parts, ", "))
}

func measure(b *testing.B, n *lab.Node) usage {
	b.Helper()
	u := usage{rss: map[string]float64{}, when: time.Now()}
	for program, pids := range n.Programs() {
		for _, pid := range pids {
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			if err != nil {
				continue // it has ended: a CNI call, say
			}
			for _, line := range strings.Split(string(status), "\n") {
				if f := strings.Fields(line); len(f) > 1 && f[0] == "VmRSS:" {
					kb, err := strconv.Atoi(f[1])
					if err != nil {
						b.Fatal(err)
					}
					u.rss[program] += float64(kb) / 1024
				}
			}
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if err != nil {
				continue
			}
			f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
			for _, ticks := range f[11:13] { // utime, stime (proc(5))
				n, err := strconv.Atoi(ticks)
				if err != nil {
					b.Fatal(err)
				}
				u.cpu += time.Duration(n) * time.Second / 100
			}
		}
	}
	return u
}

// dialIn dials from within a network namespace; the goroutine's thread goes back to its own afterwards.
func dialIn(path string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		own, err := netns.Get()
		if err != nil {
			return nil, err
		}
		defer own.Close()
		there, err := netns.GetFromPath(path)
		if err != nil {
			return nil, err
		}
		defer there.Close()
		if err := netns.Set(there); err != nil {
			return nil, err
		}
		defer netns.Set(own)
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
}

// run creates pods and returns how long each took from its creation until it was seen Ready on a watch.
func run(b *testing.B, c *kubeclient.Client, prefix string, n int, atOnce bool) []time.Duration {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	list, err := c.Pods("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		b.Fatal(err)
	}
	w, err := c.Pods("default").Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Stop()
	began, took := map[string]time.Time{}, map[string]time.Duration{}
	create := func(i int) {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", prefix, i)}, Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "c", Image: "mote.local/busybox:1", Args: []string{"sleep", "100000"}}},
		}}
		began[p.Name] = time.Now()
		if _, err := c.Pods("default").Create(ctx, p, metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	await := func(until int) {
		for len(took) < until {
			e, ok := <-w.ResultChan()
			if !ok {
				b.Fatal("the watch ended")
			}
			p, ok := e.Object.(*corev1.Pod)
			if !ok {
				continue
			}
			start, ours := began[p.Name]
			if _, seen := took[p.Name]; !ours || seen {
				continue
			}
			for _, cond := range p.Status.Conditions {
				if cond.Type == corev1.PodReady && cond.Status == corev1.ConditionTrue {
					took[p.Name] = time.Since(start)
				}
			}
		}
	}
	for i := range n {
		create(i)
		if !atOnce {
			await(i + 1)
		}
	}
	await(n)
	out := make([]time.Duration, 0, n)
	for _, d := range took {
		out = append(out, d)
	}
	sort.Slice(out, func(i, j int) bool { return out[i] < out[j] })
	return out
}

func BenchmarkCluster(b *testing.B) {
	if os.Getuid() != 0 {
		b.Skip("a lab needs root")
	}
	for range b.N {
		cluster(b)
	}
}

func cluster(b *testing.B) {
	dir := b.TempDir()
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		b.Fatal(err)
	}
	archive := filepath.Join(dir, "busybox.tar")
	if out, err := exec.Command("go", "run", "../../examples/pack", "-o", archive, "-ref", "mote.local/busybox:1", "/bin/busybox").CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	began := time.Now()
	cfg := lab.Config{Name: fmt.Sprintf("mb%d", os.Getpid()%10000), Dir: filepath.Join(dir, "lab"), Bin: bin, Workers: 1, Images: []string{archive}}
	l, err := lab.Up(context.Background(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := l.Down(context.Background()); err != nil {
			b.Error(err)
		}
	}()
	fmt.Printf("\nempty disks → server and worker Ready (network made, token, join): %s\n", time.Since(began).Round(time.Millisecond))
	rc, err := clientcmd.BuildConfigFromFlags("", l.Kubeconfig())
	if err != nil {
		b.Fatal(err)
	}
	rc.Dial, rc.QPS = dialIn(l.Switch()), -1
	c, err := kubeclient.New(rc)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := l.Kubectl(context.Background(), "cordon", "n1"); err != nil { // all pods on the server's node
		b.Fatal(err)
	}
	time.Sleep(settle) // what is measured is rest
	server, worker := measure(b, l.Nodes[0]), measure(b, l.Nodes[1])
	fmt.Printf("RSS idle: whole single-node cluster %s\nRSS idle: worker %s\n", server, worker)
	time.Sleep(idle)
	later, laterWorker := measure(b, l.Nodes[0]), measure(b, l.Nodes[1])
	fmt.Printf("CPU idle: cluster %.2f %% of a core, worker %.2f %%\n", percent(server, later), percent(worker, laterWorker))

	one := run(b, c, "one", onePods, false)
	fmt.Printf("create → Ready, %d pods one by one: p50 %s, p99 %s\n", onePods, one[len(one)/2].Round(time.Millisecond), one[len(one)-1].Round(time.Millisecond))
	before := measure(b, l.Nodes[0])
	start := time.Now()
	run(b, c, "many", manyPods, true)
	fmt.Printf("create → Ready, %d pods at once: %s\n", manyPods, time.Since(start).Round(time.Millisecond))
	time.Sleep(settle)
	after := measure(b, l.Nodes[0])
	fmt.Printf("RSS with %d pods: %s; per added pod %.2f MB\n", onePods+manyPods, after, (after.total()-before.total())/manyPods)
	b.ReportMetric(server.total(), "cluster-MB")
	b.ReportMetric(worker.total(), "worker-MB")
	b.ReportMetric(float64(one[len(one)/2].Milliseconds()), "p50-ms")
}

func percent(a, z usage) float64 {
	return 100 * float64(z.cpu-a.cpu) / float64(z.when.Sub(a.when))
}
