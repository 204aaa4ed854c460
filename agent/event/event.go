// Package event records what happens to pods as Kubernetes events: queued, written in the background after what users
// wait for, and aggregated, so that a repeated event is a patch of its count.
//
// Reads:  nothing.
// Writes: events in the API server.
package event

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	maxQueue     = 1000
	maxKnown     = 512
	repeatWithin = 10 * time.Minute
	// pause lets the status that belongs to the event go first; while events keep coming, many pods start or end, which users
	// wait for, and the events of what goes as it should wait for at most patience.
	pause, patience = 100 * time.Millisecond, 2 * time.Second
	// One object may write burst events at once, and one more each refill.
	burst  = 25
	refill = 5 * time.Minute
)

// API writes events.
type API interface {
	CreateEvent(ctx context.Context, e *corev1.Event) (*corev1.Event, error)
	PatchEvent(ctx context.Context, namespace, name string, patch []byte) error
}

// Recorder queues events; its methods never block. The zero API (nil) drops them all.
type Recorder struct {
	api       API
	component string
	host      string
	log       *slog.Logger

	mu    sync.Mutex
	queue []corev1.Event
	wake  chan struct{}
	known map[string]*seen
	spent map[types.UID]*bucket

	rate, most float64 // of all objects together, a second; 0: no bound
	all        bucket
}

type seen struct {
	name  string
	count int32
	last  time.Time
}

type bucket struct {
	tokens float64
	at     time.Time
}

// New returns a recorder of a component ("kubelet") on host.
func New(api API, component, host string, log *slog.Logger) *Recorder {
	return &Recorder{
		api: api, component: component, host: host, log: log, wake: make(chan struct{}, 1),
		known: map[string]*seen{}, spent: map[types.UID]*bucket{},
	}
}

// Limit bounds what is written of all objects together: a number of events a second, and at once. Call it before Run.
func (r *Recorder) Limit(perSecond float64, burst int) {
	r.rate, r.most = perSecond, float64(max(burst, 1))
	r.all = bucket{tokens: r.most, at: time.Now()}
}

// pace is how long the next event has to wait for its turn.
func (r *Recorder) pace(now time.Time) time.Duration {
	if r.rate <= 0 {
		return 0
	}
	b := &r.all
	b.tokens = min(r.most, b.tokens+now.Sub(b.at).Seconds()*r.rate) - 1
	b.at = now
	if b.tokens >= 0 {
		return 0
	}
	return time.Duration(-b.tokens / r.rate * float64(time.Second))
}

// Pod records an event of a pod, or of one of its containers when container is not empty.
func (r *Recorder) Pod(pod *corev1.Pod, container, kind, reason, message string) {
	ref := corev1.ObjectReference{
		Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
		FieldPath: fieldPath(pod, container),
	}
	r.Object(ref, kind, reason, message)
}

// Object records an event of any object.
func (r *Recorder) Object(ref corev1.ObjectReference, kind, reason, message string) {
	if r == nil || r.api == nil {
		return
	}
	now := time.Now()
	namespace := ref.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	stamp := metav1.NewTime(now)
	if len(message) > 1024 { // the API's limit
		message = message[:1024]
	}
	e := corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("%s.%x", ref.Name, now.UnixNano())},
		InvolvedObject: ref, Type: kind, Reason: reason, Message: message, Count: 1, FirstTimestamp: stamp, LastTimestamp: stamp,
		Source: corev1.EventSource{Component: r.component, Host: r.host}, ReportingController: r.component, ReportingInstance: r.host,
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.allow(ref.UID, now) {
		return
	}
	if len(r.queue) == maxQueue { // the API server is away: the oldest news goes first
		r.queue = r.queue[1:]
	}
	r.queue = append(r.queue, e)
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *Recorder) allow(uid types.UID, now time.Time) bool {
	b := r.spent[uid]
	if b == nil {
		if len(r.spent) > maxKnown {
			clear(r.spent)
		}
		b = &bucket{tokens: burst, at: now}
		r.spent[uid] = b
	}
	b.tokens = min(burst, b.tokens+now.Sub(b.at).Seconds()/refill.Seconds())
	b.at = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

func fieldPath(pod *corev1.Pod, container string) string {
	if container == "" {
		return ""
	}
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == container {
			return "spec.initContainers{" + container + "}"
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == container {
			return "spec.ephemeralContainers{" + container + "}"
		}
	}
	return "spec.containers{" + container + "}"
}

// Run writes the queue until ctx ends.
func (r *Recorder) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		}
		if !r.lull(ctx) {
			return nil
		}
		for {
			r.mu.Lock()
			if len(r.queue) == 0 {
				r.queue = nil
				r.mu.Unlock()
				break
			}
			e := r.queue[0]
			r.queue = r.queue[1:]
			r.mu.Unlock()
			if wait := r.pace(time.Now()); wait > 0 {
				select {
				case <-ctx.Done():
					return nil
				case <-time.After(wait):
				}
			}
			if err := r.write(ctx, &e); err != nil && ctx.Err() == nil {
				r.log.Debug("event not written", "reason", e.Reason, "object", e.InvolvedObject.Name, "err", err)
			}
		}
	}
}

// lull waits until no event has come for a moment, and reports false when ctx has ended. It waits no longer than patience,
// and doesn't hold warnings back.
func (r *Recorder) lull(ctx context.Context) bool {
	for end := time.Now().Add(patience); ; {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
		select {
		case <-r.wake:
		default:
			return true
		}
		if !time.Now().Before(end) || r.pressing() {
			return true
		}
	}
}

// pressing tells of a warning in the queue, or of a queue that fills up.
func (r *Recorder) pressing() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.queue) > maxQueue/2 || slices.ContainsFunc(r.queue, func(e corev1.Event) bool { return e.Type != corev1.EventTypeNormal })
}

func key(e *corev1.Event) string {
	return string(e.InvolvedObject.UID) + "\x00" + e.InvolvedObject.FieldPath + "\x00" + e.Type + "\x00" + e.Reason + "\x00" + e.Message
}

func (r *Recorder) write(ctx context.Context, e *corev1.Event) error {
	k := key(e)
	if s := r.known[k]; s != nil && e.LastTimestamp.Sub(s.last) < repeatWithin {
		patch, err := json.Marshal(map[string]any{"count": s.count + 1, "lastTimestamp": e.LastTimestamp})
		if err != nil {
			return fmt.Errorf("event patch: %w", err)
		}
		err = r.api.PatchEvent(ctx, e.Namespace, s.name, patch)
		if err == nil {
			s.count++
			s.last = e.LastTimestamp.Time
		}
		if !apierrors.IsNotFound(err) {
			return err
		}
	}
	for try := range 3 {
		_, err := r.api.CreateEvent(ctx, e)
		switch {
		case err == nil:
			if len(r.known) > maxKnown {
				clear(r.known)
			}
			r.known[k] = &seen{name: e.Name, count: 1, last: e.LastTimestamp.Time}
			return nil
		case apierrors.IsInvalid(err), apierrors.IsForbidden(err), apierrors.IsNotFound(err), apierrors.IsAlreadyExists(err), try == 2:
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Duration(try+1) * time.Second):
		}
	}
	return nil
}
