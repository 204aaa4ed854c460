// Package keyqueue hands the keys of changed objects to a reconcile function.
//
// It keeps what a controller needs from client-go's workqueue — a key waits only once, is never worked on by two
// workers at a time, and comes back with a growing delay after an error — and drops what costs memory while nothing
// happens: workers are started when there is a key and end when there is none, and a delay is a timer, not a goroutine.
//
// Reads: nothing. Writes: nothing; the reconcile function does.
package keyqueue

import (
	"context"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"
)

const (
	firstRetry = 10 * time.Millisecond
	lastRetry  = time.Minute
)

// Queue is a set of keys with workers on demand. Add may be called before Run; keys wait until Run is called.
type Queue[K comparable] struct {
	name      string
	workers   int
	reconcile func(ctx context.Context, key K) error

	mu      sync.Mutex
	ctx     context.Context // nil before Run and after its end: nothing is started then
	ready   []K             // keys in order of arrival
	queued  map[K]bool      // keys in ready, or active ones to be queued again when done
	active  map[K]bool      // keys being reconciled
	failed  map[K]int       // consecutive failures
	delayed map[K]*delay
	running int
	wg      sync.WaitGroup
}

type delay struct {
	at    time.Time
	timer *time.Timer
}

// New returns a queue whose keys are reconciled by at most workers goroutines. An error from reconcile is logged and
// the key retried with exponential back-off, from 10 ms to a minute.
func New[K comparable](name string, workers int, reconcile func(ctx context.Context, key K) error) *Queue[K] {
	return &Queue[K]{
		name: name, workers: workers, reconcile: reconcile,
		queued: map[K]bool{}, active: map[K]bool{}, failed: map[K]int{}, delayed: map[K]*delay{},
	}
}

// Add queues a key at once. A pending delay of the same key is left alone.
func (q *Queue[K]) Add(key K) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.add(key)
}

// AddAfter queues a key after a delay. Of several delays of one key the earliest counts.
func (q *Queue[K]) AddAfter(key K, d time.Duration) {
	if d <= 0 {
		q.Add(key)
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	at := time.Now().Add(d)
	if old := q.delayed[key]; old != nil {
		if !at.Before(old.at) {
			return
		}
		old.timer.Stop()
	}
	w := &delay{at: at}
	w.timer = time.AfterFunc(d, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if q.delayed[key] == w {
			delete(q.delayed, key)
			q.add(key)
		}
	})
	q.delayed[key] = w
}

// Len is the number of keys that wait or are being worked on; delayed ones don't count.
func (q *Queue[K]) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.ready) + len(q.active)
}

// Run lets the workers start and blocks until ctx is done and the last worker has returned.
func (q *Queue[K]) Run(ctx context.Context) {
	q.mu.Lock()
	q.ctx = ctx
	q.start()
	q.mu.Unlock()
	<-ctx.Done()
	q.mu.Lock()
	q.ctx = nil
	for key, w := range q.delayed {
		w.timer.Stop()
		delete(q.delayed, key)
	}
	q.mu.Unlock()
	q.wg.Wait()
}

func (q *Queue[K]) add(key K) {
	if q.queued[key] {
		return
	}
	q.queued[key] = true
	if q.active[key] {
		return // the worker that has it queues it again
	}
	q.ready = append(q.ready, key)
	q.start()
}

func (q *Queue[K]) start() {
	for q.ctx != nil && q.running < q.workers && q.running < len(q.ready)+len(q.active) && len(q.ready) > 0 {
		q.running++
		q.wg.Add(1)
		go q.work(q.ctx)
	}
}

func (q *Queue[K]) work(ctx context.Context) {
	defer q.wg.Done()
	for {
		q.mu.Lock()
		if len(q.ready) == 0 || ctx.Err() != nil {
			q.running--
			if len(q.ready) == 0 {
				q.ready = nil // don't hold on to a burst's array
			}
			q.mu.Unlock()
			return
		}
		key := q.ready[0]
		q.ready = q.ready[1:]
		delete(q.queued, key)
		q.active[key] = true
		q.mu.Unlock()

		err := q.call(ctx, key)

		q.mu.Lock()
		delete(q.active, key)
		var retry time.Duration
		if err != nil {
			retry = backoff(q.failed[key])
			q.failed[key]++
		} else {
			delete(q.failed, key)
		}
		if q.queued[key] {
			q.ready = append(q.ready, key)
			q.start()
		}
		q.mu.Unlock()
		if err != nil && ctx.Err() == nil {
			slog.DebugContext(ctx, "reconcile failed, will be retried", "queue", q.name, "key", key, "after", retry, "err", err)
			if retry >= time.Second {
				slog.WarnContext(ctx, "reconcile keeps failing", "queue", q.name, "key", key, "after", retry, "err", err)
			}
			q.AddAfter(key, retry)
		}
	}
}

// call turns a panic of the reconcile function into an error: one odd object may not take the control plane down.
func (q *Queue[K]) call(ctx context.Context, key K) (err error) {
	defer func() {
		if p := recover(); p != nil {
			slog.ErrorContext(ctx, "reconcile panicked", "queue", q.name, "key", key, "panic", p, "stack", string(debug.Stack()))
			err = panicError{p}
		}
	}()
	return q.reconcile(ctx, key)
}

type panicError struct{ value any }

func (panicError) Error() string { return "reconcile panicked, see the log" }

func backoff(failures int) time.Duration {
	if failures > 12 {
		return lastRetry
	}
	return min(firstRetry<<failures, lastRetry)
}
