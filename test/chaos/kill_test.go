package chaos

import (
	"context"
	"fmt"
	"math/rand"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"

	"github.com/mote-edge/mote/internal/kubeclient"
	"github.com/mote-edge/mote/test/chaos/check"
)

// patience is how long a pod may take for one step of its life while everything around it is being killed.
const patience = 3 * time.Minute

// TestKilledAtRandom: killing any of a node's Mote processes at any moment loses no pod, no log line, no exit code, and
// leaves nothing behind.
func TestKilledAtRandom(t *testing.T) {
	client, err := cluster.Client()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	defer cancel()
	r := rand.New(rand.NewSource(seed))

	steady := []string{}
	for i, k := range []kind{kinds[2], kinds[3], kinds[4]} {
		name := fmt.Sprintf("steady-%d", i)
		if _, err := client.Pods(namespace).Create(ctx, newPod(k, name, r), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		steady = append(steady, name)
	}
	var ids []string
	for _, name := range steady {
		p, err := await(ctx, client, name, patience, isReady)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, containerIDs(p))
	}

	stop, killed := make(chan struct{}), make(chan map[string]int, 1)
	go func() { killed <- killer(t, stop, rand.New(rand.NewSource(r.Int63()))) }()
	lived, over := make(chan int, 1), make(chan struct{})
	fromManifests := rand.New(rand.NewSource(r.Int63()))
	go func() { lived <- statics(t, ctx, client, over, fromManifests) }()
	churn(t, ctx, client, "", number("CHAOS_PODS", 40), r)
	close(over)
	t.Logf("static pods that have lived: %d", <-lived)
	close(stop)
	t.Logf("killed: %v", <-killed)

	for i, name := range steady {
		p, err := await(ctx, client, name, patience, isReady)
		if err != nil {
			t.Error(err)
			continue
		}
		if now := containerIDs(p); now != ids[i] {
			t.Errorf("pod %s has other containers than before: %s, was %s", name, now, ids[i])
		}
		if err := kinds[2+i].judge(p); err != nil {
			t.Error(err)
		}
	}
	settleDown(t, ctx, client) // with the steady ones there
	for _, name := range steady {
		remove(t, ctx, client, name)
	}
	settleDown(t, ctx, client) // with nothing
}

// TestNothingGrows: after pods have come and gone, a node's processes hold what they held before: descriptors, threads,
// goroutines, memory.
func TestNothingGrows(t *testing.T) {
	client, err := cluster.Client()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	count, r := max(12, number("CHAOS_PODS", 40)/4), rand.New(rand.NewSource(seed))
	churn(t, ctx, client, "warm", 12, r) // what is held after these is what an idle node holds
	settleDown(t, ctx, client)
	before := usage(t, ctx)
	churn(t, ctx, client, "grow", count, r)
	settleDown(t, ctx, client)
	for name, now := range usage(t, ctx) {
		t.Logf("%s: %v, before %d pods %v", name, now, count, before[name])
		for _, what := range now.Grown(before[name], 12) {
			t.Errorf("%s has grown: %s", name, what)
		}
	}
}

func isReady(p *corev1.Pod) bool { return p != nil && ready(p) }

func containerIDs(p *corev1.Pod) string {
	var out []string
	for _, st := range p.Status.ContainerStatuses {
		out = append(out, st.Name+"="+st.ContainerID)
	}
	return strings.Join(out, " ")
}

// churn takes pods through their lives, some at a time.
func churn(t *testing.T, ctx context.Context, client *kubeclient.Client, prefix string, count int, r *rand.Rand) {
	type job struct {
		name string
		k    kind
		r    *rand.Rand
		hold time.Duration
	}
	jobs := make(chan job)
	var workers sync.WaitGroup
	var done atomic.Int32
	for range min(12, count) {
		workers.Go(func() {
			for j := range jobs {
				life(t, ctx, client, j.k, j.name, j.r, j.hold)
				if n := done.Add(1); n%50 == 0 {
					t.Logf("%d pods have lived", n)
				}
			}
		})
	}
	for i := range count {
		k := kinds[r.Intn(len(kinds))]
		jobs <- job{fmt.Sprintf("%s%s-%d", prefix, k.name, i), k, rand.New(rand.NewSource(r.Int63())), time.Duration(r.Intn(1500)) * time.Millisecond}
	}
	close(jobs)
	workers.Wait()
}

// life is one pod's: made, awaited, judged, deleted.
func life(t *testing.T, ctx context.Context, client *kubeclient.Client, k kind, name string, r *rand.Rand, hold time.Duration) {
	if _, err := client.Pods(namespace).Create(ctx, newPod(k, name, r), metav1.CreateOptions{}); err != nil {
		t.Errorf("create %s: %v", name, err)
		return
	}
	p, err := await(ctx, client, name, patience, func(p *corev1.Pod) bool { return p != nil && k.until(p) })
	if err == nil && !over(p) {
		time.Sleep(hold)
		p, err = await(ctx, client, name, patience, isReady)
	}
	if err == nil {
		err = k.judge(p)
	}
	if err != nil {
		t.Errorf("%s: %v; the runtime has %s", time.Now().UTC().Format(time.TimeOnly), err, has(ctx, p))
	}
	remove(t, ctx, client, name)
}

