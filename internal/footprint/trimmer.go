package footprint

import (
	"sync/atomic"
	"time"
)

// Trimmer trims some time after work was done, however little it was. It costs nothing while there is none.
type Trimmer struct {
	after  time.Duration
	armed  atomic.Bool
	last   atomic.Int64 // nanoseconds since start
	start  time.Time
	trimIt func()
}

// patience is how many times longer than it should a trim may wait for the end of the work. In the middle of it a trim costs
// far more than it gives: a collection, and the faults that map everything again.
const patience = 6

// NewTrimmer makes a trimmer and arms it: the program's start was work.
func NewTrimmer(after time.Duration) *Trimmer {
	t := &Trimmer{after: after, start: time.Now(), trimIt: func() {
		_ = Trim() // a saving that failed is no failure of the program
	}}
	t.Touch()
	return t
}

// Touch notes that there was work.
func (t *Trimmer) Touch() {
	t.last.Store(int64(time.Since(t.start)))
	if t.armed.Swap(true) {
		return
	}
	t.wait(t.after, time.Now().Add(patience*t.after))
}

// wait trims when there has been no work for so long, or at the deadline.
func (t *Trimmer) wait(d time.Duration, deadline time.Time) {
	time.AfterFunc(d, func() {
		rest := t.after - (time.Since(t.start) - time.Duration(t.last.Load()))
		if left := time.Until(deadline); rest > 0 && left > 0 {
			t.wait(min(rest, left), deadline)
			return
		}
		t.armed.Store(false)
		t.trimIt()
	})
}
