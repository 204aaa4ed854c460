package cronjob

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// ended says how a Job ended; empty if it goes on.
func ended(j *batchv1.Job) batchv1.JobConditionType {
	for _, c := range j.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return c.Type
		}
	}
	return ""
}

// expired picks the finished Jobs beyond the history limits, oldest first.
func expired(cj *batchv1.CronJob, jobs []*batchv1.Job) []*batchv1.Job {
	pick := func(how batchv1.JobConditionType, limit *int32) []*batchv1.Job {
		if limit == nil {
			return nil
		}
		var list []*batchv1.Job
		for _, j := range jobs {
			if ended(j) == how {
				list = append(list, j)
			}
		}
		slices.SortFunc(list, func(a, b *batchv1.Job) int {
			return cmp.Or(compareStart(a, b), cmp.Compare(a.Name, b.Name))
		})
		return list[:max(0, len(list)-int(*limit))]
	}
	return append(pick(batchv1.JobComplete, cj.Spec.SuccessfulJobsHistoryLimit), pick(batchv1.JobFailed, cj.Spec.FailedJobsHistoryLimit)...)
}

// compareStart orders by start time; Jobs that never started come last.
func compareStart(a, b *batchv1.Job) int {
	sa, sb := a.Status.StartTime, b.Status.StartTime
	switch {
	case sa == nil && sb == nil:
		return 0
	case sa == nil:
		return 1
	case sb == nil:
		return -1
	default:
		return sa.Compare(sb.Time)
	}
}

// event is something to tell about a CronJob.
type event struct{ kind, reason, message string }

// settle brings the list of active Jobs and the last success up to date with the Jobs that exist. missing are active
// ones that don't exist any more.
func settle(cj *batchv1.CronJob, jobs []*batchv1.Job, missing []types.UID) (events []event) {
	for _, j := range jobs {
		how := ended(j)
		switch active := isActive(cj, j.UID); {
		case how == "" && !active && j.DeletionTimestamp == nil:
			events = append(events, event{corev1.EventTypeWarning, "UnexpectedJob", "Saw a job that the controller did not create or forgot: " + j.Name})
		case how != "" && active:
			drop(cj, j.UID)
			events = append(events, event{corev1.EventTypeNormal, "SawCompletedJob", fmt.Sprintf("Saw completed job: %s, condition: %v", j.Name, how)})
		}
		if t := j.Status.CompletionTime; how == batchv1.JobComplete && t != nil &&
			(cj.Status.LastSuccessfulTime == nil || t.After(cj.Status.LastSuccessfulTime.Time)) {
			cj.Status.LastSuccessfulTime = t
		}
	}
	for _, uid := range missing {
		for _, ref := range cj.Status.Active {
			if ref.UID == uid {
				events = append(events, event{corev1.EventTypeNormal, "MissingJob", "Active job went missing: " + ref.Name})
			}
		}
		drop(cj, uid)
	}
	return events
}

func isActive(cj *batchv1.CronJob, uid types.UID) bool {
	return slices.ContainsFunc(cj.Status.Active, func(r corev1.ObjectReference) bool { return r.UID == uid })
}

func drop(cj *batchv1.CronJob, uid types.UID) {
	cj.Status.Active = slices.DeleteFunc(slices.Clone(cj.Status.Active), func(r corev1.ObjectReference) bool { return r.UID == uid })
}

// jobName is the same for every attempt to serve a start time, so that it is served once.
func jobName(cj *batchv1.CronJob, at time.Time) string {
	return fmt.Sprintf("%s-%d", cj.Name, at.Unix()/60)
}

func newJob(cj *batchv1.CronJob, at time.Time) *batchv1.Job {
	t := cj.Spec.JobTemplate.DeepCopy()
	zone := time.UTC
	if cj.Spec.TimeZone != nil {
		if z, err := time.LoadLocation(*cj.Spec.TimeZone); err == nil {
			zone = z
		}
	}
	a := maps.Clone(t.Annotations)
	if a == nil {
		a = map[string]string{}
	}
	a[batchv1.CronJobScheduledTimestampAnnotation] = at.In(zone).Format(time.RFC3339)
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Name: jobName(cj, at), Namespace: cj.Namespace, Labels: t.Labels, Annotations: a,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(cj, kind)},
		},
		Spec: t.Spec,
	}
}
