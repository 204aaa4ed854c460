package footprint

import (
	"sync/atomic"
	"time"
)

// Trimmer trims some time after work was done, however much it was. It costs nothing while there is none.
type Trimmer struct {
	after time.Duration
	armed atomic.Bool
}

// NewTrimmer makes a trimmer and arms it: the program's start was work.
func NewTrimmer(after time.Duration) *Trimmer {
	t := &Trimmer{after: after}
	t.Touch()
	return t
}

// Touch notes that there was work.
func (t *Trimmer) Touch() {
	if t.armed.Swap(true) {
		return
	}
	time.AfterFunc(t.after, func() {
		t.armed.Store(false)
		_ = Trim() // a saving that failed is no failure of the program
	})
}
