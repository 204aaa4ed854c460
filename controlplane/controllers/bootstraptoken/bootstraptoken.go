// Package bootstraptoken deletes bootstrap tokens, by which nodes join, when they have expired.
//
// Reads: Secrets of type bootstrap.kubernetes.io/token in kube-system. Writes: deletes them.
package bootstraptoken

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/mote-edge/mote/controlplane/controllers/keyqueue"
	"github.com/mote-edge/mote/controlplane/informer"
)

const (
	secretType = corev1.SecretType("bootstrap.kubernetes.io/token")
	expiration = "expiration" // RFC 3339; a token without it doesn't expire
)

// Config is what the controller is given.
type Config struct {
	Client kubernetes.Interface
}

// Controller has a timer for each token.
type Controller struct {
	client  kubernetes.Interface
	secrets cache.SharedIndexInformer
	queue   *keyqueue.Queue[string]
	synced  cache.InformerSynced
}

// New starts nothing.
func New(cfg Config) (*Controller, error) {
	c := &Controller{client: cfg.Client}
	c.queue = keyqueue.New("bootstraptoken", 1, c.reconcile)
	c.secrets = coreinformers.NewFilteredSecretInformer(cfg.Client, metav1.NamespaceSystem, 0, cache.Indexers{}, func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("type", string(secretType)).String()
	})
	if err := c.secrets.SetTransform(informer.Trim); err != nil {
		return nil, err
	}
	var err error
	c.synced, err = keyqueue.WatchChanges(c.secrets, func(_, s *corev1.Secret, gone bool) {
		if !gone {
			c.queue.Add(s.Name)
		}
	})
	return c, err
}

// Run works until ctx is done.
func (c *Controller) Run(ctx context.Context) error {
	go c.secrets.RunWithContext(ctx)
	return c.queue.RunWhenSynced(ctx, c.synced)
}

// expiry is when a token ends. A date that can't be read is as good as expired: authentication refuses it, too.
func expiry(s *corev1.Secret) (at time.Time, ends bool) {
	text, ok := s.Data[expiration]
	if !ok || len(text) == 0 {
		return time.Time{}, false
	}
	at, err := time.Parse(time.RFC3339, string(text))
	if err != nil {
		return time.Time{}, true
	}
	return at, true
}

func (c *Controller) reconcile(ctx context.Context, name string) error {
	o, exists, err := c.secrets.GetStore().GetByKey(metav1.NamespaceSystem + "/" + name)
	if err != nil || !exists {
		return err
	}
	s := o.(*corev1.Secret)
	at, ends := expiry(s)
	if s.Type != secretType || !ends {
		return nil
	}
	if left := time.Until(at); left > 0 {
		c.queue.AddAfter(name, left)
		return nil
	}
	slog.InfoContext(ctx, "a bootstrap token has expired", "secret", name)
	err = c.client.CoreV1().Secrets(metav1.NamespaceSystem).Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &s.UID}})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("bootstrap token %s: %w", name, err)
	}
	return nil
}
