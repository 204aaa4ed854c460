// Package plugin finds the plugins that put a socket into the kubelet's plugins_registry, asks each what it is, and hands
// it to who serves that kind: device plugins, drivers of resource claims, volume drivers.
//
// Reads:  <kubelet dir>/plugins_registry.
// Writes: nothing.
package plugin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// The kinds of plugins, as they name themselves.
const (
	Device = registerapi.DevicePlugin
	DRA    = registerapi.DRAPlugin
	CSI    = registerapi.CSIPlugin
)

const (
	callTimeout = 10 * time.Second
	firstRetry  = 500 * time.Millisecond
	lastRetry   = 2 * time.Minute
)

// Handler serves one kind of plugins. Calls for one plugin don't overlap.
type Handler interface {
	// Validate tells whether a plugin may register.
	Validate(name, endpoint string, versions []string) error
	// Register takes a plugin in; it may be called again for one that has come back.
	Register(ctx context.Context, name, endpoint string, versions []string) error
	// Deregister says that the plugin's socket has gone; not known is fine.
	Deregister(name, endpoint string)
}

// Watcher follows one directory.
type Watcher struct {
	dir      string
	handlers map[string]Handler
	log      *slog.Logger

	mu      sync.Mutex
	sockets map[string]*socket
	wg      sync.WaitGroup
}

// socket is one plugin's.
type socket struct {
	cancel         context.CancelFunc
	done           chan struct{}
	name, endpoint string
	handler        Handler // once it is registered
}

// New returns a watcher of dir. It starts nothing.
func New(dir string, handlers map[string]Handler, log *slog.Logger) *Watcher {
	return &Watcher{dir: dir, handlers: handlers, log: log, sockets: map[string]*socket{}}
}

// Run follows the directory until ctx ends.
func (w *Watcher) Run(ctx context.Context) error {
	defer w.wg.Wait()
	if err := os.MkdirAll(w.dir, 0o750); err != nil {
		return fmt.Errorf("registry of plugins: %w", err)
	}
	watch, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("registry of plugins: %w", err)
	}
	defer func() { _ = watch.Close() }()
	if err := w.enter(ctx, watch, w.dir); err != nil {
		return fmt.Errorf("registry of plugins %s: %w", w.dir, err)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-watch.Events:
			if !ok {
				return errors.New("registry of plugins: the kernel's notifications ended")
			}
			w.event(ctx, watch, e)
		case err, ok := <-watch.Errors:
			if !ok {
				return errors.New("registry of plugins: the kernel's notifications ended")
			}
			// Events were lost: what is there now is what counts.
			w.log.Warn("registry of plugins: listing it again", "err", err)
			if err := w.enter(ctx, watch, w.dir); err != nil {
				return fmt.Errorf("registry of plugins %s: %w", w.dir, err)
			}
		}
	}
}

// enter watches a directory and what is below it, and takes the sockets that are there.
func (w *Watcher) enter(ctx context.Context, watch *fsnotify.Watcher, dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist) && path != w.dir:
			return nil // gone again
		case err != nil:
			return err
		case path != dir && strings.HasPrefix(d.Name(), "."):
			if d.IsDir() {
				return fs.SkipDir
			}
		case d.IsDir():
			return watch.Add(path)
		case d.Type()&fs.ModeSocket != 0:
			w.begin(ctx, path)
		}
		return nil
	})
}

func (w *Watcher) event(ctx context.Context, watch *fsnotify.Watcher, e fsnotify.Event) {
	if strings.HasPrefix(filepath.Base(e.Name), ".") {
		return
	}
	switch {
	case e.Has(fsnotify.Create):
		info, err := os.Lstat(e.Name)
		switch {
		case err != nil: // gone again
		case info.IsDir():
			if err := w.enter(ctx, watch, e.Name); err != nil {
				w.log.Warn("registry of plugins: directory not followed", "dir", e.Name, "err", err)
			}
		case info.Mode()&fs.ModeSocket != 0:
			w.end(e.Name) // a plugin that made its socket anew is a new one
			w.begin(ctx, e.Name)
		}
	case e.Has(fsnotify.Remove), e.Has(fsnotify.Rename):
		w.end(e.Name)
	}
}

// begin registers the plugin behind a socket, however long that takes. Calls for a known socket do nothing.
func (w *Watcher) begin(ctx context.Context, path string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sockets[path] != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &socket{cancel: cancel, done: make(chan struct{})}
	w.sockets[path] = s
	w.wg.Go(func() {
		defer close(s.done)
		w.register(ctx, path, s)
	})
}

// end forgets the plugin behind a socket.
func (w *Watcher) end(path string) {
	w.mu.Lock()
	s := w.sockets[path]
	delete(w.sockets, path)
	w.mu.Unlock()
	if s == nil {
		return
	}
	s.cancel()
	<-s.done
	if s.handler != nil {
		w.log.Info("plugin has left", "plugin", s.name, "socket", path)
		s.handler.Deregister(s.name, s.endpoint)
	}
}

func (w *Watcher) register(ctx context.Context, path string, s *socket) {
	for delay := firstRetry; ; delay = min(2*delay, lastRetry) {
		err := w.tryRegister(ctx, path, s)
		if err == nil || ctx.Err() != nil {
			return
		}
		w.log.Warn("plugin not registered, trying again", "socket", path, "err", err)
		t := time.NewTimer(delay)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
	}
}

func (w *Watcher) tryRegister(ctx context.Context, path string, s *socket) error {
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	client := registerapi.NewRegistrationClient(conn)
	call, cancel := context.WithTimeout(ctx, callTimeout)
	info, err := client.GetInfo(call, &registerapi.InfoRequest{})
	cancel()
	if err != nil {
		return fmt.Errorf("ask what it is: %w", err)
	}
	endpoint := info.GetEndpoint()
	if endpoint == "" {
		endpoint = path
	}
	h := w.handlers[info.GetType()]
	if h == nil {
		err = fmt.Errorf("no handler registered for plugin type: %s at socket %s", info.GetType(), path)
	} else if err = h.Validate(info.GetName(), endpoint, info.GetSupportedVersions()); err != nil {
		err = fmt.Errorf("plugin validation failed with err: %w", err)
	} else if err = h.Register(ctx, info.GetName(), endpoint, info.GetSupportedVersions()); err != nil {
		err = fmt.Errorf("plugin registration failed with err: %w", err)
	}
	answer := &registerapi.RegistrationStatus{PluginRegistered: err == nil}
	if err != nil {
		answer.Error = err.Error()
	} else {
		s.name, s.endpoint, s.handler = info.GetName(), endpoint, h
		w.log.Info("plugin registered", "plugin", s.name, "kind", info.GetType(), "socket", path)
	}
	call, cancel = context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, nerr := client.NotifyRegistrationStatus(call, answer); nerr != nil && err == nil {
		h.Deregister(s.name, s.endpoint)
		s.handler = nil
		return fmt.Errorf("tell it so: %w", nerr)
	}
	return err
}
