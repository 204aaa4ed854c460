package apiserver

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/mote-edge/mote/controlplane/apiserver/satoken"
)

// objects reads single objects through the server's own API: they come from its watch caches, so that no second copy
// is kept for authentication.
type objects struct{ client kubernetes.Interface }

var _ satoken.Objects = (*objects)(nil)

// recent allows an answer from the watch cache.
var recent = metav1.GetOptions{ResourceVersion: "0"}

func (o *objects) ServiceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	return fresh(ctx, recent, func(ctx context.Context, opts metav1.GetOptions) (*corev1.ServiceAccount, error) {
		return o.client.CoreV1().ServiceAccounts(namespace).Get(ctx, name, opts)
	})
}

func (o *objects) Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	return fresh(ctx, recent, func(ctx context.Context, opts metav1.GetOptions) (*corev1.Pod, error) {
		return o.client.CoreV1().Pods(namespace).Get(ctx, name, opts)
	})
}

func (o *objects) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	return fresh(ctx, recent, func(ctx context.Context, opts metav1.GetOptions) (*corev1.Secret, error) {
		return o.client.CoreV1().Secrets(namespace).Get(ctx, name, opts)
	})
}

func (o *objects) Node(ctx context.Context, name string) (*corev1.Node, error) {
	return fresh(ctx, recent, func(ctx context.Context, opts metav1.GetOptions) (*corev1.Node, error) {
		return o.client.CoreV1().Nodes().Get(ctx, name, opts)
	})
}

// fresh asks the cache, and the datastore when the cache doesn't have the object (yet). The look-up is the server's
// own: the deadline of the request that caused it holds, its user doesn't.
func fresh[T any](ctx context.Context, opts metav1.GetOptions, get func(context.Context, metav1.GetOptions) (T, error)) (T, error) {
	v, err := get(ctx, opts)
	if err != nil {
		return get(ctx, metav1.GetOptions{})
	}
	return v, nil
}
