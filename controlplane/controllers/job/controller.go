// Package job runs the pods of Jobs until enough of them have succeeded, or the Job has failed.
//
// Every pod carries the finalizer batch.kubernetes.io/job-tracking until it is counted, so that none is lost or counted
// twice, whatever crashes (see account.go).
//
//	view ─ evaluate ─► outlook ─ verdict? ─ no ──► manage ─► create, delete
//	                                      └ yes ─► delete all that runs
//	                           ─ account ─► status write ─► finalizers removed ─► status write, Complete or Failed
//
// Reads: Jobs, pods. Writes: Job status; pods (create, delete, adopt, release, finalizer); events on Jobs.
package job

import (
	"context"
	"fmt"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/mote-edge/mote/controlplane/controllers/keyqueue"
	"github.com/mote-edge/mote/controlplane/controllers/owned"
)

const workers = 4

var kind = batchv1.SchemeGroupVersion.WithKind("Job")

// Controller looks after all Jobs but those that name another controller in spec.managedBy.
type Controller struct {
	client   kubernetes.Interface
	lister   batchlisters.JobLister
	pods     owned.Pods
	index    cache.Indexer
	rec      record.EventRecorder
	versions *owned.Versions
	queue    *keyqueue.Queue[types.NamespacedName] // of Jobs
	strays   *keyqueue.Queue[types.NamespacedName] // of pods with a finalizer and no Job that would remove it
	ready    []cache.InformerSynced

	mu     sync.Mutex
	memory map[types.UID]*memory
}

// memory is what is known of a Job beyond the cache.
type memory struct {
	failures failures
	freed    sets.Set[types.UID] // pods whose finalizer was removed, until the cache shows it
}

// New registers with the informers and starts nothing.
func New(client kubernetes.Interface, f informers.SharedInformerFactory, rec record.EventRecorder) (*Controller, error) {
	jobs, pods := f.Batch().V1().Jobs(), f.Core().V1().Pods()
	c := &Controller{
		client: client, lister: jobs.Lister(), rec: rec, index: pods.Informer().GetIndexer(),
		pods:     owned.Pods{Client: client, Lister: pods.Lister(), Recorder: rec, Pending: owned.NewPending()},
		versions: owned.NewVersions(), memory: map[types.UID]*memory{},
		ready: []cache.InformerSynced{jobs.Informer().HasSynced, pods.Informer().HasSynced},
	}
	c.queue = keyqueue.New("job", workers, c.reconcile)
	c.strays = keyqueue.New("job-strays", 1, c.freeStray)
	err := owned.Follow(jobs.Informer(), c.forget, pods.Informer(), owned.Handlers{
		Kind: kind.Kind, Owner: c.queue.Add, Orphan: c.orphan, Gone: c.pods.Gone,
	})
	if err != nil {
		return nil, err
	}
	_, err = pods.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: c.maybeStray, UpdateFunc: func(_, cur any) { c.maybeStray(cur) },
	})
	if err != nil {
		return nil, fmt.Errorf("watch the pods of Jobs: %w", err)
	}
	return c, nil
}

// Run works until ctx is done. The informers are started by the caller.
func (c *Controller) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { _ = c.strays.RunWhenSynced(ctx, c.ready...) })
	return c.queue.RunWhenSynced(ctx, c.ready...)
}

func (c *Controller) orphan(pod metav1.Object) {
	all, err := c.lister.Jobs(pod.GetNamespace()).List(labels.Everything())
	if err != nil {
		return
	}
	for _, j := range all {
		if owned.Selects(j.Spec.Selector, pod) {
			c.queue.Add(types.NamespacedName{Namespace: j.Namespace, Name: j.Name})
		}
	}
}

// forget is called when a Job was deleted. Pods that it leaves behind can't go before their finalizer.
func (c *Controller) forget(uid types.UID) {
	c.pods.Forget(uid)
	c.versions.Forget(uid)
	c.mu.Lock()
	delete(c.memory, uid)
	c.mu.Unlock()
	for _, p := range owned.Of[*corev1.Pod](c.index, uid) {
		c.maybeStray(p)
	}
}

func (c *Controller) recall(uid types.UID) *memory {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.memory[uid]
	if m == nil {
		m = &memory{freed: sets.New[types.UID]()}
		c.memory[uid] = m
	}
	return m // used by the one worker that has the Job
}

func external(j *batchv1.Job) bool {
	return j.Spec.ManagedBy != nil && *j.Spec.ManagedBy != batchv1.JobControllerName
}

