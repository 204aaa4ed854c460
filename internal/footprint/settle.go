package footprint

import (
	"context"
	"time"

	"golang.org/x/sys/unix"
)

// Settle trims whenever the process has worked and has become quiet again, until ctx ends. The processor time that it has
// used tells both, whatever the work was.
func Settle(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	s := settler{quiet: every / 200, worth: 150 * time.Millisecond}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if s.due(used()) {
			_ = Trim() // a saving that failed is no failure of the program
			s.trimmed = used()
		}
	}
}

// settler decides when a trim is worth its while. The times are of the processor.
type settler struct {
	quiet, worth  time.Duration
	last, trimmed time.Duration
}

// due tells whether to trim, given the time used until now: when much was used since the last trim, and little since
// the last look.
func (s *settler) due(now time.Duration) bool {
	calm := now-s.last <= s.quiet
	s.last = now
	return calm && now-s.trimmed >= s.worth
}

func used() time.Duration {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
