package storage

import (
	"time"

	"k8s.io/utils/clock"
)

// beat is a clock whose timers of about a second end on the same beat of a second. Each of some ten watch caches has one to see
// whether a watcher is due for a bookmark, which the library spreads out; on an idle device, ten wake-ups become one.
type beat struct{ clock.RealClock }

var _ clock.WithTicker = beat{}

// epoch is when the beat began: its monotonic clock goes on when somebody sets the time.
var epoch = time.Now()

// beatJitter is how much the library adds to a second at most, see dispatchEvents in k8s.io/apiserver/pkg/storage/cacher.
const beatJitter = time.Second / 4

func (beat) NewTimer(d time.Duration) clock.Timer {
	return beatTimer{clock.RealClock{}.NewTimer(onBeat(time.Since(epoch), d))}
}

type beatTimer struct{ clock.Timer }

func (t beatTimer) Reset(d time.Duration) bool { return t.Timer.Reset(onBeat(time.Since(epoch), d)) }

// onBeat moves the end of a timer of d, which begins at now, to the last beat before it, and leaves other timers alone.
func onBeat(now, d time.Duration) time.Duration {
	if d < time.Second || d > time.Second+beatJitter {
		return d
	}
	return (now + d).Truncate(time.Second) - now
}
