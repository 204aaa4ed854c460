// Package daemonset runs one pod of every DaemonSet on every node that fits, and rolls out changes of the template.
//
// The pods go through the scheduler, pinned to their nodes by node affinity. Templates are kept as ControllerRevisions.
//
// Reads: DaemonSets, pods, nodes, ControllerRevisions. Writes: DaemonSet status; pods (create, delete, adopt,
// release); ControllerRevisions; events on DaemonSets.
package daemonset

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
	"k8s.io/client-go/util/flowcontrol"

	"github.com/mote-edge/mote/controlplane/controllers/keyqueue"
	"github.com/mote-edge/mote/controlplane/controllers/owned"
	"github.com/mote-edge/mote/controlplane/controllers/revision"
)

const (
	workers = 2
	burst   = 250 // pods created or deleted in one go
)

var kind = appsv1.SchemeGroupVersion.WithKind("DaemonSet")

// Controller looks after all DaemonSets.
type Controller struct {
	client    kubernetes.Interface
	lister    appslisters.DaemonSetLister
	nodes     corelisters.NodeLister
	pods      owned.Pods
	index     cache.Indexer
	histories *revision.Histories
	rec       record.EventRecorder
	backoff   *flowcontrol.Backoff // of nodes whose pods fail
	queue     *keyqueue.Queue[types.NamespacedName]
	ready     []cache.InformerSynced
}

// New registers with the informers and starts nothing.
func New(client kubernetes.Interface, f informers.SharedInformerFactory, rec record.EventRecorder) (*Controller, error) {
	dss, pods, nodes, revs := f.Apps().V1().DaemonSets(), f.Core().V1().Pods(), f.Core().V1().Nodes(), f.Apps().V1().ControllerRevisions()
	c := &Controller{
		client: client, lister: dss.Lister(), nodes: nodes.Lister(), rec: rec,
		pods:      owned.Pods{Client: client, Lister: pods.Lister(), Recorder: rec, Pending: owned.NewPending()},
		index:     pods.Informer().GetIndexer(),
		histories: &revision.Histories{Client: client, Index: revs.Informer().GetIndexer(), Kind: kind},
		backoff:   flowcontrol.NewBackOff(time.Second, 15*time.Minute),
		ready: []cache.InformerSynced{
			dss.Informer().HasSynced, pods.Informer().HasSynced, nodes.Informer().HasSynced, revs.Informer().HasSynced,
		},
	}
	c.queue = keyqueue.New("daemonset", workers, c.reconcile)
	forget := func(uid types.UID) {
		c.pods.Forget(uid)
		c.histories.Forget(uid)
	}
	err := owned.Follow(dss.Informer(), forget, pods.Informer(), owned.Handlers{
		Kind: kind.Kind, Owner: c.queue.Add, Orphan: c.orphan, Gone: c.pods.Gone,
	}, revs.Informer())
	if err != nil {
		return nil, err
	}
	_, err = nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(n any) { c.node(nil, n) }, UpdateFunc: c.node, DeleteFunc: func(any) { c.node(nil, nil) },
	})
	if err != nil {
		return nil, fmt.Errorf("watch nodes for DaemonSets: %w", err)
	}
	return c, nil
}

// Run works until ctx is done. The informers are started by the caller.
func (c *Controller) Run(ctx context.Context) error {
	return c.queue.RunWhenSynced(ctx, c.ready...)
}

func (c *Controller) orphan(pod metav1.Object) {
	all, err := c.lister.DaemonSets(pod.GetNamespace()).List(labels.Everything())
	if err != nil {
		return
	}
	for _, ds := range all {
		if owned.Selects(ds.Spec.Selector, pod) {
			c.queue.Add(types.NamespacedName{Namespace: ds.Namespace, Name: ds.Name})
		}
	}
}

// node wakes the DaemonSets whose answer for a node changed; all of them for a node that is gone.
func (c *Controller) node(old, cur any) {
	was, _ := old.(*corev1.Node)
	is, _ := cur.(*corev1.Node)
	if was != nil && is != nil && equality.Semantic.DeepEqual(was.Spec.Taints, is.Spec.Taints) && equality.Semantic.DeepEqual(was.Labels, is.Labels) {
		return // a heartbeat
	}
	all, err := c.lister.List(labels.Everything())
	if err != nil {
		return
	}
	for _, ds := range all {
		if is != nil {
			p := newPlacer(ds)
			run, stay := p.on(is)
			wasRun, wasStay := false, false
			if was != nil {
				wasRun, wasStay = p.on(was)
			}
			if run == wasRun && stay == wasStay {
				continue
			}
		}
		c.queue.Add(types.NamespacedName{Namespace: ds.Namespace, Name: ds.Name})
	}
}

