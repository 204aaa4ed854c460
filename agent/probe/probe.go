// Package probe runs liveness, readiness and startup probes. All of a node's probes share one timer: an idle probe costs
// an entry in a heap, a goroutine only while it is asking.
//
// Reads:  what containers answer.
// Writes: nothing; verdicts go to a callback.
package probe

import (
	"container/heap"
	"context"
	"errors"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/mote-edge/mote/agent/action"
	"github.com/mote-edge/mote/agent/meter"
)

// Target is a running container with probes.
type Target struct {
	UID         types.UID
	ContainerID string
	StartedAt   time.Time
	Pod         *corev1.Pod
	Container   *corev1.Container
	PodIP       string
	// Started says that the startup probe has already succeeded, before this agent's time.
	Started bool
}

// Result is a verdict that differs from the one before, or a failed try worth an event.
type Result struct {
	UID         types.UID
	ContainerID string
	Container   string
	Kind        Kind
	Verdict     Verdict // Unknown: a failure below the threshold, only for the event
	Message     string  // of a failure, or of a success with a warning
	Failed      bool    // this try failed (an Unhealthy event)
	Errored     bool    // the try couldn't be made at all
}

// Set holds the probes of a node. report is called without locks held, from the probe's goroutine.
type Set struct {
	run    *action.Runner
	report func(Result)
	ctx    context.Context

	mu    sync.Mutex
	queue queue
	byID  map[string][]*entry // container ID → its probes
	timer *time.Timer
}

type entry struct {
	t       Target
	kind    Kind
	spec    *corev1.Probe
	tally   tally
	verdict Verdict
	due     time.Time
	index   int      // in the heap; -1 when it isn't
	busy    bool     // asking now
	held    bool     // waits for the startup probe
	counts  [3]int64 // successes, failures, tries that couldn't be made
	times   *meter.Histogram
	gone    bool
}

// New returns an empty set whose probes end with ctx.
func New(ctx context.Context, run *action.Runner, report func(Result)) *Set {
	s := &Set{run: run, report: report, ctx: ctx, byID: map[string][]*entry{}}
	s.timer = time.AfterFunc(time.Hour, s.tick)
	return s
}

// Has tells whether a container has any probe.
func Has(c *corev1.Container) bool {
	return c.LivenessProbe != nil || c.ReadinessProbe != nil || c.StartupProbe != nil
}

// Add starts the probes of a container; a second call for the same container ID does nothing.
func (s *Set) Add(t Target) {
	if !Has(t.Container) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.byID[t.ContainerID]; ok {
		return
	}
	var list []*entry
	add := func(kind Kind, spec *corev1.Probe, held bool) {
		if spec == nil {
			return
		}
		due := t.StartedAt.Add(time.Duration(spec.InitialDelaySeconds) * time.Second)
		list = append(list, &entry{t: t, kind: kind, spec: spec, due: due, index: -1, held: held, times: meter.NewHistogram(meter.Probes)})
	}
	wait := t.Container.StartupProbe != nil && !t.Started
	if wait {
		add(Startup, t.Container.StartupProbe, false)
	}
	add(Liveness, t.Container.LivenessProbe, wait)
	add(Readiness, t.Container.ReadinessProbe, wait)
	s.byID[t.ContainerID] = list
	for _, e := range list {
		if !e.held {
			heap.Push(&s.queue, e)
		}
	}
	s.arm()
}

// Remove ends the probes of a container.
func (s *Set) Remove(containerID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.byID[containerID] {
		e.gone = true
		if e.index >= 0 {
			heap.Remove(&s.queue, e.index)
		}
	}
	delete(s.byID, containerID)
	s.arm()
}

// RemoveKind ends the probes of one kind: a pod that is being stopped is asked for readiness, but not restarted.
func (s *Set) RemoveKind(containerID string, kind Kind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.byID[containerID] {
		if e.kind == kind && !e.gone {
			e.gone = true
			if e.index >= 0 {
				heap.Remove(&s.queue, e.index)
			}
		}
	}
	s.arm()
}

