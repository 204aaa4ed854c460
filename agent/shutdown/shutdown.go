// Package shutdown ends pods in order before the machine goes down: it holds a delay inhibitor of systemd-logind, and when
// a shutdown begins, ends the pods by priority, each group within its part of the time, and then lets go.
//
// Reads:  logind on the system D-Bus.
// Writes: the inhibitor; a drop-in in logind.conf.d when logind would wait for less than is needed.
package shutdown

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// The words of ended and refused pods, and of the node's condition.
const (
	Reason         = "Terminated"
	Message        = "Pod was terminated in response to imminent node shutdown."
	RefusedReason  = "NodeShutdown"
	RefusedMessage = "Pod was rejected as the node is shutting down."
)

var errShuttingDown = errors.New("node is shutting down")

// Pods is the node's pods.
type Pods interface {
	// Active lists the pods that have something running. The objects are shared.
	Active() []*corev1.Pod
	// End begins to end a pod.
	End(pod *corev1.Pod, grace time.Duration)
}

// Config says whose shutdown is followed, and how long pods get.
type Config struct {
	Periods []Period // none: shutdowns aren't delayed
	Address string   // of D-Bus; empty means the system's
	ConfDir string   // of logind's drop-ins; empty means /etc/systemd/logind.conf.d
	Pods    Pods
	Changed func() // the node's readiness has
	Event   func(kind, reason, message string)
	Log     *slog.Logger
}

// Shutdown follows one machine's shutdowns. It is safe for concurrent use.
type Shutdown struct {
	cfg Config

	mu         sync.Mutex
	going      bool
	begin, end time.Time
}

// New connects to nothing yet.
func New(cfg Config) *Shutdown {
	if cfg.Address == "" {
		if cfg.Address = os.Getenv("DBUS_SYSTEM_BUS_ADDRESS"); cfg.Address == "" {
			cfg.Address = "unix:path=/run/dbus/system_bus_socket"
		}
	}
	if cfg.ConfDir == "" {
		cfg.ConfDir = defaultConfDir
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Shutdown{cfg: cfg}
}

// Status is an error while the machine shuts down.
func (s *Shutdown) Status() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.going {
		return errShuttingDown
	}
	return nil
}

// Refuse says why no pod is taken while the machine shuts down; "" if it doesn't.
func (s *Shutdown) Refuse(*corev1.Pod) (reason, message string) {
	if s.Status() != nil {
		return RefusedReason, RefusedMessage
	}
	return "", ""
}

// Times are when the last shutdown began, and when its pods had ended; zero if that hasn't been.
func (s *Shutdown) Times() (begin, end time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.begin, s.end
}

// Run follows shutdowns until ctx ends. Without logind it says so once, and goes on trying.
func (s *Shutdown) Run(ctx context.Context) error {
	if total(s.cfg.Periods) == 0 {
		<-ctx.Done()
		return nil
	}
	const first, most = time.Second, time.Minute
	wait, complained := first, ""
	for {
		began := time.Now()
		err := s.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		// D-Bus goes before the agent does: the pods have ended then, and nothing is wrong.
		if text := err.Error(); text != complained && s.Status() == nil {
			complained = text
			s.cfg.Log.Warn("shutdowns of the machine aren't delayed for pods: is systemd-logind running? (shutdownGracePeriod: 0s turns this off)", "error", err)
		}
		if time.Since(began) > most {
			wait = first
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = min(2*wait, most)
	}
}

// follow holds an inhibitor for as long as the connection lasts.
func (s *Shutdown) follow(ctx context.Context) error {
	b, err := dial(ctx, s.cfg.Address, s.cfg.ConfDir)
	if err != nil {
		return err
	}
	defer func() { _ = b.conn.Close() }()
	if err := b.allow(ctx, total(s.cfg.Periods)); err != nil {
		return err
	}
	lock, err := b.inhibit(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	// A shutdown that began while we weren't there: logind refuses new inhibitors then, or says so here.
	begins, err := property[bool](b, "PreparingForShutdown")
	if err != nil {
		return err
	}
	s.cfg.Log.Info("shutdowns of the machine wait for pods", "for", total(s.cfg.Periods))
	for {
		switch {
		case begins:
			s.set(true)
			s.cfg.Event(corev1.EventTypeNormal, RefusedReason, "Shutdown manager detected shutdown event")
			s.endPods(ctx)
			_ = lock.Close()
		case s.Status() != nil: // it was called off, perhaps while there was no connection
			s.set(false)
			s.cfg.Event(corev1.EventTypeNormal, RefusedReason, "Shutdown manager detected shutdown cancellation")
			_ = lock.Close()
			if lock, err = b.inhibit(ctx); err != nil {
				return err
			}
		}
		if begins, err = b.next(ctx); err != nil {
			return err
		}
	}
}

func (s *Shutdown) set(going bool) {
	s.mu.Lock()
	s.going = going
	if going {
		s.begin, s.end = time.Now(), time.Time{}
	}
	s.mu.Unlock()
	if s.cfg.Changed != nil {
		s.cfg.Changed()
	}
}

// endPods ends one group after the other. A group that is done early leaves no time unused.
func (s *Shutdown) endPods(ctx context.Context) {
	for _, g := range groups(s.cfg.Periods, s.cfg.Pods.Active()) {
		s.cfg.Log.Info("pods end before the machine does", "priority", g.Priority, "pods", len(g.pods), "within", g.Grace)
		for _, pod := range g.pods {
			s.cfg.Pods.End(pod, g.grace(pod))
		}
		s.await(ctx, g)
	}
	s.mu.Lock()
	s.end = time.Now()
	s.mu.Unlock()
}

// await waits until a group's pods have ended, or its time has. It looks ten times a second: a machine shuts down once.
func (s *Shutdown) await(ctx context.Context, g group) {
	ctx, cancel := context.WithTimeout(ctx, g.Grace)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		active := s.cfg.Pods.Active()
		if !slices.ContainsFunc(g.pods, func(p *corev1.Pod) bool {
			return slices.ContainsFunc(active, func(q *corev1.Pod) bool { return p.UID == q.UID })
		}) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