func (c *Controller) reconcile(ctx context.Context, key types.NamespacedName) error {
	ds, err := c.lister.DaemonSets(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	selector, err := metav1.LabelSelectorAsSelector(ds.Spec.Selector)
	if err != nil {
		return fmt.Errorf("selector of DaemonSet %s: %w", key, err)
	}
	if selector.Empty() {
		c.rec.Eventf(ds, corev1.EventTypeWarning, "SelectingAll", "This daemon set is selecting all pods. A non-empty selector is required.")
		return nil
	}
	if ds.DeletionTimestamp != nil {
		return nil // its revisions may be gone already, so nothing could be said about its pods
	}
	live := func(ctx context.Context) (metav1.Object, error) {
		return c.client.AppsV1().DaemonSets(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
	}
	history, err := c.histories.List(ctx, ds, selector, live)
	if err != nil {
		return err
	}
	current, err := c.histories.Current(ctx, ds, history, revision.Wanted{
		Template: &ds.Spec.Template, Label: hashLabel,
		Hash: func([]byte) string { return revision.TemplateHash(&ds.Spec.Template, ds.Status.CollisionCount) },
	})
	if errors.Is(err, revision.ErrCollision) {
		return errors.Join(err, c.countCollision(ctx, ds))
	}
	if err != nil {
		return err
	}
	claimer := owned.Claimer[*corev1.Pod]{Owner: ds, Kind: kind, Selector: selector, Live: live, Patch: c.pods.Patch}
	pods, err := claimer.Claim(ctx, append(owned.Of[*corev1.Pod](c.index, ds.UID), owned.Orphans[*corev1.Pod](c.index, ds.Namespace)...))
	if err != nil {
		return err
	}
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return err
	}
	v := look(ds, current.Labels[hashLabel], nodes, pods, time.Now())
	settled, wait := c.pods.Settled(ds.UID, c.pods.Look)
	var workErr error
	if settled {
		if wait, workErr = c.work(ctx, v); workErr == nil {
			workErr = c.histories.Delete(ctx, revision.Expired(history, limit(ds), func(r *appsv1.ControllerRevision) bool {
				return r.Name == current.Name || uses(pods, r.Labels[hashLabel])
			}))
		}
	}
	st, recheck := status(v)
	if settled {
		st.ObservedGeneration = ds.Generation
	}
	if err := c.writeStatus(ctx, ds, st); err != nil {
		return errors.Join(workErr, err)
	}
	for _, d := range []time.Duration{wait, recheck} {
		if d > 0 {
			c.queue.AddAfter(key, d)
		}
	}
	return workErr
}

// work takes the next step; wait is when a failed pod may be replaced.
func (c *Controller) work(ctx context.Context, v view) (wait time.Duration, err error) {
	id := func(node string) string {
		return fmt.Sprintf("%s/%d/%s", v.ds.UID, v.ds.Status.ObservedGeneration, node)
	}
	p := manage(v, func(node string) time.Duration {
		if !c.backoff.IsInBackOffSinceUpdate(id(node), v.now) {
			return 0
		}
		return max(c.backoff.Get(id(node)), time.Millisecond)
	})
	wait = p.wait
	for _, pod := range p.failed {
		c.backoff.Next(id(nodeOf(pod)), v.now)
		c.rec.Eventf(v.ds, corev1.EventTypeWarning, "FailedDaemonPod", "Found failed daemon pod %s/%s on node %s, will try to kill it", pod.Namespace, pod.Name, nodeOf(pod))
	}
	for _, pod := range p.ended {
		c.rec.Eventf(v.ds, corev1.EventTypeNormal, "SucceededDaemonPod", "Found succeeded daemon pod %s/%s on node %s, will try to delete it", pod.Namespace, pod.Name, nodeOf(pod))
	}
	if p.empty() && isRolling(v.ds) {
		p = roll(v)
	}
	create, remove := p.create[:min(burst, len(p.create))], p.remove[:min(burst, len(p.remove))]
	_, createErr := owned.SlowStart(ctx, len(create), func(ctx context.Context, i int) error {
		_, err := c.pods.Create(ctx, v.ds, newPod(v.ds, create[i], v.hash))
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
		return err
	})
	_, removeErr := owned.Parallel(ctx, len(remove), func(ctx context.Context, i int) error {
		return c.pods.Delete(ctx, v.ds, remove[i])
	})
	return wait, errors.Join(createErr, removeErr)
}

func (c *Controller) countCollision(ctx context.Context, ds *appsv1.DaemonSet) error {
	st := *ds.Status.DeepCopy()
	n := int32(1)
	if st.CollisionCount != nil {
		n += *st.CollisionCount
	}
	st.CollisionCount = &n
	return c.writeStatus(ctx, ds, st)
}

func (c *Controller) writeStatus(ctx context.Context, ds *appsv1.DaemonSet, st appsv1.DaemonSetStatus) error {
	if equality.Semantic.DeepEqual(ds.Status, st) {
		return nil
	}
	ds = ds.DeepCopy()
	ds.Status = st
	_, err := c.client.AppsV1().DaemonSets(ds.Namespace).UpdateStatus(ctx, ds, metav1.UpdateOptions{})
	return err
}

func limit(ds *appsv1.DaemonSet) int {
	if ds.Spec.RevisionHistoryLimit == nil {
		return 10
	}
	return int(*ds.Spec.RevisionHistoryLimit)
}

func uses(pods []*corev1.Pod, hash string) bool {
	for _, p := range pods {
		if hash != "" && p.Labels[hashLabel] == hash {
			return true
		}
	}
	return false
}
