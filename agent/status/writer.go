package status

import (
	"context"
	"log/slog"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// lull is how long a status that nobody waits for may stay behind, so that a pod which starts at once costs one
	// patch and not two, also one of sixty that start together.
	lull       = time.Second
	firstRetry = 200 * time.Millisecond
	lastRetry  = 10 * time.Second
	inParallel = 16
)

// API is what the writer needs of the API server. Not found and conflict are the API's own errors.
type API interface {
	PatchPodStatus(ctx context.Context, namespace, name string, patch []byte) (*corev1.Pod, error)
	// DeletePod removes the object at once (grace 0), if it still has that UID.
	DeletePod(ctx context.Context, namespace, name string, uid types.UID) error
}

// Writer brings statuses to the API server. One patch a pod is under way at most; what changes meanwhile goes into the
// next. It has no goroutine while there is nothing to write.
type Writer struct {
	api API
	log *slog.Logger
	ctx context.Context // of Run: writes end with it
	sem chan struct{}

	mu   sync.Mutex
	pods map[types.UID]*record
}

type record struct {
	uid             types.UID
	namespace, name string
	version         uint64 // resourceVersion of sent
	sent, want      *corev1.PodStatus
	newer           *corev1.Pod // came while busy; sent may not be what the API server had
	known           bool        // sent isn't what a checkpoint says, which a power cut may have made old
	busy, remove    bool
	paused          bool // after a failure, until the timer
	timer           *time.Timer
	retry           time.Duration
}

// NewWriter returns a writer that works until ctx ends.
func NewWriter(ctx context.Context, api API, log *slog.Logger) *Writer {
	return &Writer{api: api, log: log, ctx: ctx, sem: make(chan struct{}, inParallel), pods: map[types.UID]*record{}}
}

// Set asks for st to become the status of pod, an object as the API server has it (for a static pod: its mirror).
func (w *Writer) Set(pod *corev1.Pod, st *corev1.PodStatus) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.record(pod)
	if r.remove {
		return
	}
	// A newer object than our last write may carry somebody else's changes: compare with that.
	if version(pod) > r.version {
		if r.busy {
			r.newer = pod
		} else {
			r.version, r.sent = version(pod), &pod.Status
		}
	}
	r.want = st
	w.schedule(r)
}

// Remove deletes the object after its last status has been written.
func (w *Writer) Remove(pod *corev1.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.record(pod)
	r.remove = true
	w.schedule(r)
}

// Forget drops what is known of a pod whose object is gone.
func (w *Writer) Forget(uid types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r := w.pods[uid]; r != nil {
		if r.timer != nil {
			r.timer.Stop()
		}
		delete(w.pods, uid)
	}
}

func (w *Writer) record(pod *corev1.Pod) *record {
	r := w.pods[pod.UID]
	if r == nil {
		r = &record{uid: pod.UID, namespace: pod.Namespace, name: pod.Name, version: version(pod), sent: &pod.Status}
		w.pods[pod.UID] = r
	}
	return r
}

// schedule starts the write that r needs, at once or after the lull. The lock is held.
func (w *Writer) schedule(r *record) {
	if r.busy || r.paused {
		return // the end of the one under way, or the retry's timer, looks again
	}
	dirty := r.want != nil && !equality.Semantic.DeepEqual(r.sent, r.want)
	if !dirty && !r.remove {
		return
	}
	if !r.remove && !urgent(r.sent, r.want) {
		if r.timer == nil {
			r.timer = time.AfterFunc(lull, func() { w.start(r) })
		}
		return
	}
	w.launch(r)
}

func (w *Writer) start(r *record) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pods[r.uid] == r && !r.busy {
		w.launch(r)
	}
}

func (w *Writer) launch(r *record) {
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
	r.busy, r.paused = true, false
	go w.write(r)
}

// urgent tells whether somebody may wait for the change. The first status of a pod that is only beginning isn't.
func urgent(old, next *corev1.PodStatus) bool {
	if next.Phase != corev1.PodPending || old.Phase != corev1.PodPending && old.Phase != "" {
		return true
	}
	for _, list := range [][]corev1.ContainerStatus{next.InitContainerStatuses, next.ContainerStatuses, next.EphemeralContainerStatuses} {
		for _, c := range list {
			if c.State.Terminated != nil || c.LastTerminationState.Terminated != nil {
				return true
			}
			if c.State.Waiting != nil && c.State.Waiting.Reason != ContainerCreating && c.State.Waiting.Reason != PodInitializing {
				return true
			}
		}
	}
	return false
}

func (w *Writer) write(r *record) {
	select {
	case w.sem <- struct{}{}:
		defer func() { <-w.sem }()
	case <-w.ctx.Done():
		return
	}
	w.mu.Lock()
	sent, want, remove := r.sent, r.want, r.remove
	w.mu.Unlock()
	var updated *corev1.Pod
	var err error
	if want != nil {
		updated, err = w.patch(r, sent, want)
	}
	if err == nil && remove {
		err = w.api.DeletePod(w.ctx, r.namespace, r.name, r.uid)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	newer := r.newer
	r.busy, r.newer = false, nil
	switch {
	case w.ctx.Err() != nil || w.pods[r.uid] != r:
	case apierrors.IsNotFound(err) || apierrors.IsConflict(err) || err == nil && remove:
		delete(w.pods, r.uid) // gone, or another pod of that name
	case err != nil:
		w.log.Warn("pod status not written, trying again", "pod", r.namespace+"/"+r.name, "err", err)
		if newer != nil {
			r.version, r.sent = version(newer), &newer.Status
		}
		r.retry, r.paused = backoff(r), true
		r.timer = time.AfterFunc(r.retry, func() { w.start(r) })
	default:
		r.retry = 0
		if want != nil {
			r.sent = want
		}
		r.settle(updated, newer)
		w.schedule(r)
	}
}

// settle takes what the API server has after a write. A write is the difference from sent, so what sent had wrong the object has
// still: that shows in the answer to the first write, and when another object than this write's came meanwhile.
func (r *record) settle(updated, newer *corev1.Pod) {
	if updated != nil {
		if !r.known || newer != nil && version(newer) != version(updated) {
			r.sent = &updated.Status
		}
		r.known, r.version = true, version(updated)
	}
	if newer != nil && version(newer) > r.version {
		r.version, r.sent = version(newer), &newer.Status
	}
}

// version is an object's resource version; 0, of none, is older than any.
func version(pod *corev1.Pod) uint64 {
	v, _ := strconv.ParseUint(pod.ResourceVersion, 10, 64)
	return v
}

func backoff(r *record) time.Duration {
	if r.retry == 0 {
		return firstRetry
	}
	return min(2*r.retry, lastRetry)
}

func (w *Writer) patch(r *record, old, next *corev1.PodStatus) (*corev1.Pod, error) {
	patch, err := Patch(r.uid, old, next)
	if err != nil || patch == nil {
		return nil, err
	}
	return w.api.PatchPodStatus(w.ctx, r.namespace, r.name, patch)
}

// DeleteNow are the options of a final deletion.
func DeleteNow(uid types.UID) metav1.DeleteOptions {
	zero := int64(0)
	return metav1.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &uid}}
}
