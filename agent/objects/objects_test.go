package objects

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// server is a small working API server for objects by name.
type server struct {
	mu       sync.Mutex
	version  int
	objects  map[Ref]Object
	watchers map[Ref][]*watch.RaceFreeFakeWatcher
	lists    int
	listErr  error
}

func newServer() *server {
	return &server{objects: map[Ref]Object{}, watchers: map[Ref][]*watch.RaceFreeFakeWatcher{}}
}

func (s *server) List(_ context.Context, ref Ref) (Object, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lists++
	if s.listErr != nil {
		return nil, "", s.listErr
	}
	if o := s.objects[ref]; o != nil {
		return o.DeepCopyObject().(Object), strconv.Itoa(s.version), nil
	}
	return nil, strconv.Itoa(s.version), nil
}

func (s *server) Watch(ctx context.Context, ref Ref, _ string) (watch.Interface, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := watch.NewRaceFreeFake()
	s.watchers[ref] = append(s.watchers[ref], w)
	context.AfterFunc(ctx, w.Stop)
	return w, nil
}

func (s *server) put(ref Ref, o Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	o.SetResourceVersion(strconv.Itoa(s.version))
	old := s.objects[ref]
	s.objects[ref] = o
	for _, w := range s.watchers[ref] {
		if w.IsStopped() {
			continue
		}
		if old == nil {
			w.Add(o.DeepCopyObject())
		} else {
			w.Modify(o.DeepCopyObject())
		}
	}
}

func (s *server) watching(ref Ref) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.watchers[ref] {
		if !w.IsStopped() {
			n++
		}
	}
	return n
}

func configMap(name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Data: map[string]string{"k": value}}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 400 {
		if ok() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}

func TestSharedWatchLivesWhileFollowed(t *testing.T) {
	s, ref := newServer(), Ref{ConfigMaps, "ns", "a"}
	s.put(ref, configMap("a", "1"))
	told := make(chan []types.UID, 16)
	c := New(s, nil, func(_ Ref, owners []types.UID) { told <- owners })
	defer c.Close()
	c.Follow("pod1", []Ref{ref})
	c.Follow("pod2", []Ref{ref})
	c.Follow("pod2", []Ref{ref})
	eventually(t, "one watch for two pods", func() bool { return s.watching(ref) == 1 })
	s.put(ref, configMap("a", "2"))
	if owners := <-told; len(owners) != 2 {
		t.Errorf("a change was told to %v", owners)
	}
	if cm, err := c.ConfigMap(t.Context(), "ns", "a"); err != nil || cm.Data["k"] != "2" {
		t.Errorf("ConfigMap = %v, %v", cm, err)
	}
	if s.lists != 1 {
		t.Errorf("%d lists, want 1", s.lists)
	}
	c.Follow("pod1", nil)
	if c.Followed() != 1 {
		t.Error("the other pod's interest is lost")
	}
	c.Follow("pod2", nil)
	eventually(t, "no watch for nobody", func() bool { return s.watching(ref) == 0 && c.Followed() == 0 })
}

func TestUnfollowedIsReadOnce(t *testing.T) {
	s := newServer()
	c := New(s, nil, func(Ref, []types.UID) { t.Error("nobody follows anything") })
	defer c.Close()
	if _, err := c.Secret(t.Context(), "ns", "none"); !apierrors.IsNotFound(err) || err.Error() != `secret "none" not found` {
		t.Errorf("missing secret: %v", err)
	}
	if c.Followed() != 0 {
		t.Error("a read left a watch behind")
	}
}

func TestMissingObjectAppears(t *testing.T) {
	s, ref := newServer(), Ref{ConfigMaps, "ns", "late"}
	told := make(chan Ref, 16)
	c := New(s, nil, func(r Ref, _ []types.UID) { told <- r })
	defer c.Close()
	c.Follow("pod", []Ref{ref})
	if _, err := c.ConfigMap(t.Context(), "ns", "late"); !apierrors.IsNotFound(err) {
		t.Fatalf("before: %v", err)
	}
	eventually(t, "watch", func() bool { return s.watching(ref) == 1 })
	s.put(ref, configMap("late", "1"))
	<-told
	if cm, err := c.ConfigMap(t.Context(), "ns", "late"); err != nil || cm.Data["k"] != "1" {
		t.Errorf("after: %v, %v", cm, err)
	}
}

func TestImmutableIsNotWatched(t *testing.T) {
	s, ref, yes := newServer(), Ref{ConfigMaps, "ns", "fixed"}, true
	cm := configMap("fixed", "1")
	cm.Immutable = &yes
	s.put(ref, cm)
	c := New(s, nil, func(Ref, []types.UID) {})
	defer c.Close()
	c.Follow("pod", []Ref{ref})
	if _, err := c.ConfigMap(t.Context(), "ns", "fixed"); err != nil {
		t.Fatal(err)
	}
	c.wg.Wait() // the follower ends by itself
	if n := s.watching(ref); n != 0 {
		t.Errorf("%d watches of an immutable object", n)
	}
}

func TestExpiredWatchListsAgainAndErrorsHeal(t *testing.T) {
	s, ref := newServer(), Ref{ConfigMaps, "ns", "a"}
	s.listErr = errors.New("connection refused")
	c := New(s, nil, func(Ref, []types.UID) {})
	defer c.Close()
	c.Follow("pod", []Ref{ref})
	if _, err := c.ConfigMap(t.Context(), "ns", "a"); err == nil || err.Error() != "connection refused" {
		t.Errorf("server down: %v", err)
	}
	s.mu.Lock()
	s.listErr = nil
	s.mu.Unlock()
	eventually(t, "the watch comes", func() bool { return s.watching(ref) == 1 })
	s.mu.Lock()
	s.version++
	s.objects[ref] = configMap("a", "unseen") // changed while the watch missed it
	s.objects[ref].SetResourceVersion(strconv.Itoa(s.version))
	s.watchers[ref][0].Error(&metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonExpired, Code: 410})
	s.mu.Unlock()
	eventually(t, "the fresh list", func() bool {
		cm, err := c.ConfigMap(t.Context(), "ns", "a")
		return err == nil && cm.Data["k"] == "unseen"
	})
}
