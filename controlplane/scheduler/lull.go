package scheduler

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/record"
)

// Events of pods that were placed wait until no more has come for lullPause, for lullPatience at most: while pods start, that
// comes first, and an event each is one of the requests that it takes (ADR 0340). Warnings end the wait.
const lullPause, lullPatience = 100 * time.Millisecond, 2 * time.Second

// lull knows when events came. Since is when the present run of them began, or long ago when they may all go.
type lull struct {
	now func() time.Time

	mu          sync.Mutex
	since, last time.Time
}

// came takes note of an event before it is queued.
func (l *lull) came(kind string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if now.Sub(l.last) >= lullPatience {
		l.since = now
	}
	l.last = now
	if kind != corev1.EventTypeNormal {
		l.since = time.Time{}
	}
}

// left is how long to wait before looking again; 0: the events may go.
func (l *lull) left() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	return max(0, min(lullPause-now.Sub(l.last), lullPatience-now.Sub(l.since)))
}

// wait returns at the lull.
func (l *lull) wait(ctx context.Context) {
	for d := l.left(); d > 0; d = l.left() {
		select {
		case <-ctx.Done():
			return
		case <-time.After(d):
		}
	}
}

// lullRecorder tells the lull of events; they get their time and are queued at once.
type lullRecorder struct {
	record.EventRecorder
	lull *lull
}

func (r lullRecorder) Event(object runtime.Object, kind, reason, message string) {
	r.lull.came(kind)
	r.EventRecorder.Event(object, kind, reason, message)
}

func (r lullRecorder) Eventf(object runtime.Object, kind, reason, format string, args ...any) {
	r.Event(object, kind, reason, fmt.Sprintf(format, args...))
}

func (r lullRecorder) AnnotatedEventf(object runtime.Object, annotations map[string]string, kind, reason, format string, args ...any) {
	r.lull.came(kind)
	r.EventRecorder.AnnotatedEventf(object, annotations, kind, reason, format, args...)
}

// lullSink holds new events back. The queue before it has room for a thousand.
type lullSink struct {
	record.EventSink
	ctx  context.Context // of the scheduler's run: a sink's methods have none
	lull *lull
}

func (s lullSink) Create(e *corev1.Event) (*corev1.Event, error) {
	s.lull.wait(s.ctx)
	return s.EventSink.Create(e)
}
