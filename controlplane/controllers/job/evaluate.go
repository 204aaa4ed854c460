package job

import (
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/mote-edge/mote/controlplane/controllers/owned"
)

// view is what a decision about a Job is made on. The Job is a copy, whose status account changes.
type view struct {
	job     *batchv1.Job
	pods    []*corev1.Pod
	freed   sets.Set[types.UID] // pods whose finalizer was removed, though the cache doesn't show it
	settled bool                // the cache shows all pods created and deleted before
	past    failures
	now     time.Time
}

// outlook is what follows from a view.
type outlook struct {
	active      []*corev1.Pod
	terminating int32
	ready       int32
	succeeded   int32 // counted, uncounted and new
	failed      int32

	counted     indexes // succeeded indexes on record
	done        indexes // and with those of pods that finished since
	failedIdx   indexes
	replaceable map[int]*corev1.Pod // the last failed pod of an index that will be tried again
	failures    failures            // with the pods that finished since

	verdict *batchv1.JobCondition // SuccessCriteriaMet or FailureTarget, or Failed after a FailureTarget; nil: goes on
	recheck time.Duration         // until the deadline, 0 if there is none
}

// evaluate counts pods and judges whether the Job has ended.
func evaluate(v view) outlook {
	j := v.job
	var o outlook
	for _, p := range v.pods {
		switch {
		case owned.Active(p):
			o.active = append(o.active, p)
			if owned.Ready(p) {
				o.ready++
			}
		case owned.Terminating(p):
			o.terminating++
		}
	}
	uncounted := j.Status.UncountedTerminatedPods
	newSucceeded := v.fresh(uncounted.Succeeded, func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded })
	newFailed := v.fresh(uncounted.Failed, func(p *corev1.Pod) bool { return failed(j, p) })
	o.failures = v.past.add(newSucceeded, newFailed)
	o.succeeded = j.Status.Succeeded + int32(len(newSucceeded)+len(uncounted.Succeeded))
	o.failed = j.Status.Failed + int32(len(uncounted.Failed))
	for _, p := range newFailed {
		if rule(j.Spec.PodFailurePolicy, p).counts {
			o.failed++
		}
	}
	o.verdict = earlierVerdict(v)
	if o.verdict == nil {
		o.verdict = limits(v, o.failed)
	}
	if o.verdict == nil && j.Spec.ActiveDeadlineSeconds != nil && j.Status.StartTime != nil && !suspended(j) {
		o.recheck = j.Status.StartTime.Add(time.Duration(*j.Spec.ActiveDeadlineSeconds) * time.Second).Sub(v.now)
	}
	if indexed(j) {
		o.judgeIndexes(v)
	}
	return o
}

// fresh are the pods still tracked, valid and not on record yet that pass.
func (v view) fresh(onRecord []types.UID, pass func(*corev1.Pod) bool) (out []*corev1.Pod) {
	skip := sets.New(onRecord...)
	for _, p := range v.pods {
		if v.holds(p) && !skip.Has(p.UID) && (!indexed(v.job) || inRange(v.job, indexOf(p))) && pass(p) {
			out = append(out, p)
		}
	}
	return out
}

// holds says whether a pod still has the tracking finalizer.
func (v view) holds(p *corev1.Pod) bool { return tracked(p) && !v.freed.Has(p.UID) }

// earlierVerdict is one that was written before, or that the failure policy pronounces.
func earlierVerdict(v view) *batchv1.JobCondition {
	j := v.job
	if c := condition(j, batchv1.JobSuccessCriteriaMet); isTrue(c) {
		return c.DeepCopy()
	}
	if c := condition(j, batchv1.JobFailureTarget); isTrue(c) {
		return newCondition(batchv1.JobFailed, c.Reason, c.Message, v.now)
	}
	if j.Spec.PodFailurePolicy != nil {
		for _, p := range v.pods {
			if !failed(j, p) {
				continue
			}
			if r := rule(j.Spec.PodFailurePolicy, p); r.failJob != "" {
				return newCondition(batchv1.JobFailureTarget, batchv1.JobReasonPodFailurePolicy, r.failJob, v.now)
			}
		}
	}
	return nil
}

