package footprint

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestTrimmerWaitsForTheEndOfTheWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		trimmed := make(chan time.Duration, 100)
		start := time.Now()
		trimmer := &Trimmer{after: 10 * time.Second, start: start, trimIt: func() { trimmed <- time.Since(start) }}
		all := func() (out []time.Duration) {
			for len(trimmed) > 0 {
				out = append(out, <-trimmed)
			}
			return out
		}
		trimmer.Touch()
		for range 20 { // work until 20 s
			time.Sleep(time.Second)
			trimmer.Touch()
		}
		time.Sleep(time.Hour)
		if trims := all(); len(trims) != 1 || trims[0] != 30*time.Second {
			t.Fatalf("trimmed at %v, not ten seconds after the work", trims)
		}
		again := time.Since(start)
		for range 200 { // work that doesn't end
			trimmer.Touch()
			time.Sleep(time.Second)
		}
		time.Sleep(time.Hour)
		trims := all()
		if len(trims) < 3 || trims[0]-again != patience*10*time.Second {
			t.Fatalf("trimmed at %v during work that didn't end", trims)
		}
		if last := trims[len(trims)-1] - again; last < 200*time.Second || last > 210*time.Second {
			t.Errorf("the last time at %v, the work ended at 3m20s", last)
		}
	})
}
