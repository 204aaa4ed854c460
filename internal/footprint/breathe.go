package footprint

import (
	"context"
	"runtime/debug"
	"sync/atomic"
	"time"
)

const (
	// often is how soon one collection follows another when a program works hard: an idle one collects every few minutes,
	// since the Go runtime forces that.
	often = time.Second
	// rest is how long there must then be no collection, and less than little allocated.
	rest   = 3 * time.Second
	little = 8 << 20
	// starting is how long the heap gets no room beyond the percentage: what a program makes at its start stays, and would lie
	// scattered over all of it, so that little could be given back.
	starting = 20 * time.Second
	// seldom is how often a trim after work is worth it: it costs a collection and the faults that map the program's pages again.
	seldom = 10 * time.Second
)

// Breathe sets the garbage collector's percentage: at rest the heap stays small, under load it may grow, by working percent at
// least and by more where the machine has room, which saves up to a fifth of the processor time of sixty pods that start at
// once. What it has grown by is given back after the work. It
// waits for garbage collections; an idle program isn't woken. It blocks until ctx ends.
func Breathe(ctx context.Context, resting, working int) {
	collected := make(chan struct{}, 1)
	var ended atomic.Bool
	defer ended.Store(true)
	debug.SetGCPercent(resting)
	onCollection(&ended, collected)
	timer := time.NewTimer(rest)
	timer.Stop()
	start := time.Now()
	var b breath
	var trimmed time.Time
	var spent uint64 // allocated when the program began to work, or was last seen working
	for {
		select {
		case <-ctx.Done():
			return
		case <-collected:
			if b.collected(time.Now()) {
				space := room()
				if time.Since(start) < starting {
					space = 0
				}
				debug.SetGCPercent(percent(working, live(), space))
				spent = allocated()
			}
			if b.working {
				timer.Reset(rest)
			}
		case <-timer.C:
			// With room in the heap collections are rare, however hard the program works.
			if now := allocated(); b.working && now-spent >= little {
				spent = now
				timer.Reset(rest)
				continue
			}
			b.working = false
			debug.SetGCPercent(resting)
			if wait := seldom - time.Since(trimmed); wait > 0 {
				timer.Reset(wait)
				continue
			}
			_ = Trim() // a saving that failed is no failure of the program
			trimmed = time.Now()
		}
	}
}

// breath knows whether a program works.
type breath struct {
	last    time.Time
	working bool
}

// collected notes a collection and reports whether the program began to work with it.
func (b *breath) collected(now time.Time) (began bool) {
	began = !b.working && now.Sub(b.last) < often
	b.working = b.working || began
	b.last = now
	return began
}
