// Package resourcequota counts what the objects of a namespace use of its ResourceQuotas.
//
// Admission adds to the count when something is created. This controller counts afresh when something goes, when a quota
// is made or changed, and every few minutes; its evaluators are the ones that admission uses.
//
// Reads: ResourceQuotas, Pods, Services, PersistentVolumeClaims; of other kinds that a quota counts, their metadata.
// Writes: status of ResourceQuotas.
package resourcequota

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	libquota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"

	"github.com/mote-edge/mote/controlplane/controllers/deletable"
	"github.com/mote-edge/mote/controlplane/controllers/keyqueue"
	"github.com/mote-edge/mote/controlplane/quota"
)

// recount is how often a quota is counted without cause.
const recount = 5 * time.Minute

// second is when a new quota is counted once more.
const second = 2 * time.Second

// settle lets the events of a burst come together.
const settle = 20 * time.Millisecond

// Config is what the controller is given.
type Config struct {
	Client    kubernetes.Interface
	Metadata  metadata.Interface
	Discovery discovery.DiscoveryInterface
	Informers informers.SharedInformerFactory
}

// Controller counts; the keys are quotas.
type Controller struct {
	cfg      Config
	quotas   corelisters.ResourceQuotaLister
	pods     corelisters.PodLister
	services corelisters.ServiceLister
	claims   corelisters.PersistentVolumeClaimLister
	queue    *keyqueue.Queue[types.NamespacedName]
	synced   []cache.InformerSynced
}

// New registers with the informers and starts nothing.
func New(cfg Config) (*Controller, error) {
	f := cfg.Informers.Core().V1()
	c := &Controller{
		cfg: cfg, quotas: f.ResourceQuotas().Lister(), pods: f.Pods().Lister(),
		services: f.Services().Lister(), claims: f.PersistentVolumeClaims().Lister(),
	}
	c.queue = keyqueue.New("resourcequota", 2, c.reconcile)
	quotas, err := keyqueue.WatchChanges(f.ResourceQuotas().Informer(), func(old, q *corev1.ResourceQuota, gone bool) {
		if !gone && (old == nil || !equality.Semantic.DeepEqual(old.Spec, q.Spec)) {
			c.queue.Add(types.NamespacedName{Namespace: q.Namespace, Name: q.Name})
		} else if !gone && old.Status.Hard == nil {
			// Something made while admission didn't see the quota yet may not have been in the first count either.
			c.queue.AddAfter(types.NamespacedName{Namespace: q.Namespace, Name: q.Name}, second)
		}
	})
	if err != nil {
		return nil, err
	}
	pods, err := keyqueue.WatchChanges(f.Pods().Informer(), func(old, p *corev1.Pod, gone bool) {
		if gone || (old != nil && (over(p) != over(old) || p.Generation != old.Generation)) {
			c.count(p.Namespace)
		}
	})
	if err != nil {
		return nil, err
	}
	services, err := keyqueue.WatchChanges(f.Services().Informer(), func(old, s *corev1.Service, gone bool) {
		if gone || (old != nil && (old.Spec.Type != s.Spec.Type || len(old.Spec.Ports) != len(s.Spec.Ports))) {
			c.count(s.Namespace)
		}
	})
	if err != nil {
		return nil, err
	}
	claims, err := keyqueue.WatchChanges(f.PersistentVolumeClaims().Informer(), func(old, p *corev1.PersistentVolumeClaim, gone bool) {
		if gone || (old != nil && !equality.Semantic.DeepEqual(old.Spec.Resources, p.Spec.Resources)) {
			c.count(p.Namespace)
		}
	})
	c.synced = []cache.InformerSynced{quotas, pods, services, claims}
	return c, err
}

// Run works until ctx is done.
func (c *Controller) Run(ctx context.Context) error { return c.queue.RunWhenSynced(ctx, c.synced...) }

// Deleted tells the controller that an object of a kind it doesn't watch itself is gone.
func (c *Controller) Deleted(_ schema.GroupResource, namespace string) { c.count(namespace) }

