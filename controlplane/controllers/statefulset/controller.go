// Package statefulset runs the numbered pods of StatefulSets, each with its own name and volumes, in order or all at
// once, and rolls out changes of the template from the highest number to the lowest.
//
// Reads: StatefulSets, pods, PersistentVolumeClaims, ControllerRevisions. Writes: StatefulSet status; pods (create,
// delete, label, adopt, release); claims (create, owner references); ControllerRevisions; events on StatefulSets.
package statefulset

import (
	"context"
	"errors"
	"fmt"
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
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/mote-edge/mote/controlplane/controllers/keyqueue"
	"github.com/mote-edge/mote/controlplane/controllers/owned"
	"github.com/mote-edge/mote/controlplane/controllers/revision"
)

const (
	workers = 2
	// historyLabel is where a revision keeps its hash.
	historyLabel = "controller.kubernetes.io/hash"
)

var kind = appsv1.SchemeGroupVersion.WithKind("StatefulSet")

// Controller looks after all StatefulSets.
type Controller struct {
	client    kubernetes.Interface
	lister    appslisters.StatefulSetLister
	pods      corelisters.PodLister
	claims    corelisters.PersistentVolumeClaimLister
	index     cache.Indexer
	histories *revision.Histories
	rec       record.EventRecorder
	pending   *owned.Pending
	versions  *owned.Versions
	queue     *keyqueue.Queue[types.NamespacedName]
	ready     []cache.InformerSynced
}

// New registers with the informers and starts nothing.
func New(client kubernetes.Interface, f informers.SharedInformerFactory, rec record.EventRecorder) (*Controller, error) {
	sets, pods := f.Apps().V1().StatefulSets(), f.Core().V1().Pods()
	claims, revs := f.Core().V1().PersistentVolumeClaims(), f.Apps().V1().ControllerRevisions()
	c := &Controller{
		client: client, lister: sets.Lister(), pods: pods.Lister(), claims: claims.Lister(), index: pods.Informer().GetIndexer(),
		histories: &revision.Histories{Client: client, Index: revs.Informer().GetIndexer(), Kind: kind},
		rec:       rec, pending: owned.NewPending(), versions: owned.NewVersions(),
		ready: []cache.InformerSynced{
			sets.Informer().HasSynced, pods.Informer().HasSynced, claims.Informer().HasSynced, revs.Informer().HasSynced,
		},
	}
	c.queue = keyqueue.New("statefulset", workers, c.reconcile)
	forget := func(uid types.UID) {
		c.pending.Forget(uid)
		c.versions.Forget(uid)
		c.histories.Forget(uid)
	}
	err := owned.Follow(sets.Informer(), forget, pods.Informer(), owned.Handlers{
		Kind: kind.Kind, Owner: c.queue.Add, Orphan: c.orphan, Gone: c.pending.Gone,
	}, revs.Informer())
	if err != nil {
		return nil, err
	}
	_, err = claims.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{DeleteFunc: c.claimGone})
	if err != nil {
		return nil, fmt.Errorf("watch claims for StatefulSets: %w", err)
	}
	return c, nil
}

