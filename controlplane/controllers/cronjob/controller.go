// Package cronjob creates a Job for every start time of a CronJob's schedule.
//
// There is one timer for each CronJob, at its next start time; nothing polls.
//
// Reads: CronJobs, Jobs. Writes: CronJob status; Jobs (create, delete beyond the history limits or to be replaced);
// events on CronJobs.
package cronjob

import (
	"context"
	"errors"
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/mote-edge/mote/controlplane/controllers/keyqueue"
	"github.com/mote-edge/mote/controlplane/controllers/owned"
)

const workers = 2

var kind = batchv1.SchemeGroupVersion.WithKind("CronJob")

// Controller looks after all CronJobs.
type Controller struct {
	client   kubernetes.Interface
	lister   batchlisters.CronJobLister
	jobs     cache.Indexer
	rec      record.EventRecorder
	versions *owned.Versions
	queue    *keyqueue.Queue[types.NamespacedName]
	ready    []cache.InformerSynced
	now      func() time.Time
}

// New registers with the informers and starts nothing.
func New(client kubernetes.Interface, f informers.SharedInformerFactory, rec record.EventRecorder) (*Controller, error) {
	cjs, jobs := f.Batch().V1().CronJobs(), f.Batch().V1().Jobs()
	c := &Controller{
		client: client, lister: cjs.Lister(), jobs: jobs.Informer().GetIndexer(), rec: rec, versions: owned.NewVersions(),
		ready: []cache.InformerSynced{cjs.Informer().HasSynced, jobs.Informer().HasSynced},
		now:   time.Now,
	}
	c.queue = keyqueue.New("cronjob", workers, c.reconcile)
	return c, owned.Follow(cjs.Informer(), c.versions.Forget, jobs.Informer(), owned.Handlers{Kind: kind.Kind, Owner: c.queue.Add})
}

// Run works until ctx is done. The informers are started by the caller.
func (c *Controller) Run(ctx context.Context) error {
	return c.queue.RunWhenSynced(ctx, c.ready...)
}

func (c *Controller) reconcile(ctx context.Context, key types.NamespacedName) error {
	cached, err := c.lister.CronJobs(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if !c.versions.Fresh(cached.UID, cached.ResourceVersion) {
		return nil // the event of our last write is still to come
	}
	cj := cached.DeepCopy()
	jobs := owned.Of[*batchv1.Job](c.jobs, cj.UID)
	missing, err := c.missing(ctx, cj, jobs)
	if err != nil {
		return err
	}
	for _, e := range settle(cj, jobs, missing) {
		c.rec.Event(cj, e.kind, e.reason, e.message)
	}
	for _, j := range expired(cj, jobs) {
		if j.DeletionTimestamp == nil {
			err = errors.Join(err, c.deleteJob(ctx, cj, j.Name, j.UID))
		}
	}
	wait, startErr := c.start(ctx, cj)
	err = errors.Join(err, startErr)
	if !equality.Semantic.DeepEqual(cached.Status, cj.Status) {
		updated, writeErr := c.client.BatchV1().CronJobs(cj.Namespace).UpdateStatus(ctx, cj, metav1.UpdateOptions{})
		if writeErr != nil {
			return errors.Join(err, writeErr)
		}
		c.versions.Wrote(cj.UID, updated.ResourceVersion)
	}
	if wait > 0 {
		c.queue.AddAfter(key, wait)
	}
	return err
}

// missing are the active Jobs that the cache doesn't show and the API server doesn't know.
func (c *Controller) missing(ctx context.Context, cj *batchv1.CronJob, jobs []*batchv1.Job) (out []types.UID, err error) {
	known := map[types.UID]bool{}
	for _, j := range jobs {
		known[j.UID] = true
	}
	for _, ref := range cj.Status.Active {
		if known[ref.UID] {
			continue
		}
		j, err := c.client.BatchV1().Jobs(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err), err == nil && j.UID != ref.UID:
			out = append(out, ref.UID)
		case err != nil:
			return nil, err
		}
	}
	return out, nil
}

