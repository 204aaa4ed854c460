package ttlafterfinished

import (
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestEnd(t *testing.T) {
	at := time.Unix(1000, 0)
	job := func(ttl int32, kind batchv1.JobConditionType, status corev1.ConditionStatus) *batchv1.Job {
		j := &batchv1.Job{}
		if ttl >= 0 {
			j.Spec.TTLSecondsAfterFinished = &ttl
		}
		if kind != "" {
			j.Status.Conditions = []batchv1.JobCondition{{Type: kind, Status: status, LastTransitionTime: metav1.NewTime(at)}}
		}
		return j
	}
	leaving := job(10, batchv1.JobComplete, corev1.ConditionTrue)
	leaving.DeletionTimestamp = &metav1.Time{Time: at}
	for _, c := range []struct {
		name  string
		job   *batchv1.Job
		after time.Duration // negative: never
	}{
		{"runs", job(10, "", ""), -1},
		{"no limit", job(-1, batchv1.JobComplete, corev1.ConditionTrue), -1},
		{"complete", job(10, batchv1.JobComplete, corev1.ConditionTrue), 10 * time.Second},
		{"failed", job(0, batchv1.JobFailed, corev1.ConditionTrue), 0},
		{"was complete", job(10, batchv1.JobComplete, corev1.ConditionFalse), -1},
		{"suspended", job(10, batchv1.JobSuspended, corev1.ConditionTrue), -1},
		{"is being deleted", leaving, -1},
	} {
		got, ok := end(c.job)
		if ok != (c.after >= 0) || (ok && got.Sub(at) != c.after) {
			t.Errorf("%s: %v %v, want %v", c.name, got, ok, c.after)
		}
	}
}
