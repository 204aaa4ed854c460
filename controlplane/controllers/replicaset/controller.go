// Package replicaset keeps the wanted number of pods of every ReplicaSet and, with the same core, of every
// ReplicationController.
//
// Reads: ReplicaSets or ReplicationControllers, pods. Writes: their status; pods (create, delete, adopt, release);
// events on the sets.
package replicaset

import (
	"context"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/mote-edge/mote/controlplane/controllers/keyqueue"
	"github.com/mote-edge/mote/controlplane/controllers/owned"
)

// workers bounds the sets worked on at a time.
const workers = 4

// Controller looks after all the objects of one kind.
type Controller struct {
	kind  kind
	pods  owned.Pods
	index cache.Indexer
	queue *keyqueue.Queue[types.NamespacedName]
	ready []cache.InformerSynced
}

// New makes the controller of ReplicaSets.
func New(client kubernetes.Interface, f informers.SharedInformerFactory, rec record.EventRecorder) (*Controller, error) {
	return newController(newReplicaSets(client, f), client, f, rec)
}

// NewReplication makes the controller of ReplicationControllers.
func NewReplication(client kubernetes.Interface, f informers.SharedInformerFactory, rec record.EventRecorder) (*Controller, error) {
	return newController(newReplicationControllers(client, f), client, f, rec)
}

func newController(k kind, client kubernetes.Interface, f informers.SharedInformerFactory, rec record.EventRecorder) (*Controller, error) {
	pods := f.Core().V1().Pods()
	c := &Controller{
		kind:  k,
		pods:  owned.Pods{Client: client, Lister: pods.Lister(), Recorder: rec, Pending: owned.NewPending()},
		index: pods.Informer().GetIndexer(),
		ready: []cache.InformerSynced{pods.Informer().HasSynced, k.informer().HasSynced},
	}
	c.queue = keyqueue.New(k.gvk().Kind, workers, c.reconcile)
	return c, owned.Follow(k.informer(), c.pods.Forget, pods.Informer(), owned.Handlers{
		Kind: k.gvk().Kind, Owner: c.queue.Add, Orphan: c.orphan, Gone: c.pods.Gone,
	}, k.informer())
}

// Run works until ctx is done. The informers are started by the caller.
func (c *Controller) Run(ctx context.Context) error {
	return c.queue.RunWhenSynced(ctx, c.ready...)
}

// orphan wakes the sets that would adopt a pod.
func (c *Controller) orphan(pod metav1.Object) {
	for _, s := range c.kind.in(pod.GetNamespace()) {
		if s.selector.Matches(labels.Set(pod.GetLabels())) {
			c.queue.Add(types.NamespacedName{Namespace: pod.GetNamespace(), Name: s.obj.GetName()})
		}
	}
}

func (c *Controller) reconcile(ctx context.Context, key types.NamespacedName) error {
	s, err := c.kind.get(key)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	active, terminating, err := c.claim(ctx, key, s)
	if err != nil {
		return err
	}
	now := time.Now()
	var failure error
	if s.obj.GetDeletionTimestamp() == nil {
		if settled, wait := c.pods.Settled(s.obj.GetUID(), c.pods.Look); !settled {
			c.queue.AddAfter(key, wait)
		} else {
			failure = c.apply(ctx, s, decide(s.replicas, active, c.related(s, active), now))
		}
	}
	status, recheck := nextStatus(s, active, terminating, failure, now)
	if !equality.Semantic.DeepEqual(status, s.status) {
		if err := c.kind.writeStatus(ctx, s, status); err != nil {
			return err
		}
	}
	if recheck > 0 {
		c.queue.AddAfter(key, recheck)
	}
	return failure
}

// claim returns the set's active and terminating pods, after adopting and releasing.
func (c *Controller) claim(ctx context.Context, key types.NamespacedName, s *set) (active, terminating []*corev1.Pod, err error) {
	mine := owned.Of[*corev1.Pod](c.index, s.obj.GetUID())
	active, terminating = owned.Split(mine)
	orphans, _ := owned.Split(owned.Orphans[*corev1.Pod](c.index, key.Namespace))
	claimer := owned.Claimer[*corev1.Pod]{
		Owner: s.obj, Kind: c.kind.gvk(), Selector: s.selector, Patch: c.pods.Patch,
		Live: func(ctx context.Context) (metav1.Object, error) { return c.kind.live(ctx, key) },
	}
	active, err = claimer.Claim(ctx, append(active, orphans...))
	kept := terminating[:0]
	for _, p := range terminating {
		if s.selector.Matches(labels.Set(p.Labels)) {
			kept = append(kept, p)
		}
	}
	return active, kept, err
}

// related are the pods of this set and of the other sets that its own owner (a Deployment) controls.
func (c *Controller) related(s *set, active []*corev1.Pod) []*corev1.Pod {
	ref := metav1.GetControllerOfNoCopy(s.obj)
	if ref == nil || len(active) <= int(s.replicas) {
		return active
	}
	var pods []*corev1.Pod
	for _, sibling := range owned.Of[*appsv1.ReplicaSet](c.kind.informer().GetIndexer(), ref.UID) {
		pods = append(pods, owned.Of[*corev1.Pod](c.index, sibling.UID)...)
	}
	return pods
}

// apply creates or deletes as planned.
func (c *Controller) apply(ctx context.Context, s *set, p plan) error {
	if p.create > 0 {
		_, err := owned.SlowStart(ctx, p.create, func(ctx context.Context, _ int) error {
			_, err := c.pods.Create(ctx, s.obj, owned.FromTemplate(s.template, s.obj, c.kind.gvk()))
			if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
				return nil // every further attempt would fail too; the set goes with its namespace
			}
			return err
		})
		return err
	}
	if len(p.remove) == 0 {
		return nil
	}
	_, err := owned.Parallel(ctx, len(p.remove), func(ctx context.Context, i int) error {
		return c.pods.Delete(ctx, s.obj, p.remove[i])
	})
	return err
}
