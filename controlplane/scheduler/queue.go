package scheduler

import (
	"cmp"
	"container/heap"
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	"github.com/mote-edge/mote/controlplane/scheduler/fit"
)

const (
	firstBackoff = time.Second
	lastBackoff  = 10 * time.Second
	// leftover is after how long a refused pod is looked at again though no event spoke for it.
	leftover = 5 * time.Minute
)

// place says where in the queue an item is.
//
//	gated ──gates gone──► active ──pop──► inFlight ──refused──► parked ──event──► backoff ──timer, or idle──► active
//	                        ▲                 └──error──► held ──timer──► active
//	                        └── parked for five minutes
type place int

const (
	gated place = iota
	active
	inFlight
	parked  // refused: waits for an event that may help
	backoff // an event spoke for it; tried when its delay is over or the queue is otherwise idle
	held    // an error: waits for its delay
)

// item is one unassigned pod.
type item struct {
	pod       *fit.Pod
	place     place
	queuedAt  time.Time // of the first arrival: older pods go first
	attempts  int
	notBefore time.Time
	refusedBy fit.Filter
	changed   bool // the pod's spec or labels changed while it was in flight
	timer     *time.Timer
	index     int // in its heap
}

// queue holds the unassigned pods: the most important first, the oldest of these first.
type queue struct {
	mu       sync.Mutex
	wake     sync.Cond
	items    map[types.UID]*item
	active   itemHeap
	backoff  itemHeap
	sincePop fit.Filter // what happened since the item in flight was taken
	stopped  bool
}

func newQueue() *queue {
	q := &queue{items: map[types.UID]*item{}}
	q.wake.L = &q.mu
	return q
}

// set adds a pod or takes note of its change.
func (q *queue) set(p *corev1.Pod) {
	q.mu.Lock()
	defer q.mu.Unlock()
	it := q.items[p.UID]
	if it == nil {
		it = &item{pod: fit.NewPod(p), place: gated, queuedAt: time.Now()}
		q.items[p.UID] = it
		q.ungate(it)
		return
	}
	changed := schedulingChanged(it.pod.Pod, p)
	if changed && (it.place == active || it.place == backoff) {
		q.leave(it) // the heap's order may depend on what changes
		it.pod = fit.NewPod(p)
		q.enter(it, active)
		return
	}
	if !changed {
		// Only status or annotations: keep what was worked out.
		kept := *it.pod
		kept.Pod = p
		it.pod = &kept
		return
	}
	it.pod = fit.NewPod(p)
	switch it.place {
	case gated:
		q.ungate(it)
	case inFlight:
		it.changed = true
	case parked:
		q.move(it)
	}
}

func (q *queue) ungate(it *item) {
	if len(it.pod.Spec.SchedulingGates) == 0 {
		q.enter(it, active)
	}
}

// remove forgets a pod that is gone or assigned.
func (q *queue) remove(uid types.UID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if it := q.items[uid]; it != nil {
		q.leave(it)
		delete(q.items, uid)
	}
}

// pop waits for the next pod to schedule. It returns nil when ctx is done. The item's pod may be replaced while it is in
// flight; the one returned is what the decision is about.
func (q *queue) pop(ctx context.Context) (*item, *fit.Pod) {
	stop := context.AfterFunc(ctx, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.stopped = true
		q.wake.Broadcast()
	})
	defer stop()
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.stopped && len(q.active.items) == 0 && len(q.backoff.items) == 0 {
		q.wake.Wait()
	}
	if q.stopped {
		return nil, nil
	}
	from := &q.active
	if len(from.items) == 0 {
		from = &q.backoff // nothing else to do, so waiting would help nobody
	}
	it := from.items[0]
	q.leave(it)
	it.place = inFlight
	it.attempts++
	it.changed = false
	q.sincePop = 0
	return it, it.pod
}

// refused parks a pod that no node takes, unless an event since pop already speaks for it.
func (q *queue) refused(it *item, by fit.Filter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.items[it.pod.UID] != it {
		return // gone meanwhile
	}
	it.refusedBy = by
	it.notBefore = time.Now().Add(delayAfter(it.attempts))
	if it.changed || by&q.sincePop != 0 {
		q.enter(it, backoff)
		return
	}
	q.enter(it, parked)
}

// failed holds back a pod after an error that has nothing to do with the nodes.
func (q *queue) failed(it *item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.items[it.pod.UID] != it {
		return
	}
	it.notBefore = time.Now().Add(delayAfter(it.attempts))
	q.enter(it, held)
}

// happened tells the queue that something changed which may turn the verdict of some filters.
func (q *queue) happened(what fit.Filter) {
	if what == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sincePop |= what
	for _, it := range q.items {
		if it.place == parked && it.refusedBy&what != 0 {
			q.move(it)
		}
	}
}

func (q *queue) move(it *item) {
	q.leave(it)
	if time.Now().Before(it.notBefore) {
		q.enter(it, backoff)
	} else {
		q.enter(it, active)
	}
}

func (q *queue) enter(it *item, to place) {
	it.place = to
	after := time.Until(it.notBefore)
	switch to {
	case active:
		heap.Push(&q.active, it)
		q.wake.Signal()
		return
	case backoff:
		heap.Push(&q.backoff, it)
		q.wake.Signal()
	case parked:
		after = leftover
	}
	it.timer = time.AfterFunc(max(after, 0), func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if q.items[it.pod.UID] == it && it.place == to && !time.Now().Before(it.notBefore) {
			q.leave(it)
			q.enter(it, active)
		}
	})
}

func (q *queue) leave(it *item) {
	if it.timer != nil {
		it.timer.Stop()
		it.timer = nil
	}
	switch it.place {
	case active:
		heap.Remove(&q.active, it.index)
	case backoff:
		heap.Remove(&q.backoff, it.index)
	}
}

func delayAfter(attempts int) time.Duration {
	if attempts > 4 {
		return lastBackoff
	}
	return min(firstBackoff<<max(attempts-1, 0), lastBackoff)
}

// schedulingChanged says whether an update can change where the pod may go.
func schedulingChanged(a, b *corev1.Pod) bool {
	return a.Generation != b.Generation || !equality.Semantic.DeepEqual(a.Labels, b.Labels) ||
		len(a.Spec.SchedulingGates) != len(b.Spec.SchedulingGates) || len(a.Spec.Tolerations) != len(b.Spec.Tolerations) ||
		!equality.Semantic.DeepEqual(a.Spec, b.Spec)
}

type itemHeap struct{ items []*item }

func (h *itemHeap) Len() int { return len(h.items) }
func (h *itemHeap) Less(i, j int) bool {
	a, b := h.items[i], h.items[j]
	return cmp.Or(cmp.Compare(b.pod.Priority, a.pod.Priority), a.queuedAt.Compare(b.queuedAt)) < 0
}

func (h *itemHeap) Swap(i, j int) {
	h.items[i], h.items[j] = h.items[j], h.items[i]
	h.items[i].index, h.items[j].index = i, j
}

func (h *itemHeap) Push(x any) {
	it := x.(*item)
	it.index = len(h.items)
	h.items = append(h.items, it)
}

func (h *itemHeap) Pop() any {
	last := h.items[len(h.items)-1]
	h.items[len(h.items)-1] = nil
	h.items = h.items[:len(h.items)-1]
	return last
}