func over(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

func (c *Controller) count(namespace string) {
	all, err := c.quotas.ResourceQuotas(namespace).List(labels.Everything())
	if err != nil {
		return // a lister over a cache doesn't fail
	}
	for _, q := range all {
		c.queue.AddAfter(types.NamespacedName{Namespace: q.Namespace, Name: q.Name}, settle)
	}
}

func (c *Controller) reconcile(ctx context.Context, key types.NamespacedName) error {
	q, err := c.quotas.ResourceQuotas(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	c.queue.AddAfter(key, recount)
	evaluators, err := c.evaluators(ctx, q)
	if err != nil {
		return fmt.Errorf("resource quota %s: %w", key, err)
	}
	// The part that could be counted is reported even if another couldn't.
	usage, countErr := libquota.CalculateUsage(q.Namespace, q.Spec.Scopes, q.Spec.Hard, generic.NewRegistry(evaluators), q.Spec.ScopeSelector)
	status, changed := newStatus(q, usage)
	if changed {
		fixed := q.DeepCopy()
		fixed.Status = status
		// An update, not a patch: admission writes the same field, and the resource version tells if it just did.
		if _, err := c.cfg.Client.CoreV1().ResourceQuotas(key.Namespace).UpdateStatus(ctx, fixed, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("resource quota %s: %w", key, err)
		}
	}
	if countErr != nil {
		return fmt.Errorf("resource quota %s: %w", key, countErr)
	}
	return nil
}

// newStatus joins a count with what is known of resources that couldn't be counted.
func newStatus(q *corev1.ResourceQuota, usage corev1.ResourceList) (corev1.ResourceQuotaStatus, bool) {
	used := corev1.ResourceList{}
	for name := range q.Spec.Hard {
		if v, ok := usage[name]; ok {
			used[name] = v
		} else if v, ok := q.Status.Used[name]; ok {
			used[name] = v
		}
	}
	changed := q.Status.Hard == nil || q.Status.Used == nil ||
		!equality.Semantic.DeepEqual(q.Spec.Hard, q.Status.Hard) || !libquota.Equals(used, q.Status.Used)
	return corev1.ResourceQuotaStatus{Hard: q.Spec.Hard.DeepCopy(), Used: used}, changed
}

// evaluators are those of the resources that quotas know by name, and one for each "count/…" of this quota.
func (c *Controller) evaluators(ctx context.Context, q *corev1.ResourceQuota) ([]libquota.Evaluator, error) {
	list := func(gvr schema.GroupVersionResource, namespace string) ([]runtime.Object, error) {
		return c.list(ctx, gvr, namespace)
	}
	out := quota.NewConfiguration(list).Evaluators()
	known := map[schema.GroupResource]bool{}
	for _, e := range out {
		known[e.GroupResource()] = true
	}
	var kinds []deletable.Kind
	var failed error
	for name := range q.Spec.Hard {
		counted, ok := strings.CutPrefix(string(name), "count/")
		gr := schema.ParseGroupResource(counted)
		if !ok || known[gr] {
			continue
		}
		known[gr] = true
		if kinds == nil {
			if kinds, failed = deletable.Kinds(c.cfg.Discovery); len(kinds) == 0 {
				return nil, failed
			}
		}
		for _, k := range kinds {
			if k.Resource.GroupResource() == gr && k.Namespaced {
				out = append(out, generic.NewObjectCountEvaluator(gr, func(namespace string) ([]runtime.Object, error) {
					return list(k.Resource, namespace)
				}, ""))
			}
		}
	}
	return out, nil
}

func (c *Controller) list(ctx context.Context, gvr schema.GroupVersionResource, namespace string) ([]runtime.Object, error) {
	if gvr.Group == "" {
		switch gvr.Resource {
		case "pods":
			return objects(c.pods.Pods(namespace).List(labels.Everything()))
		case "services":
			return objects(c.services.Services(namespace).List(labels.Everything()))
		case "persistentvolumeclaims":
			return objects(c.claims.PersistentVolumeClaims(namespace).List(labels.Everything()))
		}
	}
	l, err := c.cfg.Metadata.Resource(gvr).Namespace(namespace).List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := make([]runtime.Object, len(l.Items))
	for i := range l.Items {
		out[i] = &l.Items[i]
	}
	return out, nil
}

func objects[T runtime.Object](in []T, err error) ([]runtime.Object, error) {
	if err != nil {
		return nil, errors.Join(errors.New("list from the cache"), err)
	}
	out := make([]runtime.Object, len(in))
	for i := range in {
		out[i] = in[i]
	}
	return out, nil
}
