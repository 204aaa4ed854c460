package job

import (
	"math"
	"slices"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// noIndex is the index of a pod that has none.
const noIndex = -1

func indexed(j *batchv1.Job) bool {
	return j.Spec.CompletionMode != nil && *j.Spec.CompletionMode == batchv1.IndexedCompletion
}

// perIndex says whether failures are counted for each index by itself.
func perIndex(j *batchv1.Job) bool { return indexed(j) && j.Spec.BackoffLimitPerIndex != nil }

// replacesFailedOnly says whether a pod that is still terminating keeps its successor waiting.
func replacesFailedOnly(j *batchv1.Job) bool {
	return j.Spec.PodReplacementPolicy != nil && *j.Spec.PodReplacementPolicy == batchv1.Failed
}

func suspended(j *batchv1.Job) bool { return j.Spec.Suspend != nil && *j.Spec.Suspend }

func orElse(p *int32, d int32) int32 {
	if p == nil {
		return d
	}
	return *p
}

func completions(j *batchv1.Job) int { return int(orElse(j.Spec.Completions, math.MaxInt32)) }
func parallelism(j *batchv1.Job) int { return int(orElse(j.Spec.Parallelism, 1)) }

// backoffLimit is a Job's, or the default of the API.
func backoffLimit(j *batchv1.Job) int32 {
	if perIndex(j) {
		return orElse(j.Spec.BackoffLimit, math.MaxInt32)
	}
	return orElse(j.Spec.BackoffLimit, 6)
}

// tracked says whether a pod still waits to be counted.
func tracked(p *corev1.Pod) bool { return slices.Contains(p.Finalizers, batchv1.JobTrackingFinalizer) }

// failed says whether a pod counts as failed. Unless only failed ones are replaced, being deleted is enough.
func failed(j *batchv1.Job, p *corev1.Pod) bool {
	if p.Status.Phase == corev1.PodFailed {
		return true
	}
	return !replacesFailedOnly(j) && p.DeletionTimestamp != nil && p.Status.Phase != corev1.PodSucceeded
}

func indexOf(p *corev1.Pod) int {
	i, err := strconv.Atoi(p.Annotations[batchv1.JobCompletionIndexAnnotation])
	if err != nil || i < 0 {
		return noIndex
	}
	return i
}

func inRange(j *batchv1.Job, i int) bool { return i != noIndex && i < completions(j) }

// countOf reads a number from a pod's annotation, 0 if there is none.
func countOf(p *corev1.Pod, annotation string) int32 {
	n, err := strconv.ParseInt(p.Annotations[annotation], 10, 32)
	if err != nil || n < 0 {
		return 0
	}
	return int32(n)
}

func condition(j *batchv1.Job, t batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range j.Status.Conditions {
		if j.Status.Conditions[i].Type == t {
			return &j.Status.Conditions[i]
		}
	}
	return nil
}

func isTrue(c *batchv1.JobCondition) bool { return c != nil && c.Status == corev1.ConditionTrue }

// Finished says whether a Job is Complete or Failed.
func Finished(j *batchv1.Job) bool {
	return isTrue(condition(j, batchv1.JobComplete)) || isTrue(condition(j, batchv1.JobFailed))
}

func newCondition(t batchv1.JobConditionType, reason, message string, now time.Time) *batchv1.JobCondition {
	return &batchv1.JobCondition{
		Type: t, Status: corev1.ConditionTrue, Reason: reason, Message: message,
		LastProbeTime: metav1.NewTime(now), LastTransitionTime: metav1.NewTime(now),
	}
}

// setCondition adds or changes a condition and says whether that was news. A false one is not added.
func setCondition(j *batchv1.Job, c *batchv1.JobCondition) bool {
	have := condition(j, c.Type)
	if have == nil {
		if c.Status == corev1.ConditionFalse {
			return false
		}
		j.Status.Conditions = append(j.Status.Conditions, *c)
		return true
	}
	if have.Status == c.Status && have.Reason == c.Reason && have.Message == c.Message {
		return false
	}
	*have = *c
	return true
}