// start creates the Job of a start time that has come, and tells how long it is until the next one.
func (c *Controller) start(ctx context.Context, cj *batchv1.CronJob) (time.Duration, error) {
	if cj.DeletionTimestamp != nil {
		return 0, nil
	}
	schedule, err := parse(cj)
	switch {
	case errors.Is(err, errZone):
		c.rec.Eventf(cj, corev1.EventTypeWarning, "UnknownTimeZone", "invalid timeZone: %v", err)
		return 0, nil
	case cj.Spec.Suspend != nil && *cj.Spec.Suspend:
		return 0, nil
	case err != nil:
		c.rec.Event(cj, corev1.EventTypeWarning, "UnparseableSchedule", err.Error())
		return 0, nil
	}
	now := c.now()
	t, err := timetable(cj, schedule, now)
	if err != nil {
		c.rec.Eventf(cj, corev1.EventTypeWarning, "InvalidSchedule", "invalid schedule: %s : %s", cj.Spec.Schedule, err)
		return 0, nil
	}
	if t.due.IsZero() {
		return t.wait, nil
	}
	if t.missed {
		c.rec.Event(cj, corev1.EventTypeWarning, "TooManyMissedTimes",
			"too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew")
	}
	if d := cj.Spec.StartingDeadlineSeconds; d != nil && t.due.Add(time.Duration(*d)*time.Second).Before(now) {
		c.rec.Eventf(cj, corev1.EventTypeWarning, "MissSchedule", "Missed scheduled time to start a job: %s", t.due.UTC().Format(time.RFC1123Z))
		return t.wait, nil
	}
	name := jobName(cj, t.due)
	for _, ref := range cj.Status.Active {
		if ref.Name == name {
			return t.wait, nil // served already
		}
	}
	if cj.Spec.ConcurrencyPolicy == batchv1.ForbidConcurrent && len(cj.Status.Active) > 0 {
		c.rec.Event(cj, corev1.EventTypeNormal, "JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid")
		return t.wait, nil
	}
	if cj.Spec.ConcurrencyPolicy == batchv1.ReplaceConcurrent {
		for _, ref := range cj.Status.Active {
			if err := c.deleteJob(ctx, cj, ref.Name, ref.UID); err != nil {
				return 0, fmt.Errorf("could not replace job %s/%s: %w", ref.Namespace, ref.Name, err)
			}
		}
	}
	return t.wait, c.createJob(ctx, cj, t.due)
}

func (c *Controller) createJob(ctx context.Context, cj *batchv1.CronJob, at time.Time) error {
	api := c.client.BatchV1().Jobs(cj.Namespace)
	want := newJob(cj, at)
	j, err := api.Create(ctx, want, metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err): // made before, but the status write failed
		if j, err = api.Get(ctx, want.Name, metav1.GetOptions{}); err != nil {
			return err
		}
		if !metav1.IsControlledBy(j, cj) {
			return nil // someone else's Job has the name: this start time is lost
		}
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil
	case err != nil:
		c.rec.Eventf(cj, corev1.EventTypeWarning, "FailedCreate", "Error creating job: %v", err)
		return err
	default:
		c.rec.Eventf(cj, corev1.EventTypeNormal, "SuccessfulCreate", "Created job %v", j.Name)
	}
	if !isActive(cj, j.UID) && ended(j) == "" {
		cj.Status.Active = append(cj.Status.Active, corev1.ObjectReference{
			APIVersion: batchv1.SchemeGroupVersion.String(), Kind: "Job", Namespace: j.Namespace, Name: j.Name,
			UID: j.UID, ResourceVersion: j.ResourceVersion,
		})
	}
	cj.Status.LastScheduleTime = &metav1.Time{Time: at}
	return nil
}

func (c *Controller) deleteJob(ctx context.Context, cj *batchv1.CronJob, name string, uid types.UID) error {
	background := metav1.DeletePropagationBackground
	err := c.client.BatchV1().Jobs(cj.Namespace).Delete(ctx, name, metav1.DeleteOptions{
		PropagationPolicy: &background, Preconditions: &metav1.Preconditions{UID: &uid},
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		c.rec.Eventf(cj, corev1.EventTypeWarning, "FailedDelete", "Deleted job: %v", err)
		return err
	}
	drop(cj, uid)
	c.rec.Eventf(cj, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted job %v", name)
	return nil
}
