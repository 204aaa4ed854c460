// Package namespace empties namespaces that are being deleted, and lets them go when nothing is left.
//
// Pods go first, since what they use must outlive them; then every other kind that discovery knows of. Each kind is
// listed before it is deleted, because most are empty and a list costs less.
//
// Reads: Namespaces, Pods, discovery, the metadata of everything in a terminating namespace. Writes: deletes all of
// that; the namespace's conditions, and its finalizer "kubernetes".
package namespace

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"

	"github.com/mote-edge/mote/controlplane/controllers/deletable"
	"github.com/mote-edge/mote/controlplane/controllers/keyqueue"
)

// Config is what the controller is given.
type Config struct {
	Client    kubernetes.Interface
	Metadata  metadata.Interface
	Discovery discovery.DiscoveryInterface
	Informers informers.SharedInformerFactory
}

// Controller works on terminating namespaces; the keys are their names.
type Controller struct {
	cfg        Config
	namespaces corelisters.NamespaceLister
	queue      *keyqueue.Queue[string]
	synced     []cache.InformerSynced

	mu       sync.Mutex
	attempts map[string]int
}

var pods = corev1.SchemeGroupVersion.WithResource("pods")

// New registers with the informers and starts nothing.
func New(cfg Config) (*Controller, error) {
	f := cfg.Informers.Core().V1()
	c := &Controller{cfg: cfg, namespaces: f.Namespaces().Lister(), attempts: map[string]int{}}
	c.queue = keyqueue.New("namespace", 4, c.reconcile)
	ns, err := keyqueue.Watch(f.Namespaces().Informer(), func(n *corev1.Namespace) {
		if n.DeletionTimestamp != nil {
			c.queue.Add(n.Name)
		}
	})
	if err != nil {
		return nil, err
	}
	// The last pod's end is what most namespaces wait for.
	p, err := keyqueue.WatchChanges(f.Pods().Informer(), func(_, p *corev1.Pod, gone bool) {
		if !gone {
			return
		}
		if n, err := c.namespaces.Get(p.Namespace); err == nil && n.DeletionTimestamp != nil {
			c.queue.AddAfter(p.Namespace, 20*time.Millisecond) // the others that end with it
		}
	})
	c.synced = []cache.InformerSynced{ns, p}
	return c, err
}

// Run works until ctx is done.
func (c *Controller) Run(ctx context.Context) error { return c.queue.RunWhenSynced(ctx, c.synced...) }

func (c *Controller) reconcile(ctx context.Context, name string) error {
	api := c.cfg.Client.CoreV1().Namespaces()
	ns, err := api.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		c.tried(name, true)
		return nil
	}
	if err != nil {
		return fmt.Errorf("namespace %s: %w", name, err)
	}
	if ns.DeletionTimestamp == nil || !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		return nil
	}
	result := c.empty(ctx, name)
	conditions, changed := result.conditions(ns.Status.Conditions, metav1.Now())
	if changed || ns.Status.Phase != corev1.NamespaceTerminating {
		ns.Status.Phase, ns.Status.Conditions = corev1.NamespaceTerminating, conditions
		if ns, err = api.UpdateStatus(ctx, ns, metav1.UpdateOptions{}); err != nil {
			return ignoreNotFound(err, "status of namespace "+name)
		}
	}
	switch {
	case !result.empty():
		c.queue.AddAfter(name, c.tried(name, false))
		return nil
	case len(result.failures) > 0:
		return fmt.Errorf("namespace %s: %w", name, result.failures[0])
	case result.discovery != nil:
		return fmt.Errorf("namespace %s: %w", name, result.discovery)
	}
	ns.Spec.Finalizers = slices.DeleteFunc(ns.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
	_, err = api.Finalize(ctx, ns, metav1.UpdateOptions{})
	c.tried(name, true)
	return ignoreNotFound(err, "finalizer of namespace "+name)
}

func ignoreNotFound(err error, what string) error {
	if err == nil || apierrors.IsNotFound(err) {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// tried returns how long to wait for what remains.
func (c *Controller) tried(name string, done bool) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if done {
		delete(c.attempts, name)
		return 0
	}
	c.attempts[name]++
	return min(50*time.Millisecond<<min(c.attempts[name], 8), 5*time.Second)
}

// empty deletes everything in a namespace and says what is still there.
func (c *Controller) empty(ctx context.Context, namespace string) *outcome {
	o := &outcome{remaining: map[schema.GroupVersionResource]int{}, finalizers: map[string]int{}}
	kinds, err := deletable.Kinds(c.cfg.Discovery)
	o.discovery = err
	kinds = slices.DeleteFunc(kinds, func(k deletable.Kind) bool { return !k.Namespaced })
	slices.SortFunc(kinds, func(a, b deletable.Kind) int { return strings.Compare(a.Resource.String(), b.Resource.String()) })
	for _, k := range kinds {
		if k.Resource == pods {
			c.emptyKind(ctx, k, namespace, o)
		}
	}
	if !o.empty() || len(o.failures) > 0 {
		return o
	}
	for _, k := range kinds {
		if k.Resource != pods && ctx.Err() == nil {
			c.emptyKind(ctx, k, namespace, o)
		}
	}
	return o
}

func (c *Controller) emptyKind(ctx context.Context, k deletable.Kind, namespace string, o *outcome) {
	api := c.cfg.Metadata.Resource(k.Resource).Namespace(namespace)
	fail := func(err error) {
		o.failures = append(o.failures, fmt.Errorf("%s: %w", k.Resource.GroupResource(), err))
	}
	list, err := api.List(ctx, metav1.ListOptions{})
	if err != nil {
		if !gone(err) {
			fail(err)
		}
		return
	}
	if len(list.Items) == 0 {
		return
	}
	background := metav1.DeletePropagationBackground
	options := metav1.DeleteOptions{PropagationPolicy: &background}
	if k.Collection {
		err = api.DeleteCollection(ctx, options, metav1.ListOptions{})
		if err != nil && !gone(err) && !apierrors.IsMethodNotSupported(err) {
			fail(err)
			return
		}
	}
	if !k.Collection || apierrors.IsMethodNotSupported(err) {
		for i := range list.Items {
			if err := api.Delete(ctx, list.Items[i].Name, options); err != nil && !gone(err) {
				fail(err)
			}
		}
	}
	if list, err = api.List(ctx, metav1.ListOptions{}); err != nil {
		if !gone(err) {
			fail(err)
		}
		return
	}
	if len(list.Items) > 0 {
		o.remaining[k.Resource] = len(list.Items)
	}
	for i := range list.Items {
		for _, f := range list.Items[i].Finalizers {
			o.finalizers[f]++
		}
	}
}

// gone says that an object, or its whole kind, isn't there any more.
func gone(err error) bool { return apierrors.IsNotFound(err) }
