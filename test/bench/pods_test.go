package bench

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"

	"github.com/mote-edge/mote/internal/kubeclient"
)

const image = "mote.local/busybox:1"

// pod sleeps on a node. It is asked for as most are: the scheduler places it, and it mounts its service account's token.
func pod(name, node string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{
		NodeSelector:                  map[string]string{corev1.LabelHostname: node},
		TerminationGracePeriodSeconds: ptr.To[int64](1), // sleep, as the first process of its namespace, ignores SIGTERM
		Containers:                    []corev1.Container{{Name: "c", Image: image, Args: []string{"sleep", "100000"}}},
	}}
}

// pods makes pods and tells how long each took, from before it was created until a watch showed it Ready, in order of length.
type pods struct {
	c     *kubeclient.Client
	node  string
	limit time.Duration
}

// oneByOne starts each pod when the one before it is Ready.
func (p pods) oneByOne(b *testing.B, prefix string, n int) []time.Duration {
	b.Helper()
	return p.run(b, prefix, n, false)
}

// atOnce starts them all and returns when the last is Ready.
func (p pods) atOnce(b *testing.B, prefix string, n int) time.Duration {
	b.Helper()
	start := time.Now()
	p.run(b, prefix, n, true)
	return time.Since(start)
}

func (p pods) run(b *testing.B, prefix string, n int, atOnce bool) []time.Duration {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), p.limit)
	defer cancel()
	var mu sync.Mutex
	began, took := map[string]time.Time{}, map[string]time.Duration{}
	create := func(i int) {
		name := fmt.Sprintf("%s-%d", prefix, i)
		mu.Lock()
		began[name] = time.Now()
		mu.Unlock()
		if _, err := p.c.Pods("default").Create(ctx, pod(name, p.node), metav1.CreateOptions{}); err != nil {
			b.Errorf("create %s: %v", name, err)
			cancel()
		}
	}
	seen := follow(ctx, p.c)
	await := func(until int) {
		for len(took) < until {
			var got event
			select {
			case got = <-seen:
			case <-ctx.Done():
				b.Fatalf("%d of %d pods were Ready on %s within %s", len(took), n, p.node, p.limit)
			}
			if got.err != nil {
				b.Fatal(got.err)
			}
			if got.pod == nil {
				continue
			}
			mu.Lock()
			start, ours := began[got.pod.Name]
			mu.Unlock()
			if _, known := took[got.pod.Name]; ours && !known && ready(got.pod) {
				took[got.pod.Name] = time.Since(start)
			}
		}
	}
	if atOnce {
		const clients = 6 // a person with kubectl is one; a controller has a few requests under way
		next := make(chan int)
		for range clients {
			go func() {
				for i := range next {
					create(i)
				}
			}()
		}
		go func() {
			for i := range n {
				next <- i
			}
			close(next)
		}()
	}
	for i := range n {
		if !atOnce {
			create(i)
			await(i + 1)
		}
	}
	await(n)
	var out []time.Duration
	for _, d := range took {
		out = append(out, d)
	}
	slices.Sort(out)
	return out
}

func ready(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// event is a pod as it was seen, nil when there is none at all, or why no more can be; all is how many pods there are.
type event struct {
	pod *corev1.Pod
	all int
	err error
}

// follow tells of each pod that there is and of each that changes. As clients do, it lists and watches again when the
// server ends a watch, as it does to those that read too slowly.
func follow(ctx context.Context, c *kubeclient.Client) <-chan event {
	out := make(chan event)
	tell := func(e event) bool {
		select {
		case out <- e:
			return e.err == nil
		case <-ctx.Done():
			return false
		}
	}
	once := func() bool {
		list, err := c.Pods("default").List(ctx, metav1.ListOptions{})
		if err != nil {
			return tell(event{err: err})
		}
		there := map[types.UID]bool{}
		for i := range list.Items {
			there[list.Items[i].UID] = true
		}
		if len(list.Items) == 0 && !tell(event{}) {
			return false
		}
		for i := range list.Items {
			if !tell(event{pod: &list.Items[i], all: len(there)}) {
				return false
			}
		}
		w, err := c.Pods("default").Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
		if err != nil {
			return tell(event{err: err})
		}
		defer w.Stop()
		for e := range w.ResultChan() {
			p, ok := e.Object.(*corev1.Pod)
			if !ok {
				return true // an error: its words don't matter, another list is its remedy
			}
			there[p.UID] = true
			if e.Type == watch.Deleted {
				delete(there, p.UID)
			}
			if !tell(event{pod: p, all: len(there)}) {
				return false
			}
		}
		return ctx.Err() == nil
	}
	go func() {
		defer close(out)
		for once() {
		}
	}()
	return out
}

// remove deletes all pods and waits until the nodes have confirmed it; it returns how long that took.
func (p pods) remove(b *testing.B) time.Duration {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), p.limit)
	defer cancel()
	start := time.Now()
	if err := p.c.Pods("default").DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		b.Fatal(err)
	}
	for got := range follow(ctx, p.c) {
		if got.err != nil {
			b.Fatalf("%d pods were not deleted: %v", got.all, got.err)
		}
		if got.all == 0 {
			return time.Since(start)
		}
	}
	b.Fatalf("not all pods were deleted within %s", p.limit)
	return 0
}

// quantile of lengths in order: 50 is the median, 99 of fewer than 100 the longest.
func quantile(sorted []time.Duration, q int) time.Duration {
	return sorted[min(len(sorted)-1, len(sorted)*q/100)]
}

func ms(d time.Duration) string { return d.Round(time.Millisecond).String() }
