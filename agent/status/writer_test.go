package status

import (
	"context"
	"encoding/json"
	"log/slog"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

// oneAPI is an API server with one pod. gate, if any, is asked before a write.
type oneAPI struct {
	gate func() error

	mu      sync.Mutex
	pod     *corev1.Pod
	patches int
}

var _ API = (*oneAPI)(nil)

func (a *oneAPI) PatchPodStatus(_ context.Context, _, name string, patch []byte) (*corev1.Pod, error) {
	if a.gate != nil {
		if err := a.gate(); err != nil {
			return nil, err
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pod == nil {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, name)
	}
	a.patches++
	old, err := json.Marshal(a.pod)
	if err != nil {
		return nil, err
	}
	merged, err := strategicpatch.StrategicMergePatch(old, patch, corev1.Pod{})
	if err != nil {
		return nil, err
	}
	next := &corev1.Pod{}
	if err := json.Unmarshal(merged, next); err != nil {
		return nil, err
	}
	next.ResourceVersion = strconv.FormatUint(version(a.pod)+1, 10)
	a.pod = next
	return next.DeepCopy(), nil
}

func (a *oneAPI) DeletePod(context.Context, string, string, types.UID) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pod = nil
	return nil
}

func (a *oneAPI) ip() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.pod.Status.PodIP
}

func running(resourceVersion, ip string, ready corev1.ConditionStatus) *corev1.Pod {
	p := &corev1.Pod{}
	p.Name, p.Namespace, p.UID, p.ResourceVersion = "a", "default", "u", resourceVersion
	p.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}},
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}},
	}
	return p
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not within ten seconds: " + what)
		}
	}
}

// After a power cut the node's own copy of a pod may be older than the API server's: the address that the pod gets next may be
// the one of that old copy, and has to be written all the same. Seen in test/vm: two pods with one address.
func TestOldCheckpoint(t *testing.T) {
	api := &oneAPI{pod: running("20", "10.0.0.5", corev1.ConditionTrue)}
	w := NewWriter(t.Context(), api, slog.New(slog.DiscardHandler))
	w.Set(running("10", "10.0.0.4", corev1.ConditionTrue), &running("", "10.0.0.4", corev1.ConditionFalse).Status)
	eventually(t, "the address", func() bool { return api.ip() == "10.0.0.4" })
}

// The same when the API server's object arrives while the write is being tried.
func TestNewerObjectDuringWrite(t *testing.T) {
	for _, fails := range []bool{false, true} {
		api := &oneAPI{pod: running("20", "10.0.0.5", corev1.ConditionTrue)}
		begun, goOn := make(chan struct{}, 9), make(chan error, 9)
		api.gate = func() error { begun <- struct{}{}; return <-goOn }
		w := NewWriter(t.Context(), api, slog.New(slog.DiscardHandler))
		want := &running("", "10.0.0.4", corev1.ConditionFalse).Status
		w.Set(running("10", "10.0.0.4", corev1.ConditionTrue), want)
		<-begun
		w.Set(api.pod.DeepCopy(), want)
		if fails {
			goOn <- context.DeadlineExceeded
		}
		for range 3 {
			goOn <- nil
		}
		eventually(t, "the address", func() bool { return api.ip() == "10.0.0.4" })
	}
}

// What the API server has already isn't written twice, whatever conditions others have put there.
func TestOneWrite(t *testing.T) {
	api := &oneAPI{pod: running("20", "10.0.0.5", corev1.ConditionTrue)}
	api.pod.Status.Conditions = append(api.pod.Status.Conditions, corev1.PodCondition{Type: "example.com/gate", Status: corev1.ConditionTrue})
	w := NewWriter(t.Context(), api, slog.New(slog.DiscardHandler))
	w.Set(api.pod.DeepCopy(), &running("", "10.0.0.4", corev1.ConditionFalse).Status)
	eventually(t, "no more to write", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		r := w.pods["u"]
		return api.ip() == "10.0.0.4" && r.known && !r.busy && r.timer == nil
	})
	if api.patches != 1 {
		t.Errorf("%d writes", api.patches)
	}
}