// limits checks the back-off limit and the deadline.
func limits(v view, failures int32) *batchv1.JobCondition {
	j := v.job
	if failures > backoffLimit(j) || restartedTooOften(j, v.pods) {
		return newCondition(batchv1.JobFailureTarget, batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit", v.now)
	}
	if j.Spec.ActiveDeadlineSeconds != nil && j.Status.StartTime != nil && !suspended(j) &&
		v.now.Sub(j.Status.StartTime.Time) >= time.Duration(*j.Spec.ActiveDeadlineSeconds)*time.Second {
		return newCondition(batchv1.JobFailureTarget, batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline", v.now)
	}
	return nil
}

// restartedTooOften counts the restarts in running pods, when failed containers are restarted in place.
func restartedTooOften(j *batchv1.Job, pods []*corev1.Pod) bool {
	if j.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyOnFailure {
		return false
	}
	n := int32(0)
	for _, p := range pods {
		if p.Status.Phase != corev1.PodRunning && p.Status.Phase != corev1.PodPending {
			continue
		}
		for i := range p.Status.InitContainerStatuses {
			n += p.Status.InitContainerStatuses[i].RestartCount
		}
		for i := range p.Status.ContainerStatuses {
			n += p.Status.ContainerStatuses[i].RestartCount
		}
	}
	return n >= max(1, backoffLimit(j))
}

// judgeIndexes works out which indexes succeeded and failed, and what that means for the Job.
func (o *outlook) judgeIndexes(v view) {
	j, all := v.job, completions(v.job)
	o.counted = parseIndexes(j.Status.CompletedIndexes, all)
	if j.Status.FailedIndexes != nil {
		o.failedIdx = parseIndexes(*j.Status.FailedIndexes, all)
	}
	var succeeded, lost []int
	for _, p := range v.pods {
		i := indexOf(p)
		if !inRange(j, i) || !tracked(p) {
			continue
		}
		if p.Status.Phase == corev1.PodSucceeded {
			succeeded = append(succeeded, i)
		}
		if perIndex(j) && indexLost(j, p) {
			lost = append(lost, i)
		}
	}
	o.done = o.counted.with(succeeded...)
	o.succeeded = int32(o.done.len())
	if perIndex(j) {
		o.failedIdx = o.failedIdx.with(lost...)
		switch n := o.failedIdx.len(); {
		case o.verdict != nil:
		case j.Spec.MaxFailedIndexes != nil && n > int(*j.Spec.MaxFailedIndexes):
			o.verdict = newCondition(batchv1.JobFailureTarget, batchv1.JobReasonMaxFailedIndexesExceeded,
				"Job has exceeded the specified maximal number of failed indexes", v.now)
		case n > 0 && n+o.done.len() >= all:
			o.verdict = newCondition(batchv1.JobFailureTarget, batchv1.JobReasonFailedIndexes, "Job has failed indexes", v.now)
		}
		o.replaceable = replaceable(v, o)
	}
	if o.verdict == nil {
		if msg, ok := succeededEarly(j.Spec.SuccessPolicy, all, o.done); ok {
			o.verdict = newCondition(batchv1.JobSuccessCriteriaMet, batchv1.JobReasonSuccessPolicy, msg, v.now)
		}
	}
}

// indexLost says whether the failure of a pod was the last that its index may have.
func indexLost(j *batchv1.Job, p *corev1.Pod) bool {
	if !failed(j, p) {
		return false
	}
	r := rule(j.Spec.PodFailurePolicy, p)
	if r.action != nil && *r.action == batchv1.PodFailurePolicyActionFailIndex {
		return true
	}
	return r.counts && countOf(p, batchv1.JobIndexFailureCountAnnotation) >= *j.Spec.BackoffLimitPerIndex
}

// replaceable finds, for each index that will be tried again, the pod that failed last. It keeps its finalizer until
// its successor exists, since it carries the number of failures so far.
func replaceable(v view, o *outlook) map[int]*corev1.Pod {
	running := indexesOf(o.active)
	out := map[int]*corev1.Pod{}
	for _, p := range v.fresh(nil, func(p *corev1.Pod) bool { return failed(v.job, p) }) {
		i := indexOf(p)
		if o.done.has(i) || o.failedIdx.has(i) || running.has(i) {
			continue
		}
		if last := out[i]; last == nil || (attempts(last) <= attempts(p) && !finishedAt(p).Before(finishedAt(last))) {
			out[i] = p
		}
	}
	return out
}

// attempts is how many pods of the index failed before this one.
func attempts(p *corev1.Pod) int32 {
	return countOf(p, batchv1.JobIndexFailureCountAnnotation) + countOf(p, batchv1.JobIndexIgnoredFailureCountAnnotation)
}

func indexesOf(pods []*corev1.Pod) indexes {
	var list []int
	for _, p := range pods {
		if i := indexOf(p); i != noIndex {
			list = append(list, i)
		}
	}
	return indexes(nil).with(list...)
}
