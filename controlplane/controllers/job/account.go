package job

import (
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
)

// maxUncounted bounds the pods taken on record at a time, to keep the status small.
const maxUncounted = 500

// Counting is safe against a crash at any point, since each finished pod is counted in three steps:
//
//  1. its UID is put on record in status.uncountedTerminatedPods (for an index, the index itself is recorded),
//  2. its finalizer is removed, after which it may vanish,
//  3. its UID is struck off and the counter raised, in one write.

// account does step 1, and step 3 for pods whose finalizer was seen to be gone. It returns the pods for step 2 and
// whether the status changed. more says that there are pods left for the next round.
func account(v view, o *outlook) (free []*corev1.Pod, changed, more bool) {
	st := &v.job.Status
	held := sets.New[types.UID]()
	for _, p := range v.pods {
		if v.holds(p) {
			held.Insert(p.UID)
		}
	}
	changed = strikeOff(st, held)
	record := st.UncountedTerminatedPods
	succeeded, failedUIDs := sets.New(record.Succeeded...), sets.New(record.Failed...)
	var newIndexes []int
	pods := v.pods
	if indexed(v.job) {
		pods = slices.Clone(pods)
		slices.SortStableFunc(pods, func(a, b *corev1.Pod) int { return indexOf(a) - indexOf(b) })
	}
	for _, p := range pods {
		if !v.holds(p) {
			continue
		}
		lost := failed(v.job, p)
		if !mayFree(v, o, p, lost) {
			continue
		}
		free = append(free, p)
		i := indexOf(p)
		switch {
		case p.Status.Phase == corev1.PodSucceeded && !failedUIDs.Has(p.UID):
			if indexed(v.job) {
				if inRange(v.job, i) && !o.counted.has(i) {
					newIndexes = append(newIndexes, i)
					changed = true
				}
			} else if !succeeded.Has(p.UID) {
				record.Succeeded = append(record.Succeeded, p.UID)
				changed = true
			}
		case lost || (o.verdict != nil && o.verdict.Type != batchv1.JobSuccessCriteriaMet):
			if !failedUIDs.Has(p.UID) && (!indexed(v.job) || inRange(v.job, i)) && rule(v.job.Spec.PodFailurePolicy, p).counts {
				record.Failed = append(record.Failed, p.UID)
				changed = true
			}
		}
		if len(newIndexes)+len(record.Succeeded)+len(record.Failed) >= maxUncounted {
			more = true
			break
		}
	}
	if indexed(v.job) {
		changed = recordIndexes(v.job, o, newIndexes) || changed
	}
	return free, changed, more
}

// strikeOff moves those that hold no finalizer any more from the record to the counters.
func strikeOff(st *batchv1.JobStatus, held sets.Set[types.UID]) bool {
	record := st.UncountedTerminatedPods
	gone := func(uid types.UID) bool { return !held.Has(uid) }
	s, f := len(record.Succeeded), len(record.Failed)
	record.Succeeded = slices.DeleteFunc(slices.Clone(record.Succeeded), gone)
	record.Failed = slices.DeleteFunc(slices.Clone(record.Failed), gone)
	st.Succeeded += int32(s - len(record.Succeeded))
	st.Failed += int32(f - len(record.Failed))
	return s != len(record.Succeeded) || f != len(record.Failed)
}

// mayFree says whether a pod can be taken on record now.
func mayFree(v view, o *outlook, p *corev1.Pod, lost bool) bool {
	if v.job.DeletionTimestamp != nil || o.verdict != nil || p.Status.Phase == corev1.PodSucceeded {
		return true
	}
	if !lost {
		return false
	}
	last := o.replaceable[indexOf(p)]
	return last == nil || last.UID != p.UID
}

func recordIndexes(j *batchv1.Job, o *outlook, add []int) (changed bool) {
	o.done = o.counted.with(add...)
	if s := o.done.String(); s != j.Status.CompletedIndexes {
		j.Status.CompletedIndexes = s
		changed = true
	}
	j.Status.Succeeded = int32(o.done.len())
	if !perIndex(j) {
		return changed
	}
	s := o.failedIdx.String()
	if j.Status.FailedIndexes == nil || *j.Status.FailedIndexes != s {
		j.Status.FailedIndexes = &s
		changed = true
	}
	return changed
}

// pronounce writes the verdict's first condition and returns the final one, Complete or Failed, to be set by finish.
func pronounce(v view, verdict *batchv1.JobCondition) (final *batchv1.JobCondition, changed bool) {
	switch {
	case verdict == nil:
		return nil, false
	case verdict.Type == batchv1.JobFailureTarget:
		v.job.Status.Conditions = append(v.job.Status.Conditions, *verdict)
		return newCondition(batchv1.JobFailed, verdict.Reason, verdict.Message, v.now), true
	case verdict.Type == batchv1.JobSuccessCriteriaMet:
		if !isTrue(condition(v.job, batchv1.JobSuccessCriteriaMet)) {
			v.job.Status.Conditions = append(v.job.Status.Conditions, *verdict)
			changed = true
		}
		return newCondition(batchv1.JobComplete, verdict.Reason, verdict.Message, v.now), changed
	default:
		return verdict, false
	}
}

// finish sets the final condition once every pod is counted and none terminates any more.
func finish(j *batchv1.Job, final *batchv1.JobCondition) bool {
	record := j.Status.UncountedTerminatedPods
	if final == nil || len(record.Succeeded)+len(record.Failed) > 0 || (j.Status.Terminating != nil && *j.Status.Terminating > 0) {
		return false
	}
	setCondition(j, final)
	if final.Type == batchv1.JobComplete {
		j.Status.CompletionTime = &final.LastTransitionTime
	}
	return true
}
