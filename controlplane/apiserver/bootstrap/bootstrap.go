// Package bootstrap makes the objects that every cluster begins with and keeps those that must stay: namespaces, the
// default roles, the kubernetes Service and its endpoints, system priority classes, and what aggregated servers read to
// trust this one.
//
// Reads:  the objects it makes.
// Writes: the same. Of roles and bindings it adds what is missing and takes nothing away.
package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"
)

// Config says what the objects say.
type Config struct {
	Client           kubernetes.Interface
	AdvertiseAddress net.IP
	Port             int
	ServiceCIDR      *net.IPNet
	// ClientCA, FrontProxyCA are in PEM; FrontProxyNames are the common names the front proxy may have.
	ClientCA, FrontProxyCA []byte
	FrontProxyNames        []string
	// DNSAddress is the cluster DNS Service's; nil makes none.
	DNSAddress net.IP
	// Fairness makes the default priority levels and flow schemas too.
	Fairness bool
}

// Bootstrap is the set of tasks.
type Bootstrap struct {
	cfg          Config
	warnLoopback func()
}

// New starts nothing.
func New(cfg Config) *Bootstrap {
	return &Bootstrap{cfg: cfg, warnLoopback: sync.OnceFunc(func() {
		slog.Warn("the machine has no address but loopback, so pods can't reach the API server: give --advertise-address")
	})}
}

// parallel is how many writes are under way at once: each waits for the disk.
const parallel = 8

// attempts: the first requests may meet informers that haven't synced.
const attempts = 5

// Ensure makes everything once and returns when it exists.
func (b *Bootstrap) Ensure(ctx context.Context) error {
	if err := b.namespaces(ctx); err != nil {
		return fmt.Errorf("make the system namespaces: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	for name, task := range map[string]func(context.Context) error{
		"roles":              b.policy,
		"Services":           b.services,
		"priority classes":   b.priorityClasses,
		"authentication map": b.authenticationMap,
		"flow schemas":       b.flowSchemas,
	} {
		g.Go(func() error {
			if err := task(ctx); err != nil {
				return fmt.Errorf("make the default %s: %w", name, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// keepEvery is how soon a system namespace or the kubernetes Service's endpoints are mended.
const keepEvery = 30 * time.Second

// Run keeps what must stay until the context ends. Reads come from watch caches and cost next to nothing.
func (b *Bootstrap) Run(ctx context.Context) {
	t := time.NewTicker(keepEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if err := errors.Join(b.namespaces(ctx), b.services(ctx)); err != nil && ctx.Err() == nil {
			slog.WarnContext(ctx, "default objects not kept, trying again", "err", err)
		}
	}
}

// all runs the tasks, parallel at a time.
func all(ctx context.Context, tasks []func(context.Context) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, t := range tasks {
		g.Go(func() error { return retry(ctx, t) })
	}
	return g.Wait()
}

// retry goes on over conflicts and a server that has just started.
func retry(ctx context.Context, task func(context.Context) error) (err error) {
	for n := range attempts {
		if err = task(ctx); err == nil {
			return nil
		}
		if apierrors.IsInvalid(err) || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(n+1) * 50 * time.Millisecond):
		}
	}
	return err
}

// exists takes "somebody else made it" for success.
func exists(err error) error {
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}
