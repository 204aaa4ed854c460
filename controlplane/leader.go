package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/mote-edge/mote/controlplane/apiserver"
	"github.com/mote-edge/mote/controlplane/controllers"
	"github.com/mote-edge/mote/controlplane/objectfeed"
	"github.com/mote-edge/mote/controlplane/scheduler"
)

// errLost ends the process: what the old leader has under way must not meet the new one's work.
var errLost = errors.New("another server leads now (lease kube-system/mote-controllers)")

// lead runs the scheduler and the controllers while this server holds the lease. The holder is named after the machine,
// so that a server that was killed takes its own lease up again at once.
func (s *Server) lead(ctx context.Context) error {
	select {
	case <-s.Ready():
	case <-ctx.Done():
		return nil
	}
	id, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("name this server for leader election: %w", err)
	}
	// With the embedded datastore nobody else can be there; the lease is then renewed rarely, to leave the disk asleep.
	duration, deadline, period := 60*time.Second, 45*time.Second, 20*time.Second
	if len(s.cfg.Etcd.Servers) > 0 {
		duration, deadline, period = 15*time.Second, 10*time.Second, 2*time.Second
	}
	client := s.api.Client()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	finished := make(chan struct{})
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Name: apiserver.ControllersLease,
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: apiserver.ControllersLease},
			Client:     client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: id},
		},
		LeaseDuration: duration, RenewDeadline: deadline, RetryPeriod: period,
		ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) {
				defer close(finished)
				if err := s.work(ctx); err != nil && ctx.Err() == nil {
					cancel(err)
				}
			},
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return fmt.Errorf("set leader election up: %w", err)
	}
	elector.Run(ctx)
	if ctx.Err() == nil {
		return errLost
	}
	if elector.GetLeader() == id {
		select { // the work ends with its context; the datastore must not close under it
		case <-finished:
		case <-time.After(5 * time.Second):
		}
	}
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// work is what the leader does.
func (s *Server) work(ctx context.Context) error {
	meta, err := metadata.NewForConfig(s.api.Loopback())
	if err != nil {
		return fmt.Errorf("make the metadata client: %w", err)
	}
	serviceCIDR, err := netip.ParsePrefix(s.api.ServiceCIDR().String())
	if err != nil {
		return fmt.Errorf("parse the Service range: %w", err)
	}
	sched, err := scheduler.New(scheduler.Config{Client: s.api.Client(), Informers: s.api.Informers()})
	if err != nil {
		return err
	}
	ctrl, err := controllers.New(controllers.Config{
		Client: s.api.Client(), Metadata: meta, Discovery: s.api.Client().Discovery(), Informers: s.api.Informers(),
		Objects:     objectfeed.New(s.store.Client().Client, ""),
		ClusterCIDR: s.cfg.ClusterCIDR, ServiceCIDR: serviceCIDR, Issuer: s.api.Issuer(),
		RootCA: s.pki.CA.CertPEM, SigningCert: s.pki.CA.Cert, SigningKey: s.pki.CA.Key, ServiceAccountKey: s.pki.ServiceAccountKey,
	})
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return sched.Run(ctx) })
	g.Go(func() error { return ctrl.Run(ctx) })
	return g.Wait()
}
