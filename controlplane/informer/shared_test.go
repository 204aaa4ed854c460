package informer

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	cachetesting "k8s.io/client-go/tools/cache/testing"
)

// log collects what a handler is told.
type log struct {
	mu    sync.Mutex
	lines []string
}

func (l *log) add(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
}

func (l *log) OnAdd(o any, initial bool) { l.add("add %s %v", o.(*corev1.Pod).Name, initial) }
func (l *log) OnUpdate(a, b any) {
	l.add("update %s %s→%s", b.(*corev1.Pod).Name, a.(*corev1.Pod).Labels["v"], b.(*corev1.Pod).Labels["v"])
}

func (l *log) OnDelete(o any) {
	if d, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = d.Obj
	}
	l.add("delete %s", o.(*corev1.Pod).Name)
}

func (l *log) is(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		l.mu.Lock()
		got = slices.Clone(l.lines)
		l.mu.Unlock()
		if slices.Equal(got, want) {
			return
		}
	}
	t.Errorf("told:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
}

func pod(name, v string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: name, Labels: map[string]string{"v": v}, ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m"}},
	}}
}

func startShared(t *testing.T, source *cachetesting.FakeControllerSource, handlers ...cache.ResourceEventHandler) *shared {
	t.Helper()
	s := newShared("pods", source, &corev1.Pod{})
	if err := s.SetTransform(Trim); err != nil {
		t.Fatal(err)
	}
	for _, h := range handlers {
		r, err := s.AddEventHandler(h)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if !r.HasSynced() {
				t.Error("an early handler never synced")
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.RunWithContext(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	if !cache.WaitForCacheSync(ctx.Done(), s.HasSynced) {
		t.Fatal("never synced")
	}
	return s
}

func TestHandlersAreToldInOrder(t *testing.T) {
	source := cachetesting.NewFakeControllerSource()
	source.Add(pod("a", "1"))
	var first, late log
	s := startShared(t, source, &first)
	source.Add(pod("b", "1"))
	source.Modify(pod("a", "2"))
	source.Delete(pod("b", "1"))
	first.is(t, "add a true", "add b false", "update a 1→2", "delete b")

	r, err := s.AddEventHandler(&late)
	if err != nil {
		t.Fatal(err)
	}
	late.is(t, "add a true")
	if !cache.WaitForCacheSync(t.Context().Done(), r.HasSynced) {
		t.Error("a late handler never synced")
	}
	source.Modify(pod("a", "3"))
	late.is(t, "add a true", "update a 2→3")

	if err := s.RemoveEventHandler(r); err != nil {
		t.Fatal(err)
	}
	source.Modify(pod("a", "4"))
	first.is(t, "add a true", "add b false", "update a 1→2", "delete b", "update a 2→3", "update a 3→4")
	late.is(t, "add a true", "update a 2→3")
}

func TestTheCacheIsTrimmedAndIndexed(t *testing.T) {
	source := cachetesting.NewFakeControllerSource()
	source.Add(pod("a", "1"))
	s := startShared(t, source)
	o, ok, err := s.GetStore().GetByKey("ns/a")
	if err != nil || !ok || o.(*corev1.Pod).ManagedFields != nil {
		t.Errorf("cached: %v %v %v", o, ok, err)
	}
	if l, err := s.GetIndexer().ByIndex(cache.NamespaceIndex, "ns"); err != nil || len(l) != 1 {
		t.Errorf("by namespace: %v %v", l, err)
	}
}

// A fresh list after an interruption: changes that were missed are told, and deletions too.
func TestAListAfterAnInterruption(t *testing.T) {
	source := cachetesting.NewFakeControllerSource()
	source.Add(pod("a", "1"))
	source.Add(pod("b", "1"))
	var l log
	s := startShared(t, source, &l)
	if err := s.Replace([]any{pod("a", "2"), pod("c", "1")}, "100"); err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	slices.Sort(l.lines[:2])
	l.mu.Unlock()
	l.is(t, "add a true", "add b true", "update a 1→2", "add c false", "delete b")
}

type panics struct {
	cache.ResourceEventHandlerFuncs
}

func (panics) OnAdd(any, bool) { panic("odd object") }

func TestAHandlersPanicIsItsOwn(t *testing.T) {
	source := cachetesting.NewFakeControllerSource()
	var l log
	startShared(t, source, panics{}, &l)
	source.Add(pod("a", "1"))
	source.Modify(pod("a", "2"))
	l.is(t, "add a false", "update a 1→2")
}