func (c *Controller) reconcile(ctx context.Context, key types.NamespacedName) error {
	cached, err := c.lister.Jobs(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if external(cached) || !c.versions.Fresh(cached.UID, cached.ResourceVersion) {
		return nil // not ours; or the event of our last write is still to come
	}
	if Finished(cached) {
		c.forget(cached.UID)
		return nil
	}
	if m := cached.Spec.CompletionMode; m != nil && *m != batchv1.NonIndexedCompletion && *m != batchv1.IndexedCompletion {
		c.rec.Event(cached, corev1.EventTypeWarning, "UnknownCompletionMode", "Skipped Job sync because completion mode is unknown")
		return nil
	}
	j := cached.DeepCopy()
	if j.Status.UncountedTerminatedPods == nil {
		j.Status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	}
	pods, err := c.claim(ctx, j)
	if err != nil {
		return err
	}
	mem := c.recall(j.UID)
	mem.observe(pods)
	settled, wait := c.pods.Settled(j.UID, c.pods.Look)
	if !settled {
		c.queue.AddAfter(key, wait)
	}
	now := time.Now()
	if j.Status.StartTime == nil && !suspended(j) {
		t := metav1.NewTime(now)
		j.Status.StartTime = &t
	}
	v := view{job: j, pods: pods, freed: mem.freed, settled: settled, past: mem.failures, now: now}
	o := evaluate(v)
	if o.recheck > 0 {
		c.queue.AddAfter(key, o.recheck)
	}
	active, flush, workErr := c.work(ctx, key, v, &o)
	flush = flush || active != j.Status.Active || j.Status.Ready == nil || *j.Status.Ready != o.ready ||
		j.Status.Terminating == nil || *j.Status.Terminating != o.terminating
	j.Status.Active, j.Status.Ready, j.Status.Terminating = active, &o.ready, &o.terminating
	if err := c.track(ctx, v, &o, mem, flush); err != nil {
		return err
	}
	return workErr
}

// observe drops what the cache shows by now.
func (m *memory) observe(pods []*corev1.Pod) {
	if len(m.freed) == 0 {
		return
	}
	still := sets.New[types.UID]()
	for _, p := range pods {
		if tracked(p) && m.freed.Has(p.UID) {
			still.Insert(p.UID)
		}
	}
	m.freed = still
}

func (c *Controller) claim(ctx context.Context, j *batchv1.Job) ([]*corev1.Pod, error) {
	selector, err := metav1.LabelSelectorAsSelector(j.Spec.Selector)
	if err != nil {
		return nil, fmt.Errorf("selector of Job %s/%s: %w", j.Namespace, j.Name, err)
	}
	claimer := owned.Claimer[*corev1.Pod]{
		Owner: j, Kind: kind, Selector: selector, Finalizers: []string{batchv1.JobTrackingFinalizer}, Patch: c.pods.Patch,
		Live: func(ctx context.Context) (metav1.Object, error) {
			return c.client.BatchV1().Jobs(j.Namespace).Get(ctx, j.Name, metav1.GetOptions{})
		},
	}
	pods, err := claimer.Claim(ctx, append(owned.Of[*corev1.Pod](c.index, j.UID), owned.Orphans[*corev1.Pod](c.index, j.Namespace)...))
	for i, p := range pods {
		if !metav1.IsControlledBy(p, j) && !tracked(p) { // just adopted
			pods[i] = p.DeepCopy()
			pods[i].Finalizers = append(pods[i].Finalizers, batchv1.JobTrackingFinalizer)
		}
	}
	return pods, err
}

// work creates and deletes pods. It returns how many are active afterwards, whether the status must be written, and
// leaves the verdict in o only if nothing runs any more.
func (c *Controller) work(ctx context.Context, key types.NamespacedName, v view, o *outlook) (active int32, flush bool, err error) {
	j := v.job
	active = int32(len(o.active))
	if o.verdict != nil {
		n, err := c.remove(ctx, j, o, o.active, false)
		if n != active || !v.settled {
			o.verdict = nil
		}
		return active - n, false, err
	}
	managed := v.settled && j.DeletionTimestamp == nil
	if managed {
		p := manage(v, *o)
		if p.wait > 0 {
			c.queue.AddAfter(key, p.wait)
		}
		if len(p.remove) > 0 {
			var n int32
			n, err = c.remove(ctx, j, o, p.remove, true)
			active -= n
		}
		if p.create > 0 {
			var n int
			n, err = c.create(ctx, j, p, o.replaceable)
			active += int32(n)
		}
	}
	complete := o.succeeded > 0
	if j.Spec.Completions != nil {
		complete = o.succeeded >= *j.Spec.Completions
	}
	switch {
	case complete && active == 0 && v.settled: // a pod just made, that the cache doesn't show yet, counts
		o.verdict = newCondition(batchv1.JobSuccessCriteriaMet, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods", v.now)
	case managed:
		flush = c.noteSuspension(j, v.now)
	}
	return active, flush, err
}

func (c *Controller) noteSuspension(j *batchv1.Job, now time.Time) bool {
	if suspended(j) {
		if !setCondition(j, newCondition(batchv1.JobSuspended, "JobSuspended", "Job suspended", now)) {
			return false
		}
		j.Status.StartTime = nil
		c.rec.Event(j, corev1.EventTypeNormal, "Suspended", "Job suspended")
		return true
	}
	resumed := newCondition(batchv1.JobSuspended, "JobResumed", "Job resumed", now)
	resumed.Status = corev1.ConditionFalse
	if !setCondition(j, resumed) {
		return false
	}
	t := metav1.NewTime(now)
	j.Status.StartTime = &t
	c.rec.Event(j, corev1.EventTypeNormal, "Resumed", "Job resumed")
	return true
}

// remove deletes pods; discount: without counting them as failed. It returns how many are being deleted.
func (c *Controller) remove(ctx context.Context, j *batchv1.Job, o *outlook, pods []*corev1.Pod, discount bool) (int32, error) {
	n, err := owned.Parallel(ctx, len(pods), func(ctx context.Context, i int) error {
		if discount && tracked(pods[i]) {
			if err := c.free(ctx, pods[i]); err != nil {
				return err
			}
		}
		return c.pods.Delete(ctx, j, pods[i])
	})
	if n == len(pods) {
		for _, p := range pods {
			if owned.Ready(p) {
				o.ready--
			}
		}
	}
	o.terminating += int32(n)
	return int32(n), err
}

func (c *Controller) create(ctx context.Context, j *batchv1.Job, p plan, replaceable map[int]*corev1.Pod) (int, error) {
	return owned.SlowStart(ctx, p.create, func(ctx context.Context, i int) error {
		index := noIndex
		if len(p.indexes) > 0 {
			index = p.indexes[i]
		}
		_, err := c.pods.Create(ctx, j, newPod(j, index, replaceable[index]))
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
		return err
	})
}

// track writes the status and frees the pods that are on record.
func (c *Controller) track(ctx context.Context, v view, o *outlook, mem *memory, flush bool) error {
	j := v.job
	free, changed, more := account(v, o)
	final, pronounced := pronounce(v, o.verdict)
	if flush || changed || pronounced {
		if err := c.writeStatus(ctx, j); err != nil {
			return err
		}
		mem.failures = o.failures
	}
	_, freeErr := owned.Parallel(ctx, len(free), func(ctx context.Context, i int) error {
		if err := c.free(ctx, free[i]); err != nil {
			return err
		}
		c.mu.Lock()
		mem.freed.Insert(free[i].UID)
		c.mu.Unlock()
		return nil
	})
	held := sets.New[types.UID]()
	for _, p := range v.pods {
		if tracked(p) && !mem.freed.Has(p.UID) {
			held.Insert(p.UID)
		}
	}
	struck := strikeOff(&j.Status, held)
	done := freeErr == nil && !more && finish(j, final)
	if struck || done {
		if err := c.writeStatus(ctx, j); err != nil {
			return err
		}
	}
	if done {
		c.report(j, final)
	}
	if more {
		c.queue.Add(types.NamespacedName{Namespace: j.Namespace, Name: j.Name})
	}
	return freeErr
}

func (c *Controller) report(j *batchv1.Job, final *batchv1.JobCondition) {
	if final.Type == batchv1.JobFailed {
		c.rec.Event(j, corev1.EventTypeWarning, final.Reason, final.Message)
		return
	}
	if j.Spec.Completions != nil && j.Status.Succeeded > *j.Spec.Completions {
		c.rec.Event(j, corev1.EventTypeWarning, "TooManySucceededPods", "Too many succeeded pods running after completion count reached")
	}
	c.rec.Event(j, corev1.EventTypeNormal, "Completed", "Job completed")
}

func (c *Controller) writeStatus(ctx context.Context, j *batchv1.Job) error {
	updated, err := c.client.BatchV1().Jobs(j.Namespace).UpdateStatus(ctx, j, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("status of Job %s/%s: %w", j.Namespace, j.Name, err)
	}
	j.ResourceVersion = updated.ResourceVersion
	c.versions.Wrote(j.UID, updated.ResourceVersion)
	return nil
}
