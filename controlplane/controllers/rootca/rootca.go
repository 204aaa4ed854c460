// Package rootca publishes the API server's CA certificate in every namespace, as the ConfigMap kube-root-ca.crt that
// the projected service-account volume of pods refers to.
//
// Reads: Namespaces, and the ConfigMaps of that name. Writes: these ConfigMaps.
package rootca

import (
	"context"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/mote-edge/mote/controlplane/controllers/keyqueue"
)

const (
	name       = "kube-root-ca.crt"
	key        = "ca.crt"
	annotation = "kubernetes.io/description"
	// The words are upstream's; its tests compare the ConfigMap.
	description = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. " +
		"No other usage is guaranteed across distributions of Kubernetes clusters."
)

// Config is what the controller is given.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	RootCA    []byte // PEM
}

// Controller keeps the ConfigMaps as they should be; the keys are namespaces.
type Controller struct {
	client     kubernetes.Interface
	ca         string
	namespaces corelisters.NamespaceLister
	// maps holds only the ConfigMaps of this name: the others may be large, and no controller reads them.
	maps   cache.SharedIndexInformer
	queue  *keyqueue.Queue[string]
	synced []cache.InformerSynced
}

// New registers with the informers and starts nothing.
func New(cfg Config) (*Controller, error) {
	f := cfg.Informers.Core().V1()
	c := &Controller{client: cfg.Client, ca: string(cfg.RootCA), namespaces: f.Namespaces().Lister()}
	c.maps = coreinformers.NewFilteredConfigMapInformer(cfg.Client, metav1.NamespaceAll, 0, cache.Indexers{}, func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
	})
	if err := c.maps.SetTransform(c.trim); err != nil {
		return nil, err
	}
	c.queue = keyqueue.New("rootca", 2, c.reconcile)
	ns, err := keyqueue.Watch(f.Namespaces().Informer(), func(n *corev1.Namespace) { c.queue.Add(n.Name) })
	if err != nil {
		return nil, err
	}
	cm, err := keyqueue.Watch(c.maps, func(m *corev1.ConfigMap) {
		if m.Name == name {
			c.queue.Add(m.Namespace)
		}
	})
	c.synced = []cache.InformerSynced{ns, cm}
	return c, err
}

// Run works until ctx is done.
func (c *Controller) Run(ctx context.Context) error {
	go c.maps.RunWithContext(ctx)
	return c.queue.RunWhenSynced(ctx, c.synced...)
}

// trim lets all copies that are right share one string.
func (c *Controller) trim(o any) (any, error) {
	if m, ok := o.(*corev1.ConfigMap); ok {
		m.ManagedFields = nil
		if m.Data[key] == c.ca {
			m.Data[key] = c.ca
		}
	}
	return o, nil
}

func (c *Controller) reconcile(ctx context.Context, namespace string) error {
	ns, err := c.namespaces.Get(namespace)
	if apierrors.IsNotFound(err) || (err == nil && ns.Status.Phase == corev1.NamespaceTerminating) {
		return nil
	}
	if err != nil {
		return err
	}
	o, exists, err := c.maps.GetStore().GetByKey(namespace + "/" + name)
	if err != nil {
		return err
	}
	if !exists {
		_, err := c.client.CoreV1().ConfigMaps(namespace).Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Annotations: map[string]string{annotation: description}},
			Data:       map[string]string{key: c.ca},
		}, metav1.CreateOptions{})
		if err == nil || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
		return fmt.Errorf("config map %s/%s: %w", namespace, name, err)
	}
	m := o.(*corev1.ConfigMap)
	if maps.Equal(m.Data, map[string]string{key: c.ca}) && m.Annotations[annotation] != "" {
		return nil
	}
	fixed := m.DeepCopy()
	fixed.Data = map[string]string{key: c.ca}
	if fixed.Annotations == nil {
		fixed.Annotations = map[string]string{}
	}
	fixed.Annotations[annotation] = description
	if _, err := c.client.CoreV1().ConfigMaps(namespace).Update(ctx, fixed, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("config map %s/%s: %w", namespace, name, err)
	}
	return nil
}
