// Package serviceaccount sees to it that every namespace has the service account "default".
//
// Reads: Namespaces, ServiceAccounts. Writes: creates ServiceAccounts named default.
package serviceaccount

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/mote-edge/mote/controlplane/controllers/keyqueue"
)

const name = "default"

// Config is what the controller is given.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
}

// Controller creates what is missing; the keys are namespaces.
type Controller struct {
	client     kubernetes.Interface
	namespaces corelisters.NamespaceLister
	accounts   corelisters.ServiceAccountLister
	queue      *keyqueue.Queue[string]
	synced     []cache.InformerSynced
}

// New registers with the informers and starts nothing.
func New(cfg Config) (*Controller, error) {
	f := cfg.Informers.Core().V1()
	c := &Controller{client: cfg.Client, namespaces: f.Namespaces().Lister(), accounts: f.ServiceAccounts().Lister()}
	c.queue = keyqueue.New("serviceaccount", 2, c.reconcile)
	ns, err := keyqueue.Watch(f.Namespaces().Informer(), func(n *corev1.Namespace) { c.queue.Add(n.Name) })
	if err != nil {
		return nil, err
	}
	sa, err := keyqueue.WatchChanges(f.ServiceAccounts().Informer(), func(_, s *corev1.ServiceAccount, gone bool) {
		if gone && s.Name == name {
			c.queue.Add(s.Namespace)
		}
	})
	c.synced = []cache.InformerSynced{ns, sa}
	return c, err
}

// Run works until ctx is done.
func (c *Controller) Run(ctx context.Context) error { return c.queue.RunWhenSynced(ctx, c.synced...) }

func (c *Controller) reconcile(ctx context.Context, namespace string) error {
	ns, err := c.namespaces.Get(namespace)
	if apierrors.IsNotFound(err) || (err == nil && ns.Status.Phase == corev1.NamespaceTerminating) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := c.accounts.ServiceAccounts(namespace).Get(name); !apierrors.IsNotFound(err) {
		return err
	}
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}}
	_, err = c.client.CoreV1().ServiceAccounts(namespace).Create(ctx, sa, metav1.CreateOptions{})
	switch {
	case err == nil || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err):
		return nil
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil
	}
	return fmt.Errorf("service account %s/%s: %w", namespace, name, err)
}
