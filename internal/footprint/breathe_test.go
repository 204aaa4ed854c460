package footprint

import (
	"context"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func TestBreathKnowsWork(t *testing.T) {
	var b breath
	start := time.Unix(1000, 0)
	for _, step := range []struct {
		after time.Duration
		began bool
	}{{0, false}, {2 * time.Minute, false}, {2*time.Minute + often/2, true}, {2*time.Minute + often, false}} {
		if got := b.collected(start.Add(step.after)); got != step.began {
			t.Errorf("a collection after %s: %t", step.after, got)
		}
	}
	if !b.working {
		t.Error("it doesn't work")
	}
}

func TestBreatheSetsThePercentage(t *testing.T) {
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); Breathe(ctx, 51, 201) }()
	await := func(want int, each func()) {
		t.Helper()
		for end := time.Now().Add(4 * rest); ; time.Sleep(20 * time.Millisecond) {
			each()
			got := debug.SetGCPercent(100)
			debug.SetGCPercent(got)
			if got == want {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("the percentage is %d, not %d", got, want)
			}
		}
	}
	await(51, func() {})
	await(201, runtime.GC)
	await(51, func() {})
	cancel()
	<-done
}