// claimGone wakes the sets that may have waited for the end of a claim before they can make a pod anew.
func (c *Controller) claimGone(obj any) {
	key, ok := owned.Key(obj)
	if !ok {
		return
	}
	all, err := c.lister.StatefulSets(key.Namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, s := range all {
		for i := range s.Spec.VolumeClaimTemplates {
			if ordinalOf(s.Spec.VolumeClaimTemplates[i].Name+"-"+s.Name, key.Name) >= 0 {
				c.queue.Add(types.NamespacedName{Namespace: s.Namespace, Name: s.Name})
			}
		}
	}
}

// Run works until ctx is done. The informers are started by the caller.
func (c *Controller) Run(ctx context.Context) error {
	return c.queue.RunWhenSynced(ctx, c.ready...)
}

func (c *Controller) orphan(pod metav1.Object) {
	all, err := c.lister.StatefulSets(pod.GetNamespace()).List(labels.Everything())
	if err != nil {
		return
	}
	for _, s := range all {
		if owned.Selects(s.Spec.Selector, pod) && ordinalOf(s.Name, pod.GetName()) >= 0 {
			c.queue.Add(types.NamespacedName{Namespace: s.Namespace, Name: s.Name})
		}
	}
}

func (c *Controller) reconcile(ctx context.Context, key types.NamespacedName) error {
	set, err := c.lister.StatefulSets(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if !c.versions.Fresh(set.UID, set.ResourceVersion) {
		return nil // the event of our last write is still to come
	}
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil {
		return fmt.Errorf("selector of StatefulSet %s: %w", key, err)
	}
	live := func(ctx context.Context) (metav1.Object, error) {
		return c.client.AppsV1().StatefulSets(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
	}
	claimer := owned.Claimer[*corev1.Pod]{
		Owner: set, Kind: kind, Selector: selector, Live: live,
		AdoptIf: func(p *corev1.Pod) bool { return ordinalOf(set.Name, p.Name) >= 0 },
		Patch:   c.patchPod,
	}
	pods, err := claimer.Claim(ctx, append(owned.Of[*corev1.Pod](c.index, set.UID), owned.Orphans[*corev1.Pod](c.index, set.Namespace)...))
	if err != nil {
		return err
	}
	history, err := c.histories.List(ctx, set, selector, live)
	if err != nil {
		return err
	}
	update, err := c.histories.Current(ctx, set, history, revision.Wanted{
		Template: &set.Spec.Template, Label: historyLabel,
		Hash: func(data []byte) string { return revision.DataHash(data, collisions(set)) },
	})
	if errors.Is(err, revision.ErrCollision) {
		return errors.Join(err, c.countCollision(ctx, set))
	}
	if err != nil {
		return err
	}
	current := update
	for _, r := range history {
		if r.Name == set.Status.CurrentRevision {
			current = r
		}
	}
	v := view{
		set: set, pods: pods, current: current.Name, update: update.Name, now: time.Now(),
		blocked: func(pod string) bool { return c.blocked(set, pod) },
	}
	var workErr error
	var p plan
	if set.DeletionTimestamp == nil {
		if settled, wait := c.pending.Settled(set.UID, c.look); !settled {
			c.queue.AddAfter(key, wait)
		} else {
			p = decide(v)
			workErr = c.apply(ctx, v, p, current)
		}
	}
	st, recheck := status(v, p.currentGoes)
	if recheck > 0 {
		c.queue.AddAfter(key, recheck)
	}
	if err := c.writeStatus(ctx, set, st); err != nil {
		return errors.Join(workErr, err)
	}
	if workErr != nil || set.DeletionTimestamp != nil {
		return workErr
	}
	return c.histories.Delete(ctx, revision.Expired(history, limit(set), func(r *appsv1.ControllerRevision) bool {
		return r.Name == current.Name || r.Name == update.Name || uses(pods, r.Name)
	}))
}

// apply takes the steps of a plan; the first error ends it, in an ordered set.
func (c *Controller) apply(ctx context.Context, v view, p plan, current *appsv1.ControllerRevision) error {
	old, err := revision.Template(current)
	if err != nil {
		return err
	}
	_, err = owned.SlowStart(ctx, len(p.create), func(ctx context.Context, i int) error {
		t, name := &v.set.Spec.Template, v.update
		if onCurrent(v.set, p.create[i]) {
			t, name = old, v.current
		}
		return c.create(ctx, v.set, newPod(v.set, t, name, p.create[i]))
	})
	if err != nil {
		return err
	}
	for _, pod := range p.claims {
		if err := c.ensureClaims(ctx, v.set, pod); err != nil {
			return err
		}
	}
	for _, pod := range p.check {
		if err := c.check(ctx, v.set, pod); err != nil {
			return err
		}
	}
	_, err = owned.Parallel(ctx, len(p.remove), func(ctx context.Context, i int) error {
		return c.remove(ctx, v.set, p.remove[i])
	})
	return err
}

func (c *Controller) countCollision(ctx context.Context, set *appsv1.StatefulSet) error {
	st := *set.Status.DeepCopy()
	n := collisions(set) + 1
	st.CollisionCount = &n
	return c.writeStatus(ctx, set, st)
}

func (c *Controller) writeStatus(ctx context.Context, set *appsv1.StatefulSet, st appsv1.StatefulSetStatus) error {
	if equality.Semantic.DeepEqual(set.Status, st) {
		return nil
	}
	set = set.DeepCopy()
	set.Status = st
	updated, err := c.client.AppsV1().StatefulSets(set.Namespace).UpdateStatus(ctx, set, metav1.UpdateOptions{})
	if err != nil {
		return err
	}
	c.versions.Wrote(set.UID, updated.ResourceVersion)
	return nil
}

func (c *Controller) look(key types.NamespacedName) owned.Sight {
	p, err := c.pods.Pods(key.Namespace).Get(key.Name)
	if err != nil {
		return owned.Sight{}
	}
	return owned.Sight{UID: p.UID, Deleting: p.DeletionTimestamp != nil}
}

func collisions(s *appsv1.StatefulSet) int32 {
	if s.Status.CollisionCount == nil {
		return 0
	}
	return *s.Status.CollisionCount
}

func limit(s *appsv1.StatefulSet) int {
	if s.Spec.RevisionHistoryLimit == nil {
		return 10
	}
	return int(*s.Spec.RevisionHistoryLimit)
}

func uses(pods []*corev1.Pod, revision string) bool {
	for _, p := range pods {
		if revisionOf(p) == revision {
			return true
		}
	}
	return false
}
