package event

import (
	"log/slog"
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	r := New(&server{}, "kubelet", "n1", slog.New(slog.DiscardHandler))
	now := time.Unix(1000, 0)
	if r.pace(now) != 0 {
		t.Error("bounded without a limit")
	}
	r.Limit(10, 2)
	r.all.at = now
	var waits []time.Duration
	for range 4 {
		waits = append(waits, r.pace(now))
	}
	if waits[0] != 0 || waits[1] != 0 || waits[2] != 100*time.Millisecond || waits[3] != 200*time.Millisecond {
		t.Errorf("%v", waits)
	}
	if got := r.pace(now.Add(time.Minute)); got != 0 {
		t.Errorf("after a pause: %v", got)
	}
}
