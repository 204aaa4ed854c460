package evict

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// state is what has been seen so far. Its methods are pure: the clock and the levels come from outside.
type state struct {
	since     map[Threshold]time.Time                // crossed since
	due       map[Threshold]bool                     // crossed for its grace period: more must be free before that is over
	condition map[corev1.NodeConditionType]time.Time // last seen
}

// judgement is what follows from a reading.
type judgement struct {
	due        []Threshold // what pods are to be ended for, the first first
	crossed    bool        // some threshold is, whether or not its grace period is over
	conditions map[corev1.NodeConditionType]bool
	next       time.Time // when time alone will change that; zero: never
}

// judge takes a reading in. A condition stays for hold after its signal was last short: a node that flaps would attract
// the pods that it has just got rid of.
func (s *state) judge(list []Threshold, r Reading, now time.Time, hold time.Duration) judgement {
	since, due := map[Threshold]time.Time{}, map[Threshold]bool{}
	if s.condition == nil {
		s.condition = map[corev1.NodeConditionType]time.Time{}
	}
	j := judgement{conditions: map[corev1.NodeConditionType]bool{}}
	sooner := func(t time.Time) {
		if j.next.IsZero() || t.Before(j.next) {
			j.next = t
		}
	}
	for _, t := range list {
		if !short(t, r, s.due[t]) {
			continue
		}
		begin, ok := s.since[t]
		if !ok {
			begin = now
		}
		since[t], j.crossed = begin, true
		s.condition[t.Signal.Condition()] = now
		if at := begin.Add(t.Grace); now.Before(at) {
			sooner(at)
			continue
		}
		due[t] = true
		j.due = append(j.due, t)
	}
	s.since, s.due = since, due
	for c, seen := range s.condition {
		if end := seen.Add(hold); now.Before(end) {
			j.conditions[c] = true
			sooner(end)
		} else {
			delete(s.condition, c)
		}
	}
	slices.SortStableFunc(j.due, func(a, b Threshold) int {
		return cmp.Compare(slices.Index(order, a.Signal), slices.Index(order, b.Signal))
	})
	return j
}

// short tells whether less is left than a threshold wants; once it was due, its minimum reclaim on top.
func short(t Threshold, r Reading, due bool) bool {
	l, known := r[t.Signal]
	if !known || l.Capacity <= 0 {
		return false
	}
	need := t.Left.Of(l.Capacity)
	if due {
		need += t.Reclaim.Of(l.Capacity)
	}
	return l.Available < need
}

// The bounds of the time between two looks.
const (
	soonest = 2 * time.Second
	latest  = time.Minute
	// assumed is how fast something may be used up even if it didn't look like it before: all of it in this time.
	assumed = 20 * time.Minute
	// assumedBlind is the same of memory where the kernel tells nothing before tasks have to wait for it.
	assumedBlind = time.Minute
)

// nextLook says when a threshold might be crossed at the earliest: half the time in which what is left above it would be
// gone, at the pace seen since the last look or at a brisk one. A node with room to spare is looked at once a minute.
// Blind is a node whose kernel has no thresholds of memory use (cgroup v2): when its stall information says that memory is
// short, a quick pod may have taken all of it.
func nextLook(list []Threshold, before, now Reading, elapsed time.Duration, blind bool) time.Duration {
	wait := latest
	for _, t := range list {
		l, ok := now[t.Signal]
		if !ok || l.Capacity <= 0 {
			continue
		}
		room := float64(l.Available - t.Left.Of(l.Capacity))
		pace := float64(l.Capacity) / assumed.Seconds()
		if blind && t.Signal.Resource() == corev1.ResourceMemory {
			pace = float64(l.Capacity) / assumedBlind.Seconds()
		}
		if b, ok := before[t.Signal]; ok && elapsed > 0 {
			pace = max(pace, float64(b.Available-l.Available)/elapsed.Seconds())
		}
		if seconds := room / (2 * pace); seconds < wait.Seconds() {
			wait = time.Duration(max(seconds, 0) * float64(time.Second))
		}
	}
	return max(wait, soonest)
}
