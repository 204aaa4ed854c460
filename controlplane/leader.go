package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/utils/ptr"

	"github.com/mote-edge/mote/controlplane/apiserver"
	"github.com/mote-edge/mote/controlplane/controllers"
	"github.com/mote-edge/mote/controlplane/objectfeed"
	"github.com/mote-edge/mote/controlplane/scheduler"
)

// errLost ends the process: what the old leader has under way must not meet the new one's work.
var errLost = errors.New("the lease kube-system/mote-controllers is lost: another server leads now, or it couldn't be renewed in time")

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
	client := s.api.Client()
	// With the embedded datastore nobody else can be there. The lease is then renewed rarely, to leave the disk asleep, and isn't lost
	// because a small machine stood still for a minute: memory that ran out, a slow disk, a sleeping host.
	duration, deadline, period := 15*time.Minute, 10*time.Minute, 20*time.Second
	if len(s.cfg.Etcd.Servers) > 0 {
		duration, deadline, period = 15*time.Second, 10*time.Second, 2*time.Second
	} else if err := freeLease(ctx, client.CoordinationV1().Leases(metav1.NamespaceSystem), id); err != nil {
		return err
	}
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

// freeLease takes the lease from a server of another name: this machine was renamed, or its datastore comes from another one.
func freeLease(ctx context.Context, leases coordinationclient.LeaseInterface, id string) error {
	lease, err := leases.Get(ctx, apiserver.ControllersLease, metav1.GetOptions{})
	if err == nil && ptr.Deref(lease.Spec.HolderIdentity, id) != id {
		lease.Spec.HolderIdentity = ptr.To("")
		_, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
	}
	if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
		return fmt.Errorf("take the lease of the controllers over: %w", err)
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
