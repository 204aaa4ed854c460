package podworker

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/mote-edge/mote/agent/status"
)

// The back-off of containers that keep ending.
const (
	firstDelay = 10 * time.Second
	maxDelay   = 5 * time.Minute
)

// Backoff is one container's history of restarts. The zero value has none: the first restart is at once.
type Backoff struct {
	Delay time.Duration
	Since time.Time     // of the last restart
	Max   time.Duration // 0 means five minutes
}

// Until returns when a container that ended at finished may start again.
func (b Backoff) Until(finished time.Time) time.Time {
	if b.Delay == 0 || finished.Sub(b.Since) > 2*b.most() {
		return finished
	}
	return finished.Add(b.Delay)
}

// Next is the back-off after a restart at now of a container that ended at finished.
func (b Backoff) Next(finished, now time.Time) Backoff {
	if b.Delay == 0 || finished.Sub(b.Since) > 2*b.most() { // one that ran this long starts over
		return Backoff{min(firstDelay, b.most()), now, b.Max}
	}
	return Backoff{min(2*b.Delay, b.most()), now, b.Max}
}

func (b Backoff) most() time.Duration {
	if b.Max == 0 {
		return maxDelay
	}
	return b.Max
}

// restarts tells whether a container that ended with that code is to run again. The container's rules come before its
// policy, and that before the pod's.
func restarts(pod *corev1.Pod, c *corev1.Container, code int32) bool {
	if status.MatchingRule(c, code) != nil {
		return true // by itself or with all others: every action there is restarts it
	}
	policy := pod.Spec.RestartPolicy
	if c.RestartPolicy != nil {
		policy = corev1.RestartPolicy(*c.RestartPolicy)
	}
	switch policy {
	case corev1.RestartPolicyNever:
		return false
	case corev1.RestartPolicyOnFailure:
		return code != 0
	}
	return true
}

var isSidecar = status.IsSidecar
