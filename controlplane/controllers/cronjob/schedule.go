package cronjob

import (
	"errors"
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // small systems have no zone files

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
)

// manyMissed is how many missed start times are worth a warning: a clock may have jumped.
const manyMissed = 100

// grace makes a timer fire after the start time, not before it.
const grace = 100 * time.Millisecond

var (
	errZone     = errors.New("unknown time zone")
	errSchedule = errors.New("unparseable schedule")
	errTooDense = errors.New("time difference between two schedules is less than 1 second")
)

// parse reads the schedule of a CronJob in its time zone.
func parse(cj *batchv1.CronJob) (s cron.Schedule, err error) {
	defer func() {
		if p := recover(); p != nil { // the parser panics on some malformed zones
			s, err = nil, fmt.Errorf("%w: %q: %v", errSchedule, cj.Spec.Schedule, p)
		}
	}()
	text := cj.Spec.Schedule
	if cj.Spec.TimeZone != nil {
		if _, err := time.LoadLocation(*cj.Spec.TimeZone); err != nil {
			return nil, fmt.Errorf("%w: %q: %w", errZone, *cj.Spec.TimeZone, err)
		}
		if !strings.Contains(text, "TZ") {
			text = "TZ=" + *cj.Spec.TimeZone + " " + text
		}
	}
	s, err = cron.ParseStandard(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %q : %w", errSchedule, cj.Spec.Schedule, err)
	}
	return s, nil
}

// timing is what a schedule says about the present.
type timing struct {
	due    time.Time     // the latest start time that has come and was not served, zero if there is none
	missed bool          // far too many have come
	wait   time.Duration // until the next one
}

// timetable compares a schedule with the clock. Start times count from the last one served, or from the creation, and
// those before the starting deadline are forgotten.
func timetable(cj *batchv1.CronJob, s cron.Schedule, now time.Time) (timing, error) {
	since := cj.CreationTimestamp.Time
	if cj.Status.LastScheduleTime != nil {
		since = cj.Status.LastScheduleTime.Time
	}
	last, _, err := latest(s, since, now)
	if err != nil {
		return timing{}, err
	}
	from := last
	if from.IsZero() {
		from = since
	}
	next := s.Next(from)
	if !next.After(now) {
		next = s.Next(now)
	}
	t := timing{wait: next.Sub(now) + grace}
	if d := cj.Spec.StartingDeadlineSeconds; d != nil {
		if limit := now.Add(-time.Duration(*d) * time.Second); limit.After(since) {
			since = limit
		}
	}
	var n int64
	t.due, n, err = latest(s, since, now)
	t.missed = n > manyMissed
	return t, err
}

// latest finds the last start time after since that is not after now, zero if there is none, and about how many there
// were. It does not walk through them all: after a clock jump there may be millions.
func latest(s cron.Schedule, since, now time.Time) (time.Time, int64, error) {
	first := s.Next(since)
	if first.IsZero() || first.After(now) {
		return time.Time{}, 0, nil
	}
	second := s.Next(first)
	if second.IsZero() || second.After(now) {
		return first, 1, nil
	}
	step := second.Sub(first).Round(time.Second)
	if step < time.Second {
		return time.Time{}, 0, errTooDense
	}
	n := int64(now.Sub(first)/step) + 1
	// Even steps ("@every 90m") are kept in phase with the first one. Calendars have uneven steps, so if the jump went
	// too far, a wider step back is tried.
	for back := int64(2); ; back *= 2 {
		from := since
		if back <= n {
			from = first.Add(time.Duration(n-back) * step)
		}
		at := s.Next(from)
		if at.After(now) && back <= n {
			continue
		}
		for next := at; !next.IsZero() && !next.After(now); next = s.Next(next) {
			at = next
		}
		return at, n, nil
	}
}
