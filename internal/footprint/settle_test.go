package footprint

import (
	"testing"
	"time"
)

func TestSettlerWaitsForQuiet(t *testing.T) {
	s := settler{quiet: 10, worth: 100}
	for i, step := range []struct {
		used time.Duration
		want bool
	}{
		{200, false}, // worked just now
		{205, true},
		{206, false}, // done already
	} {
		if got := s.due(step.used); got != step.want {
			t.Errorf("step %d: %t", i, got)
		}
		if step.want {
			s.trimmed = step.used
		}
	}
	if s.due(290) || s.due(299) {
		t.Error("trims although little was done since the last trim")
	}
	if !s.due(305) {
		t.Error("doesn't trim after work that came in small pieces")
	}
}