// has is what the runtime knows of a pod.
func has(ctx context.Context, p *corev1.Pod) string {
	if p == nil {
		return "no such pod"
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	s, err := check.Look(ctx, place())
	if err != nil {
		return err.Error()
	}
	var out []string
	for _, sb := range s.Sandboxes {
		if sb.UID == uidOf(p) {
			out = append(out, fmt.Sprintf("sandbox %s ready=%v", sb.ID, sb.Ready))
		}
	}
	for _, c := range s.Containers {
		if c.UID == uidOf(p) {
			var pids []int
			for cg, found := range s.Processes {
				if strings.Contains(cg, c.ID) {
					pids = found
				}
			}
			out = append(out, fmt.Sprintf("container %s %s %s %v", c.Name, c.ID, c.State, pids))
			for _, pid := range pids {
				name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
				where, _ := os.ReadFile(fmt.Sprintf("/proc/%d/wchan", pid))
				out = append(out, fmt.Sprintf("%d is %s in %s", pid, strings.TrimSpace(string(name)), where))
			}
		}
	}
	return strings.Join(out, "; ")
}

func remove(t *testing.T, ctx context.Context, client *kubeclient.Client, name string) {
	if err := client.Pods(namespace).Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](1)}); err != nil {
		t.Errorf("delete %s: %v", name, err)
		return
	}
	if p, err := await(ctx, client, name, patience, func(p *corev1.Pod) bool { return p == nil }); err != nil {
		t.Errorf("deleted %v: %v", p.DeletionTimestamp, err)
	}
}

// killer ends a Mote process now and then. A supervisor's part is played for the agent alone: it must look after the rest.
func killer(t *testing.T, stop <-chan struct{}, r *rand.Rand) map[string]int {
	victims := []string{"mote-agent", "mote-runtime", "mote-runtime", "mote-hold"}
	if only := os.Getenv("CHAOS_KILL"); only != "" {
		victims = nil
		for v := range strings.SplitSeq(only, ",") {
			victims = append(victims, "mote-"+v)
		}
	}
	killed := map[string]int{}
	for {
		// Mostly the node is at work again when it is hit; one time in four it isn't yet.
		if r.Intn(4) > 0 {
			answers(stop)
		}
		select {
		case <-stop:
			return killed
		case <-time.After(time.Duration(r.Intn(1500)) * time.Millisecond):
		}
		victim := victims[r.Intn(len(victims))]
		if victim == "mote-agent" {
			if err := node.Kill(syscall.SIGKILL); err != nil {
				t.Errorf("kill the agent: %v", err)
			}
			if err := node.StartAgent(context.Background(), ""); err != nil {
				t.Errorf("start the agent again: %v", err)
				return killed
			}
			killed[victim]++
			continue
		}
		before, _ := program("mote-runtime")
		if victim == "mote-hold" { // both at once is another story: what ended meanwhile isn't known then
			answers(stop)
			before, _ = program("mote-runtime")
		}
		if pid, ok := program(victim); ok && syscall.Kill(pid, syscall.SIGKILL) == nil {
			killed[victim]++
		}
		if victim == "mote-hold" {
			for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
				if pid, ok := program("mote-runtime"); ok && pid != before {
					break
				}
			}
			answers(stop)
		}
	}
}

// answers waits until the runtime does.
func answers(stop <-chan struct{}) {
	conn, err := grpc.NewClient("unix://"+place().Dirs.RuntimeSocket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	go func() {
		select {
		case <-stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	for ctx.Err() == nil {
		if _, err := cri.NewRuntimeServiceClient(conn).Version(ctx, &cri.VersionRequest{}, grpc.WaitForReady(true)); err == nil {
			return
		}
	}
}

// reported are the findings that a test has failed for already: the next one isn't to blame.
var reported = map[string]bool{}

// settleDown waits until the checker finds nothing, or says what it still finds.
func settleDown(t *testing.T, ctx context.Context, client *kubeclient.Client) {
	t.Helper()
	var found []string
	for deadline := time.Now().Add(90 * time.Second); ; time.Sleep(500 * time.Millisecond) {
		// The API is asked first and last: what changes meanwhile isn't judged.
		first, err := client.Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + node.Name})
		if err != nil {
			t.Fatal(err)
		}
		look, cancel := context.WithTimeout(ctx, 10*time.Second)
		state, err := check.Look(look, place())
		cancel()
		if err != nil {
			found = []string{err.Error()}
		} else if found = slices.DeleteFunc(check.Compare(state, first.Items), func(f string) bool { return reported[f] }); len(found) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("with %d pods on the node, kernel, disk and API differ:\n%s", len(first.Items), strings.Join(found, "\n"))
			for _, f := range found {
				reported[f] = true
			}
			return
		}
	}
}

// usage looks at the long-lived processes.
func usage(t *testing.T, ctx context.Context) map[string]check.Usage {
	t.Helper()
	// The runtime gives memory back ten seconds after work, and with it go the descriptors that only a collection closes: Go's
	// handles of the containers' processes. Connections of the last requests have ended by then, too.
	time.Sleep(12 * time.Second)
	metrics, err := cluster.Kubectl(ctx, "get", "--raw", "/api/v1/nodes/"+node.Name+"/proxy/metrics")
	if err != nil {
		t.Error(err)
	}
	out := map[string]check.Usage{}
	for _, name := range []string{"mote-agent", "mote-runtime", "mote-hold"} {
		pid, ok := program(name)
		if !ok {
			t.Errorf("%s doesn't run; there are %v", name, node.Programs())
			continue
		}
		u, err := check.UsageOf(pid)
		if err != nil {
			t.Error(err)
		}
		if name == "mote-agent" {
			if _, rest, ok := strings.Cut(metrics, "\ngo_goroutines "); !ok {
				t.Errorf("the agent doesn't tell its goroutines: %s", metrics)
			} else if _, err := fmt.Sscan(rest, &u.Goroutines); err != nil {
				t.Error(err)
			}
		}
		if !long() {
			u.Memory = 0
		}
		out[name] = u
	}
	return out
}

// long tells the long form from the short one.
func long() bool { return number("CHAOS_PODS", 40) > 100 }
