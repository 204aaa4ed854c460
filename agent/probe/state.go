package probe

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Kind is what a probe decides.
type Kind int8

// The kinds of probes.
const (
	Liveness Kind = iota
	Readiness
	Startup
)

func (k Kind) String() string { return [...]string{"Liveness", "Readiness", "Startup"}[k] }

// Verdict is what a run of results means.
type Verdict int8

// The verdicts. Unknown changes nothing.
const (
	Unknown Verdict = iota
	Success
	Failure
)

// tally counts equal results in a row.
type tally struct {
	last  Verdict
	count int32
}

// add counts one result and returns the verdict once its threshold is reached, Unknown before.
func (t *tally) add(result Verdict, spec *corev1.Probe) Verdict {
	if result == t.last {
		t.count++
	} else {
		t.last, t.count = result, 1
	}
	threshold := spec.SuccessThreshold
	if result == Failure {
		threshold = spec.FailureThreshold
	}
	if t.count < max(threshold, 1) {
		return Unknown
	}
	return result
}

// period is the probe's interval.
func period(spec *corev1.Probe) time.Duration {
	return time.Duration(max(spec.PeriodSeconds, 1)) * time.Second
}

// timeout is the time that one try may take.
func timeout(spec *corev1.Probe) time.Duration {
	return time.Duration(max(spec.TimeoutSeconds, 1)) * time.Second
}
