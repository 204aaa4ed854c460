// Package deployment rolls Deployments out: a ReplicaSet per pod template, sized up and down step by step so that
// enough pods stay available, with a history of revisions to return to.
//
// Each look at a Deployment decides one move (see rollout.go) from the sizes and statuses of its ReplicaSets; their
// next status wakes it for the following one. Rolling back is only a change of the template: the ReplicaSet that has it
// becomes the current one again.
//
// Reads: Deployments, ReplicaSets, pods (of a Recreate only). Writes: Deployment status and revision annotation;
// ReplicaSets (create, size, annotate, adopt, release, delete beyond the history limit); events on Deployments.
package deployment

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
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
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/mote-edge/mote/controlplane/controllers/keyqueue"
	"github.com/mote-edge/mote/controlplane/controllers/owned"
)

const workers = 4

var kind = appsv1.SchemeGroupVersion.WithKind("Deployment")

// Controller looks after all Deployments.
type Controller struct {
	client kubernetes.Interface
	lister appslisters.DeploymentLister
	sets   cache.Indexer
	pods   cache.Indexer
	rec    record.EventRecorder
	queue  *keyqueue.Queue[types.NamespacedName]
	ready  []cache.InformerSynced
}

// New registers with the informers and starts nothing.
func New(client kubernetes.Interface, f informers.SharedInformerFactory, rec record.EventRecorder) (*Controller, error) {
	ds, rss, pods := f.Apps().V1().Deployments(), f.Apps().V1().ReplicaSets(), f.Core().V1().Pods()
	c := &Controller{
		client: client, lister: ds.Lister(), rec: rec,
		sets: rss.Informer().GetIndexer(), pods: pods.Informer().GetIndexer(),
		ready: []cache.InformerSynced{ds.Informer().HasSynced, rss.Informer().HasSynced, pods.Informer().HasSynced},
	}
	c.queue = keyqueue.New("deployment", workers, c.reconcile)
	// Pods are indexed and not watched: what a rollout waits for shows in the status of their ReplicaSet.
	return c, owned.Follow(ds.Informer(), nil, rss.Informer(), owned.Handlers{
		Kind: kind.Kind, Owner: c.queue.Add, Orphan: c.orphan,
	}, pods.Informer())
}

// Run works until ctx is done. The informers are started by the caller.
func (c *Controller) Run(ctx context.Context) error {
	return c.queue.RunWhenSynced(ctx, c.ready...)
}

// orphan wakes the Deployments that would adopt a ReplicaSet.
func (c *Controller) orphan(rs metav1.Object) {
	all, err := c.lister.Deployments(rs.GetNamespace()).List(labels.Everything())
	if err != nil {
		return
	}
	for _, d := range all {
		if owned.Selects(d.Spec.Selector, rs) {
			c.queue.Add(types.NamespacedName{Namespace: d.Namespace, Name: d.Name})
		}
	}
}

func (c *Controller) reconcile(ctx context.Context, key types.NamespacedName) error {
	cached, err := c.lister.Deployments(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	d := cached.DeepCopy()
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		return fmt.Errorf("selector of Deployment %s: %w", key, err)
	}
	if selector.Empty() {
		c.rec.Eventf(d, corev1.EventTypeWarning, "SelectingAll", "This deployment is selecting all pods. A non-empty selector is required.")
		d.Status.ObservedGeneration = d.Generation
		return c.writeStatus(ctx, cached, d)
	}
	all, err := c.claim(ctx, d, selector)
	if err != nil {
		return err
	}
	now := time.Now()
	s := sortOut(d, all)
	if d.DeletionTimestamp != nil {
		d.Status = counted(d, s, now)
		return c.writeStatus(ctx, cached, d)
	}
	pausedCondition(d, &d.Status, now)
	moveErr := c.move(ctx, d, &s, now)
	if moveErr != nil {
		// What was found out on the way (a failed creation, a hash collision) is still worth writing.
		if err := c.writeStatus(ctx, cached, d); err != nil && !apierrors.IsConflict(err) {
			slog.DebugContext(ctx, "deployment status not written", "deployment", key, "err", err)
		}
		return moveErr
	}
	if err := c.writeStatus(ctx, cached, d); err != nil {
		return err
	}
	if wait, ok := untilDeadline(d, &d.Status, now); ok {
		c.queue.AddAfter(key, wait)
	}
	return nil
}

