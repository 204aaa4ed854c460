package keyqueue

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestAKeyWaitsOnceAndIsWorkedOnByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls, inside atomic.Int32
		q := New("t", 4, func(context.Context, string) error {
			if inside.Add(1) > 1 {
				t.Error("two workers have the same key")
			}
			time.Sleep(time.Second)
			inside.Add(-1)
			calls.Add(1)
			return nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for range 5 {
			q.Add("a") // before Run: waits
		}
		go q.Run(ctx)
		synctest.Wait()
		for range 5 {
			q.Add("a") // while active: once more afterwards
		}
		time.Sleep(10 * time.Second)
		if got := calls.Load(); got != 2 {
			t.Errorf("calls = %d, want 2", got)
		}
		if q.running != 0 {
			t.Errorf("%d workers idle, want none", q.running)
		}
	})
}

func TestWorkersRunInParallelUpToTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int32
		q := New("t", 3, func(context.Context, int) error {
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			time.Sleep(time.Second)
			now.Add(-1)
			return nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go q.Run(ctx)
		for i := range 9 {
			q.Add(i)
		}
		time.Sleep(3*time.Second + time.Millisecond)
		if most.Load() != 3 || q.Len() != 0 {
			t.Errorf("most = %d, left = %d; want 3 and 0", most.Load(), q.Len())
		}
	})
}

func TestErrorsBackOffAndPanicsAreErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var at []time.Duration
		start := time.Now()
		q := New("t", 1, func(context.Context, string) error {
			mu.Lock()
			defer mu.Unlock()
			at = append(at, time.Since(start))
			switch len(at) {
			case 1:
				return errors.New("no")
			case 2:
				panic("odd object")
			}
			return nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go q.Run(ctx)
		q.Add("a")
		time.Sleep(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if len(at) != 3 || at[1] != 10*time.Millisecond || at[2] != 30*time.Millisecond {
			t.Errorf("calls at %v, want 0, 10ms, 30ms", at)
		}
	})
}

func TestTheEarliestDelayCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		q := New("t", 1, func(context.Context, string) error { calls.Add(1); return nil })
		ctx, cancel := context.WithCancel(t.Context())
		go q.Run(ctx)
		q.AddAfter("a", time.Minute)
		q.AddAfter("a", time.Second)
		q.AddAfter("a", time.Hour)
		time.Sleep(2 * time.Second)
		if calls.Load() != 1 {
			t.Errorf("calls after 2 s = %d, want 1", calls.Load())
		}
		time.Sleep(2 * time.Hour)
		if calls.Load() != 1 {
			t.Errorf("calls after hours = %d, want 1", calls.Load())
		}
		q.AddAfter("a", time.Minute)
		cancel()
		time.Sleep(time.Hour)
		if calls.Load() != 1 {
			t.Error("a delayed key was worked on after the end")
		}
	})
}
