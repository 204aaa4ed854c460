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

var waste []byte // on the heap

func TestBreatheSetsThePercentage(t *testing.T) {
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); Breathe(ctx, 51, 201) }()
	await := func(low, high int, each func()) {
		t.Helper()
		for end := time.Now().Add(4 * rest); ; time.Sleep(20 * time.Millisecond) {
			each()
			got := debug.SetGCPercent(100)
			debug.SetGCPercent(got)
			if got >= low && got <= high {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("the percentage is %d, not between %d and %d", got, low, high)
			}
		}
	}
	await(51, 51, func() {})
	await(201, 1e6, runtime.GC)
	for end := time.Now().Add(2 * rest); time.Now().Before(end); time.Sleep(10 * time.Millisecond) { // work without collections
		waste = make([]byte, 64<<10)
		if got := debug.SetGCPercent(201); got < 201 {
			t.Fatalf("the percentage is %d while much is allocated", got)
		}
	}
	await(51, 51, func() {})
	cancel()
	<-done
}

func TestPercentFillsTheRoom(t *testing.T) {
	for _, c := range []struct {
		live, room uint64
		want       int
	}{{0, 1 << 20, 200}, {32 << 20, 0, 200}, {32 << 20, 32 << 20, 200}, {32 << 20, 256 << 20, 800}, {512 << 20, 256 << 20, 200}} {
		if got := percent(200, c.live, c.room); got != c.want {
			t.Errorf("%d bytes alive, room for %d: %d, want %d", c.live, c.room, got, c.want)
		}
	}
	if r := room(); r == 0 || r > roomMost {
		t.Errorf("this machine has room for %d bytes", r)
	}
}
