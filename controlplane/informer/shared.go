package informer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/cache"
)

// shared is a cache.SharedIndexInformer that calls its handlers one after another on the goroutine that reads the
// watch. client-go's has two goroutines and a ring of 1,024 entries for each handler, and six goroutines besides; with
// fifty kinds and a hundred handlers, most of which only put a key into a queue, that is several megabytes of nothing.
//
// A handler must therefore not block, nor add or remove handlers of the same informer.
type shared struct {
	name    string
	lw      cache.ListerWatcher
	example runtime.Object
	indexer cache.Indexer
	synced  chan struct{}

	mu        sync.Mutex // one event at a time: the store first, then every handler
	handlers  []*registration
	transform cache.TransformFunc
	reflector *cache.Reflector
	started   bool
	stopped   bool
}

var (
	_ cache.SharedIndexInformer = (*shared)(nil)
	_ cache.ReflectorStore      = (*shared)(nil)
)

func newShared(name string, lw cache.ListerWatcher, example runtime.Object) *shared {
	return &shared{
		name: name, lw: lw, example: example, synced: make(chan struct{}),
		indexer: cache.NewIndexer(cache.DeletionHandlingMetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}),
	}
}

// registration is one handler. It is synced when it has been told of every object of the first list.
type registration struct {
	cache.ResourceEventHandler
	name string
	done chan struct{}
}

func (r *registration) HasSynced() bool                     { return closed(r.done) }
func (r *registration) HasSyncedChecker() cache.DoneChecker { return checker{r.name, r.done} }

type checker struct {
	name string
	done <-chan struct{}
}

func (c checker) Name() string          { return c.name }
func (c checker) Done() <-chan struct{} { return c.done }

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (s *shared) AddEventHandler(h cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error) {
	r := &registration{ResourceEventHandler: h, name: s.name + " handler", done: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.stopped:
		return nil, fmt.Errorf("informer of %s has ended: no handler can be added", s.name)
	case !s.started:
		s.handlers = append(s.handlers, r)
	default:
		go s.join(r) // the caller may hold what the handler needs
	}
	return r, nil
}

// join tells a late handler of what is there, and of everything from then on.
func (s *shared) join(r *registration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.indexer.List() {
		s.call(func() { r.OnAdd(o, true) })
	}
	s.handlers = append(s.handlers, r)
	if closed(s.synced) {
		close(r.done)
	}
}

func (s *shared) AddEventHandlerWithResyncPeriod(h cache.ResourceEventHandler, _ time.Duration) (cache.ResourceEventHandlerRegistration, error) {
	return s.AddEventHandler(h) // nothing here needs to be told again what it was told
}

func (s *shared) AddEventHandlerWithOptions(h cache.ResourceEventHandler, _ cache.HandlerOptions) (cache.ResourceEventHandlerRegistration, error) {
	return s.AddEventHandler(h)
}

func (s *shared) RemoveEventHandler(handle cache.ResourceEventHandlerRegistration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handlers = slices.DeleteFunc(s.handlers, func(r *registration) bool { return r == handle })
	return nil
}

func (s *shared) Run(stop <-chan struct{}) { s.RunWithContext(wait.ContextForChannel(stop)) }

func (s *shared) RunWithContext(ctx context.Context) {
	s.mu.Lock()
	if s.started {
		s.mu.Unlock()
		return
	}
	s.started = true
	s.reflector = cache.NewReflectorWithOptions(s.lw, s.example, s, cache.ReflectorOptions{Name: "shared " + s.name})
	r := s.reflector
	s.mu.Unlock()
	r.RunWithContext(ctx)
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
}

func (s *shared) HasSynced() bool                     { return closed(s.synced) }
func (s *shared) HasSyncedChecker() cache.DoneChecker { return checker{s.name, s.synced} }
func (s *shared) GetStore() cache.Store               { return s.indexer }
func (s *shared) GetIndexer() cache.Indexer           { return s.indexer }
func (s *shared) GetController() cache.Controller     { return controller{s} }

func (s *shared) AddIndexers(indexers cache.Indexers) error { return s.indexer.AddIndexers(indexers) }

func (s *shared) LastSyncResourceVersion() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reflector == nil {
		return ""
	}
	return s.reflector.LastSyncResourceVersion()
}

func (s *shared) IsStopped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopped
}

func (s *shared) SetTransform(f cache.TransformFunc) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started {
		return errors.New("informer has already started")
	}
	s.transform = f
	return nil
}

var errNoErrorHandler = errors.New("this informer has no watch error handlers; its reflector logs errors and tries again")

func (s *shared) SetWatchErrorHandler(cache.WatchErrorHandler) error { return errNoErrorHandler }

func (s *shared) SetWatchErrorHandlerWithContext(cache.WatchErrorHandlerWithContext) error {
	return errNoErrorHandler
}

// controller is the informer seen as a cache.Controller, which only tells how far it is.
type controller struct{ *shared }

func (controller) Run(<-chan struct{})            {}
func (controller) RunWithContext(context.Context) {}

// The rest is what the reflector calls, one call at a time.

func (s *shared) Add(o any) error    { return s.put(o) }
func (s *shared) Update(o any) error { return s.put(o) }
func (s *shared) Resync() error      { return nil }

func (s *shared) put(o any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.set(o, false)
}

func (s *shared) set(o any, initial bool) error {
	if s.transform != nil {
		var err error
		if o, err = s.transform(o); err != nil {
			return err
		}
	}
	old, exists, err := s.indexer.Get(o)
	if err != nil {
		return err
	}
	if exists {
		if err := s.indexer.Update(o); err != nil {
			return err
		}
		for _, h := range s.handlers {
			s.call(func() { h.OnUpdate(old, o) })
		}
		return nil
	}
	if err := s.indexer.Add(o); err != nil {
		return err
	}
	for _, h := range s.handlers {
		s.call(func() { h.OnAdd(o, initial) })
	}
	return nil
}

func (s *shared) Delete(o any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.transform != nil {
		var err error
		if o, err = s.transform(o); err != nil {
			return err
		}
	}
	if _, exists, err := s.indexer.Get(o); err != nil || !exists {
		return err
	}
	if err := s.indexer.Delete(o); err != nil {
		return err
	}
	for _, h := range s.handlers {
		s.call(func() { h.OnDelete(o) })
	}
	return nil
}

// Replace takes over a fresh list.
func (s *shared) Replace(list []any, _ string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := !closed(s.synced)
	there := make(map[string]bool, len(list))
	for _, o := range list {
		key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(o)
		if err != nil {
			return err
		}
		there[key] = true
		if err := s.set(o, first); err != nil {
			return err
		}
	}
	for _, key := range s.indexer.ListKeys() {
		if there[key] {
			continue
		}
		o, exists, err := s.indexer.GetByKey(key)
		if err != nil || !exists {
			continue
		}
		if err := s.indexer.Delete(o); err != nil {
			return err
		}
		gone := cache.DeletedFinalStateUnknown{Key: key, Obj: o}
		for _, h := range s.handlers {
			s.call(func() { h.OnDelete(gone) })
		}
	}
	if first {
		close(s.synced)
		for _, h := range s.handlers {
			if !closed(h.done) {
				close(h.done)
			}
		}
	}
	return nil
}

// call keeps one handler's panic from the others, and from the process.
func (s *shared) call(f func()) {
	defer func() {
		if p := recover(); p != nil {
			slog.Error("an event handler panicked", "informer", s.name, "panic", p, "stack", string(debug.Stack()))
		}
	}()
	f()
}