// arm sets the timer to the first probe that is due. The lock is held.
func (s *Set) arm() {
	if len(s.queue) == 0 {
		s.timer.Stop()
		return
	}
	s.timer.Reset(max(time.Until(s.queue[0].due), 0))
}

func (s *Set) tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for len(s.queue) > 0 && !s.queue[0].due.After(now) {
		e := heap.Pop(&s.queue).(*entry)
		e.busy = true
		go s.ask(e)
	}
	s.arm()
}

func (s *Set) ask(e *entry) {
	if s.ctx.Err() != nil {
		return
	}
	begin := time.Now()
	result, message, errored := s.try(e)
	e.times.Observe(time.Since(begin).Seconds())
	s.mu.Lock()
	switch {
	case errored:
		e.counts[2]++
	case result == Failure:
		e.counts[1]++
	default:
		e.counts[0]++
	}
	e.busy = false
	if e.gone || s.ctx.Err() != nil {
		s.mu.Unlock()
		return
	}
	// The next try is a period after this one was due, not after it ended; a missed one isn't made up for.
	if e.due = e.due.Add(period(e.spec)); e.due.Before(time.Now()) {
		e.due = time.Now().Add(period(e.spec))
	}
	r := Result{UID: e.t.UID, ContainerID: e.t.ContainerID, Container: e.t.Container.Name, Kind: e.kind, Message: message, Failed: result == Failure, Errored: errored}
	if !errored { // a probe that couldn't be made, because the runtime is away, says nothing of the container
		if v := e.tally.add(result, e.spec); v != Unknown && v != e.verdict {
			e.verdict, r.Verdict = v, v
		}
	}
	if e.kind == Startup && r.Verdict == Success {
		e.gone = true
		s.release(e.t.ContainerID)
	}
	if !e.gone {
		heap.Push(&s.queue, e)
	}
	s.arm()
	s.mu.Unlock()
	if r.Message != "" || r.Failed || r.Verdict != Unknown {
		s.report(r)
	}
}

// release lets the probes that waited for the startup probe begin, at once: the container is up.
func (s *Set) release(containerID string) {
	for _, e := range s.byID[containerID] {
		if e.held && !e.gone {
			e.held = false
			if now := time.Now(); e.due.Before(now) {
				e.due = now
			}
			heap.Push(&s.queue, e)
		}
	}
}

func (s *Set) try(e *entry) (v Verdict, message string, errored bool) {
	limit := timeout(e.spec)
	ctx, cancel := context.WithTimeout(s.ctx, limit+time.Second)
	defer cancel()
	t := action.Target{ContainerID: e.t.ContainerID, PodIP: e.t.PodIP, Ports: e.t.Container.Ports}
	var err error
	switch p := e.spec; {
	case p.Exec != nil:
		_, err = s.run.Command(ctx, t, p.Exec.Command, limit)
	case p.HTTPGet != nil:
		_, err = s.run.HTTP(ctx, t, p.HTTPGet, limit)
	case p.TCPSocket != nil:
		err = s.run.TCP(ctx, t, p.TCPSocket, limit)
	case p.GRPC != nil:
		err = s.run.GRPC(ctx, t, p.GRPC, limit)
	default:
		err = errors.New("missing probe handler")
	}
	switch {
	case err == nil:
		return Success, "", false
	case errors.Is(err, action.ErrWarned):
		return Success, err.Error(), false
	case errors.Is(err, action.ErrFailed):
		return Failure, err.Error(), false
	}
	return Failure, err.Error(), true
}

type queue []*entry

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q queue) Swap(i, j int)      { q[i], q[j] = q[j], q[i]; q[i].index, q[j].index = i, j }
func (q *queue) Push(x any)        { e := x.(*entry); e.index = len(*q); *q = append(*q, e) }
func (q *queue) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*q, e.index = old[:len(old)-1], -1
	return e
}
