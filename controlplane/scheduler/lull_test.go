package scheduler

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func TestEventsWaitForALull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lull{now: time.Now}
		waited := func() time.Duration {
			begin := time.Now()
			l.wait(t.Context())
			return time.Since(begin)
		}
		l.came(corev1.EventTypeNormal)
		if got := waited(); got != lullPause {
			t.Errorf("a single event waits for %v, want %v", got, lullPause)
		}
		time.Sleep(lullPatience)
		stop := make(chan struct{})
		go func() { // a burst that doesn't end
			for {
				select {
				case <-stop:
					return
				case <-time.After(lullPause / 2):
					l.came(corev1.EventTypeNormal)
				}
			}
		}()
		l.came(corev1.EventTypeNormal)
		if got := waited(); got != lullPatience {
			t.Errorf("events of a burst wait for %v, want %v", got, lullPatience)
		}
		if got := waited(); got != 0 {
			t.Errorf("once it has gone on for that long, they wait for another %v", got)
		}
		close(stop)
		time.Sleep(2 * lullPatience)
		l.came(corev1.EventTypeNormal)
		l.came(corev1.EventTypeWarning)
		if got := waited(); got != 0 {
			t.Errorf("with a warning among them they wait for %v", got)
		}
	})
}
