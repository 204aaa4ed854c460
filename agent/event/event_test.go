package event

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

type server struct {
	mu      sync.Mutex
	created []*corev1.Event
	patches []string
}

func (s *server) CreateEvent(_ context.Context, e *corev1.Event) (*corev1.Event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.created = append(s.created, e.DeepCopy())
	return e, nil
}

func (s *server) PatchEvent(_ context.Context, _, _ string, patch []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.patches = append(s.patches, string(patch))
	return nil
}

func (s *server) writes() (int, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.created), len(s.patches)
}

func TestRecorder(t *testing.T) {
	api := &server{}
	r := New(api, "kubelet", "n1", slog.New(slog.DiscardHandler))
	go func() { _ = r.Run(t.Context()) }()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u"}, Spec: corev1.PodSpec{InitContainers: []corev1.Container{{Name: "i"}}}}
	for range 3 {
		r.Pod(pod, "i", corev1.EventTypeWarning, "BackOff", "again")
	}
	r.Pod(pod, "main", corev1.EventTypeNormal, "Started", strings.Repeat("x", 2000))
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if c, p := api.writes(); c == 2 && p == 2 {
			break
		}
	}
	api.mu.Lock()
	defer api.mu.Unlock()
	if len(api.created) != 2 || len(api.patches) != 2 || !strings.Contains(api.patches[1], `"count":3`) {
		t.Fatalf("%d created, patches %q: want two events, one of them counted to three", len(api.created), api.patches)
	}
	if got := api.created[0].InvolvedObject.FieldPath; got != "spec.initContainers{i}" {
		t.Errorf("field path %q", got)
	}
	if got := api.created[1]; got.InvolvedObject.FieldPath != "spec.containers{main}" || len(got.Message) != 1024 || got.Source.Host != "n1" {
		t.Errorf("event %+v", got)
	}
}

// One object that goes wild doesn't flood the API server, and others still get through.
func TestSpam(t *testing.T) {
	r := New(&server{}, "kubelet", "n1", slog.New(slog.DiscardHandler))
	for i := range 100 {
		r.Object(corev1.ObjectReference{UID: "wild", Name: "w"}, "Normal", "R", strings.Repeat("m", i))
	}
	r.Object(corev1.ObjectReference{UID: "calm", Name: "c"}, "Normal", "R", "m")
	if n := len(r.queue); n != burst+1 {
		t.Errorf("%d events queued, want %d", n, burst+1)
	}
}

// While pods start one after the other, what goes well waits until there is a lull; a warning doesn't.
func TestEventsWaitForALull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // whose clock a busy machine doesn't stretch
		api := &server{}
		r := New(api, "kubelet", "n1", slog.New(slog.DiscardHandler))
		go func() { _ = r.Run(t.Context()) }()
		started := func(name string) {
			r.Pod(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", UID: types.UID(name)}}, "", corev1.EventTypeNormal, "Started", "Container started")
		}
		for i := range 8 { // longer than a pause, shorter than the patience
			started(fmt.Sprint(i))
			if c, _ := api.writes(); c > 0 {
				t.Fatalf("%d events were written while others came", c)
			}
			time.Sleep(pause / 3)
		}
		r.Pod(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "bad", Namespace: "ns", UID: "bad"}}, "", corev1.EventTypeWarning, "BackOff", "again")
		for end := time.Now().Add(5 * time.Second); ; time.Sleep(pause / 4) {
			if c, _ := api.writes(); c >= 9 {
				return
			}
			if time.Now().After(end) {
				t.Fatal("the events were not written")
			}
			started(fmt.Sprintf("more-%d", time.Now().UnixNano()))
		}
	})
}
