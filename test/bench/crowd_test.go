package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mote-edge/mote/internal/layout"
	"github.com/mote-edge/mote/test/chaos/check"
	"github.com/mote-edge/mote/test/lab"
)

const (
	crowdPods   = 250
	leaseLength = 40 * time.Second // upstream's node lease; it is renewed every quarter of that
)

// BenchmarkCrowd starts 250 pods on one worker, watches them, and deletes them: all stay Ready without a restart, the
// node stays Ready and renews its lease on time, and nothing is left afterwards (test/chaos/check compares).
func BenchmarkCrowd(b *testing.B) {
	steady := 2 * time.Minute
	if s := os.Getenv("BENCH_STEADY"); s != "" {
		var err error
		if steady, err = time.ParseDuration(s); err != nil {
			b.Fatalf("BENCH_STEADY: %v", err)
		}
	}
	for range b.N {
		crowd(b, steady)
	}
}

func crowd(b *testing.B, steady time.Duration) {
	t := up(b, "10.96.3", lab.Config{Workers: 1, NoNode: true, Args: []string{"--max-pods=260"}})
	worker := t.Nodes[1]
	p := t.on(worker)
	fmt.Printf("\n== %d pods on one worker\n", crowdPods)
	time.Sleep(settle)
	empty := measure(b, worker.Programs())
	line("all Ready after", "%s", ms(p.atOnce(b, "crowd", crowdPods)))
	s := watchCrowd(b, t, worker.Name, steady)
	full := measure(b, worker.Programs())
	line("RSS", "%s; %.2f MB a pod", full, (full.total()-empty.total())/crowdPods)
	line(fmt.Sprintf("CPU over %s (of a core)", steady), "%.2f %%", s.cpu)
	line("pods that were not Ready or restarted; times the node was not Ready", "%d; %d", s.disturbed, s.notReady)
	line("lease renewed; longest time between", "%d times; %s", s.renewals, ms(s.longest))
	if s.disturbed+s.notReady > 0 || s.longest > leaseLength/2 || s.renewals == 0 {
		b.Error("the node didn't stay healthy")
	}
	line("all deleted after", "%s", ms(p.remove(b)))
	left := leftovers(b, t, worker)
	line("left on the node", "%d things", len(left))
	if len(left) > 0 {
		b.Errorf("left:\n%s", strings.Join(left, "\n"))
	}
}

// health is what was seen of a crowded node.
type health struct {
	disturbed, notReady, renewals int
	longest                       time.Duration
	cpu                           float64
}

func watchCrowd(b *testing.B, t bed, node string, steady time.Duration) (h health) {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), steady+time.Minute)
	defer cancel()
	nodeWatch, err1 := t.c.Nodes().Watch(ctx, metav1.ListOptions{})
	leaseWatch, err2 := t.c.Leases("kube-node-lease").Watch(ctx, metav1.ListOptions{})
	for _, err := range []error{err1, err2} {
		if err != nil {
			b.Fatal(err)
		}
	}
	seen := follow(ctx, t.c)
	disturbed := map[string]bool{}
	look := func(p *corev1.Pod) {
		well := ready(p) && p.DeletionTimestamp == nil
		for _, st := range p.Status.ContainerStatuses {
			well = well && st.RestartCount == 0
		}
		if !well {
			disturbed[p.Name] = true
		}
	}
	began := measure(b, t.Nodes[1].Programs())
	renewed := time.Now()
	end := time.After(steady)
	for {
		select {
		case e := <-seen:
			if e.err != nil {
				b.Fatal(e.err)
			}
			if e.pod != nil {
				look(e.pod)
			}
		case e, ok := <-nodeWatch.ResultChan():
			if n, isNode := e.Object.(*corev1.Node); isNode && n.Name == node && !nodeReady(n) {
				h.notReady++
			}
			if !ok {
				b.Fatal("the watch of nodes ended")
			}
		case e, ok := <-leaseWatch.ResultChan():
			if l, isLease := e.Object.(*coordinationv1.Lease); isLease && l.Name == node {
				h.renewals, h.longest, renewed = h.renewals+1, max(h.longest, time.Since(renewed)), time.Now()
			}
			if !ok {
				b.Fatal("the watch of leases ended")
			}
		case <-end:
			h.disturbed, h.longest = len(disturbed), max(h.longest, time.Since(renewed))
			h.cpu = percent(began, measure(b, t.Nodes[1].Programs()))
			return h
		}
	}
}

func nodeReady(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// leftovers names what the node holds although it has no pod. What goes a moment after the pod is waited for.
func leftovers(b *testing.B, t bed, n *lab.Node) (found []string) {
	b.Helper()
	dir := n.Dir()
	look := check.Node{
		Root: dir, Dirs: layout.Dirs{Data: filepath.Join(dir, "data"), Run: filepath.Join(dir, "run"), Config: filepath.Join(dir, "etc")},
		PodLogDir: filepath.Join(dir, "log", "pods"), Cgroup: n.Cgroup(), Pid: n.Pid(), Bin: t.cfg.Bin, Uplinks: []string{"eth0"},
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(500 * time.Millisecond) {
		state, err := check.Look(context.Background(), look)
		late := time.Now().After(deadline)
		if err != nil { // a sandbox was listed and then removed
			if late {
				b.Fatal(err)
			}
			continue
		}
		if found = check.Compare(state, nil); len(found) == 0 || late {
			return found
		}
	}
}