// claim returns the Deployment's ReplicaSets, after adopting and releasing.
func (c *Controller) claim(ctx context.Context, d *appsv1.Deployment, selector labels.Selector) ([]*appsv1.ReplicaSet, error) {
	claimer := owned.Claimer[*appsv1.ReplicaSet]{
		Owner: d, Kind: kind, Selector: selector,
		Live: func(ctx context.Context) (metav1.Object, error) {
			return c.client.AppsV1().Deployments(d.Namespace).Get(ctx, d.Name, metav1.GetOptions{})
		},
		Patch: func(ctx context.Context, rs *appsv1.ReplicaSet, patch []byte) error {
			_, err := c.client.AppsV1().ReplicaSets(rs.Namespace).Patch(ctx, rs.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
			return err
		},
	}
	return claimer.Claim(ctx, append(owned.Of[*appsv1.ReplicaSet](c.sets, d.UID), owned.Orphans[*appsv1.ReplicaSet](c.sets, d.Namespace)...))
}

// move makes the one next move of a Deployment and leaves its new status and revision in d.
func (c *Controller) move(ctx context.Context, d *appsv1.Deployment, s *sets, now time.Time) error {
	if err := c.adoptCurrent(ctx, d, s, now); err != nil {
		return err
	}
	if d.Spec.Paused || isScaling(d, *s) {
		if err := c.resize(ctx, d, s, proportional(d, *s)); err != nil {
			return err
		}
		d.Status = counted(d, *s, now)
		if d.Spec.Paused {
			return c.cleanUp(ctx, d, s.old)
		}
		return nil
	}
	var err error
	switch d.Spec.Strategy.Type {
	case appsv1.RecreateDeploymentStrategyType:
		err = c.recreate(ctx, d, s, now)
	case appsv1.RollingUpdateDeploymentStrategyType:
		if s.current == nil {
			err = c.create(ctx, d, s, now)
		}
		if err == nil {
			err = c.resize(ctx, d, s, roll(d, *s))
		}
	default:
		err = fmt.Errorf("unexpected deployment strategy type: %s", d.Spec.Strategy.Type)
	}
	if err != nil {
		return err
	}
	d.Status = withProgress(d, *s, counted(d, *s, now), now)
	if s.current != nil && complete(d, &d.Status) {
		return c.cleanUp(ctx, d, s.old)
	}
	return nil
}

// recreate stops every old pod before the first new one is made.
func (c *Controller) recreate(ctx context.Context, d *appsv1.Deployment, s *sets, now time.Time) error {
	if steps := stopOld(*s); len(steps) > 0 {
		return c.resize(ctx, d, s, steps)
	}
	var pods []*corev1.Pod
	for _, rs := range s.old {
		pods = append(pods, owned.Of[*corev1.Pod](c.pods, rs.UID)...)
	}
	if oldRunning(*s, pods) {
		return nil
	}
	if s.current == nil {
		return c.create(ctx, d, s, now)
	}
	return c.resize(ctx, d, s, []step{{s.current, wanted(d)}})
}

// adoptCurrent brings the annotations of the current ReplicaSet up to date, if there is one, and copies its revision
// to the Deployment.
func (c *Controller) adoptCurrent(ctx context.Context, d *appsv1.Deployment, s *sets, now time.Time) error {
	if s.current == nil {
		return nil
	}
	if want, changed := annotations(d, s.current, nextRevision(s.old)); changed || s.current.Spec.MinReadySeconds != d.Spec.MinReadySeconds {
		rs, err := c.patchSet(ctx, s.current, want, map[string]any{"minReadySeconds": d.Spec.MinReadySeconds})
		if err != nil {
			return err
		}
		s.current = rs
	}
	setRevision(d, s.current.Annotations[revisionAnnotation])
	if hasDeadline(d) && condition(&d.Status, appsv1.DeploymentProgressing) == nil {
		set(&d.Status, appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonFound, fmt.Sprintf("Found new replica set %q", s.current.Name), now)
	}
	return nil
}

// create makes the ReplicaSet of the present template.
func (c *Controller) create(ctx context.Context, d *appsv1.Deployment, s *sets, now time.Time) error {
	rs := newSet(d, s.old)
	created, err := c.client.AppsV1().ReplicaSets(d.Namespace).Create(ctx, rs, metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err):
		found, getErr := c.client.AppsV1().ReplicaSets(d.Namespace).Get(ctx, rs.Name, metav1.GetOptions{})
		if getErr != nil {
			return getErr
		}
		if !metav1.IsControlledBy(found, d) || !sameTemplate(&found.Spec.Template, &d.Spec.Template) {
			// Another template has this hash: count up, which gives another hash.
			n := int32(1)
			if d.Status.CollisionCount != nil {
				n += *d.Status.CollisionCount
			}
			d.Status.CollisionCount = &n
			return err
		}
		s.current = found // made before, the cache doesn't show it yet
		setRevision(d, found.Annotations[revisionAnnotation])
		return nil
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return err
	case err != nil:
		msg := fmt.Sprintf("Failed to create new replica set %q: %v", rs.Name, err)
		if hasDeadline(d) {
			set(&d.Status, appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonCreateError, msg, now)
		}
		c.rec.Event(d, corev1.EventTypeWarning, reasonCreateError, msg)
		return err
	}
	s.current = created
	if n := size(created); n > 0 {
		c.rec.Eventf(d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled up replica set %s from 0 to %d", created.Name, n)
	}
	setRevision(d, created.Annotations[revisionAnnotation])
	if hasDeadline(d) {
		set(&d.Status, appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonCreated, fmt.Sprintf("Created new replica set %q", created.Name), now)
	}
	return nil
}

// resize takes the steps and puts the changed ReplicaSets into s.
func (c *Controller) resize(ctx context.Context, d *appsv1.Deployment, s *sets, steps []step) error {
	for _, st := range steps {
		add, stale := sizeAnnotations(d, st.rs)
		from := size(st.rs)
		if from == st.to && !stale {
			continue
		}
		want := maps.Clone(st.rs.Annotations)
		if want == nil {
			want = map[string]string{}
		}
		maps.Copy(want, add)
		rs, err := c.patchSet(ctx, st.rs, want, map[string]any{"replicas": st.to})
		if err != nil {
			return err
		}
		if s.current != nil && s.current.UID == rs.UID {
			s.current = rs
		}
		for i := range s.old {
			if s.old[i].UID == rs.UID {
				s.old[i] = rs
			}
		}
		if from != st.to {
			direction := "up"
			if st.to < from {
				direction = "down"
			}
			c.rec.Eventf(d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled %s replica set %s from %d to %d", direction, rs.Name, from, st.to)
		}
	}
	return nil
}

// patchSet changes annotations and spec fields of a ReplicaSet, if it still is what the decision was made on.
func (c *Controller) patchSet(ctx context.Context, rs *appsv1.ReplicaSet, want map[string]string, spec map[string]any) (*appsv1.ReplicaSet, error) {
	changed := map[string]string{}
	for k, v := range want {
		if was, ok := rs.Annotations[k]; !ok || was != v {
			changed[k] = v
		}
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": rs.UID, "resourceVersion": rs.ResourceVersion, "annotations": changed},
		"spec":     spec,
	})
	if err != nil {
		return nil, fmt.Errorf("patch of ReplicaSet %s: %w", rs.Name, err)
	}
	return c.client.AppsV1().ReplicaSets(rs.Namespace).Patch(ctx, rs.Name, types.MergePatchType, patch, metav1.PatchOptions{})
}

func (c *Controller) cleanUp(ctx context.Context, d *appsv1.Deployment, old []*appsv1.ReplicaSet) error {
	for _, rs := range expired(d, old) {
		err := c.client.AppsV1().ReplicaSets(rs.Namespace).Delete(ctx, rs.Name, metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{UID: &rs.UID},
		})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return err
		}
	}
	return nil
}

func setRevision(d *appsv1.Deployment, revision string) {
	if d.Annotations == nil {
		d.Annotations = map[string]string{}
	}
	if revision != "" {
		d.Annotations[revisionAnnotation] = revision
	}
}

// writeStatus writes d, if its status or revision differ from the cached ones. The revision, an annotation, goes along
// with the status: a status update may change annotations.
func (c *Controller) writeStatus(ctx context.Context, cached, d *appsv1.Deployment) error {
	if equality.Semantic.DeepEqual(cached.Status, d.Status) &&
		cached.Annotations[revisionAnnotation] == d.Annotations[revisionAnnotation] {
		return nil
	}
	_, err := c.client.AppsV1().Deployments(d.Namespace).UpdateStatus(ctx, d, metav1.UpdateOptions{})
	return err
}
