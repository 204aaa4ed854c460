package node

import (
	"context"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/mote-edge/mote/internal/kubeclient"
)

// Server is the API of a real API server, as node Name.
type Server struct {
	Client *kubeclient.Client
	Name   string
	// LeaseSeconds is how long the lease holds.
	LeaseSeconds int32

	lease *coordinationv1.Lease // as last written: a renewal is one request
}

var _ API = (*Server)(nil)

// CreateNode implements API.
func (s *Server) CreateNode(ctx context.Context, n *corev1.Node) (*corev1.Node, error) {
	return s.Client.Nodes().Create(ctx, n, metav1.CreateOptions{})
}

// GetNode implements API.
func (s *Server) GetNode(ctx context.Context) (*corev1.Node, error) {
	return s.Client.Nodes().Get(ctx, s.Name, metav1.GetOptions{})
}

// PatchNode implements API.
func (s *Server) PatchNode(ctx context.Context, patch []byte, subresource ...string) (*corev1.Node, error) {
	return s.Client.Nodes().Patch(ctx, s.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, subresource...)
}

// ListNodes implements API.
func (s *Server) ListNodes(ctx context.Context, o metav1.ListOptions) (*corev1.NodeList, error) {
	return s.Client.Nodes().List(ctx, o)
}

// WatchNodes implements API.
func (s *Server) WatchNodes(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	return s.Client.Nodes().Watch(ctx, o)
}

// RenewLease implements API. It is called by one goroutine.
func (s *Server) RenewLease(ctx context.Context, n *corev1.Node) error {
	leases := s.Client.Leases(corev1.NamespaceNodeLease)
	now := metav1.NewMicroTime(time.Now())
	if s.lease != nil {
		next := s.lease.DeepCopy()
		next.Spec.RenewTime = &now
		got, err := leases.Update(ctx, next, metav1.UpdateOptions{})
		if err == nil {
			s.lease = got
			return nil
		}
		s.lease = nil
		if !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			return err
		}
	}
	got, err := leases.Get(ctx, s.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		got, err = leases.Create(ctx, newLease(s.Name, s.LeaseSeconds, n, now), metav1.CreateOptions{})
	case err == nil:
		fresh := newLease(s.Name, s.LeaseSeconds, n, now)
		got.Spec, got.OwnerReferences = fresh.Spec, fresh.OwnerReferences
		got, err = leases.Update(ctx, got, metav1.UpdateOptions{})
	}
	if err != nil {
		return err
	}
	s.lease = got
	return nil
}

func newLease(name string, seconds int32, n *corev1.Node, now metav1.MicroTime) *coordinationv1.Lease {
	l := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: corev1.NamespaceNodeLease}}
	l.Spec = coordinationv1.LeaseSpec{HolderIdentity: &name, LeaseDurationSeconds: &seconds, RenewTime: &now}
	if n != nil {
		l.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: name, UID: n.UID}}
	}
	return l
}
