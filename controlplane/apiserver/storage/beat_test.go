package storage

import (
	"testing"
	"time"
)

func TestOnBeat(t *testing.T) {
	for _, c := range []struct{ now, d, want time.Duration }{
		{10 * time.Second, time.Second, time.Second},
		{10 * time.Second, 1250 * time.Millisecond, time.Second},
		{10*time.Second + time.Millisecond, 1100 * time.Millisecond, 999 * time.Millisecond}, // a little late: on the next one all the same
		{10*time.Second + 900*time.Millisecond, 1200 * time.Millisecond, 1100 * time.Millisecond},
		{10*time.Second + 500*time.Millisecond, 1200 * time.Millisecond, 500 * time.Millisecond}, // a first one: sooner, never later
		{10*time.Second + 500*time.Millisecond, 3 * time.Second, 3 * time.Second},
		{10*time.Second + 500*time.Millisecond, 300 * time.Millisecond, 300 * time.Millisecond},
	} {
		if got := onBeat(c.now, c.d); got != c.want || got > c.d {
			t.Errorf("at %v a timer of %v ends in %v, want %v", c.now, c.d, got, c.want)
		}
	}
}

func TestBeatTimersEndTogether(t *testing.T) {
	var ends []time.Time
	a, b := beat{}.NewTimer(time.Second), beat{}.NewTimer(1200*time.Millisecond)
	b.Reset(1100 * time.Millisecond)
	for _, c := range []<-chan time.Time{a.C(), b.C()} {
		ends = append(ends, <-c)
	}
	if apart := ends[1].Sub(ends[0]).Abs(); apart > 100*time.Millisecond && (apart-time.Second).Abs() > 100*time.Millisecond { // made on two sides of a beat
		t.Errorf("they end %v apart", apart)
	}
}
