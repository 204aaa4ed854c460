package apiserver

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// ControllersLease is the lease in kube-system under which one server runs the controllers and the scheduler.
const ControllersLease = "mote-controllers"

// componentTimeout bounds each check of `kubectl get componentstatuses`.
const componentTimeout = 5 * time.Second

// components are the checks behind the deprecated componentstatuses. Controllers and scheduler are one process's, and
// alive as long as somebody renews their lease.
func (s *Server) components() map[string]func() error {
	within := func(check func(context.Context) error) func() error {
		return func() error {
			ctx, cancel := context.WithTimeout(context.Background(), componentTimeout)
			defer cancel()
			return check(ctx)
		}
	}
	return map[string]func() error{
		"etcd-0": within(s.cfg.Etcd.Healthy), "controller-manager": within(s.led), "scheduler": within(s.led),
	}
}

func (s *Server) led(ctx context.Context) error {
	lease, err := s.client.CoordinationV1().Leases(metav1.NamespaceSystem).Get(ctx, ControllersLease, metav1.GetOptions{})
	if err != nil {
		return err
	}
	holder, renewed := ptr.Deref(lease.Spec.HolderIdentity, ""), ptr.Deref(lease.Spec.RenewTime, metav1.MicroTime{})
	if holder == "" {
		return fmt.Errorf("nobody holds the lease kube-system/%s", ControllersLease)
	}
	if age := time.Since(renewed.Time); age > time.Duration(ptr.Deref(lease.Spec.LeaseDurationSeconds, 0))*time.Second {
		return fmt.Errorf("%s, who holds the lease kube-system/%s, has not renewed it for %s", holder, ControllersLease, age.Round(time.Second))
	}
	return nil
}
