// Package batch holds the resources of batch/v1: jobs and cron jobs.
//
// Reads: the objects it serves.
// Writes: the objects it serves.
package batch

import (
	"context"
	"fmt"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/ptr"

	"github.com/mote-edge/mote/controlplane/registry/resource"
)

// Storages builds everything of batch/v1.
func Storages(c *resource.Config) (resource.Storages, error) {
	to := resource.Storages{}
	return to, resource.AddAll(c, to, &jobs, &cronJobs)
}

var jobs = resource.Descriptor[*batchv1.Job]{
	GV: batchv1.SchemeGroupVersion, Plural: "jobs", Singular: "job", Categories: []string{"all"},
	New:       func() *batchv1.Job { return &batchv1.Job{} },
	NewList:   func() runtime.Object { return &batchv1.JobList{} },
	HasStatus: true, Generation: true,
	// What batch/v1 has always done with the pods of a deleted job.
	GarbageCollection: rest.OrphanDependents,
	Fields: func(j *batchv1.Job) fields.Set {
		return fields.Set{"status.successful": strconv.Itoa(int(j.Status.Succeeded))}
	},
	PrepareCreate: func(_ context.Context, j *batchv1.Job) {
		if !ptr.Deref(j.Spec.ManualSelector, false) {
			selectByUID(j)
		}
	},
	WarnCreate: func(_ context.Context, j *batchv1.Job) []string {
		if msgs := utilvalidation.IsDNS1123Label(j.Name); len(msgs) != 0 {
			return []string{fmt.Sprintf("metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: %v", msgs)}
		}
		return nil
	},
	Columns: append([]resource.Column[*batchv1.Job]{
		resource.Name[*batchv1.Job](),
		{Name: "Status", Doc: "Status of the job.", Value: jobStatus},
		{Name: "Completions", Value: completions},
		{Name: "Duration", Doc: "Time required to complete the job.", Value: jobDuration},
		resource.Age[*batchv1.Job](),
	}, resource.Pods(func(j *batchv1.Job) *corev1.PodSpec { return &j.Spec.Template.Spec },
		func(j *batchv1.Job) string { return resource.Selector(j.Spec.Selector) })...),
}

// selectByUID gives the pods of the job labels that no other job's pods have,
// and selects by them. A label that the user set stays: validation refuses it
// when it contradicts.
func selectByUID(j *batchv1.Job) {
	labels := j.Spec.Template.Labels
	if labels == nil {
		labels = map[string]string{}
		j.Spec.Template.Labels = labels
	}
	for key, value := range map[string]string{
		"job-name": j.Name, batchv1.JobNameLabel: j.Name,
		"controller-uid": string(j.UID), batchv1.ControllerUidLabel: string(j.UID),
	} {
		if _, ok := labels[key]; !ok {
			labels[key] = value
		}
	}
	if j.Spec.Selector == nil {
		j.Spec.Selector = &metav1.LabelSelector{}
	}
	if j.Spec.Selector.MatchLabels == nil {
		j.Spec.Selector.MatchLabels = map[string]string{}
	}
	if _, ok := j.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel]; !ok {
		j.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel] = string(j.UID)
	}
}

func jobStatus(j *batchv1.Job) any {
	is := map[batchv1.JobConditionType]bool{}
	for _, c := range j.Status.Conditions {
		if c.Status == corev1.ConditionTrue {
			is[c.Type] = true
		}
	}
	switch {
	case is[batchv1.JobComplete]:
		return "Complete"
	case is[batchv1.JobFailed]:
		return "Failed"
	case j.DeletionTimestamp != nil:
		return "Terminating"
	case is[batchv1.JobSuspended]:
		return "Suspended"
	case is[batchv1.JobFailureTarget]:
		return "FailureTarget"
	case is[batchv1.JobSuccessCriteriaMet]:
		return "SuccessCriteriaMet"
	}
	return "Running"
}

func completions(j *batchv1.Job) any {
	switch parallel := ptr.Deref(j.Spec.Parallelism, 0); {
	case j.Spec.Completions != nil:
		return fmt.Sprintf("%d/%d", j.Status.Succeeded, *j.Spec.Completions)
	case parallel > 1:
		return fmt.Sprintf("%d/1 of %d", j.Status.Succeeded, parallel)
	}
	return fmt.Sprintf("%d/1", j.Status.Succeeded)
}

func jobDuration(j *batchv1.Job) any {
	switch {
	case j.Status.StartTime == nil:
		return ""
	case j.Status.CompletionTime == nil:
		return duration.HumanDuration(time.Since(j.Status.StartTime.Time))
	}
	return duration.HumanDuration(j.Status.CompletionTime.Sub(j.Status.StartTime.Time))
}

var cronJobs = resource.Descriptor[*batchv1.CronJob]{
	GV: batchv1.SchemeGroupVersion, Plural: "cronjobs", Singular: "cronjob",
	ShortNames: []string{"cj"}, Categories: []string{"all"},
	New:       func() *batchv1.CronJob { return &batchv1.CronJob{} },
	NewList:   func() runtime.Object { return &batchv1.CronJobList{} },
	HasStatus: true, Generation: true,
	Columns: append([]resource.Column[*batchv1.CronJob]{
		resource.Name[*batchv1.CronJob](),
		{Name: "Schedule", Value: func(c *batchv1.CronJob) any { return c.Spec.Schedule }},
		{Name: "Timezone", Value: func(c *batchv1.CronJob) any { return ptr.Deref(c.Spec.TimeZone, resource.None) }},
		{Name: "Suspend", Type: "boolean", Value: func(c *batchv1.CronJob) any {
			if c.Spec.Suspend == nil {
				return "<unset>"
			}
			if *c.Spec.Suspend {
				return "True"
			}
			return "False"
		}},
		{Name: "Active", Type: "integer", Value: func(c *batchv1.CronJob) any { return int64(len(c.Status.Active)) }},
		{Name: "Last Schedule", Value: func(c *batchv1.CronJob) any {
			if c.Status.LastScheduleTime == nil {
				return resource.None
			}
			return resource.Since(*c.Status.LastScheduleTime)
		}},
		resource.Age[*batchv1.CronJob](),
	}, resource.Pods(func(c *batchv1.CronJob) *corev1.PodSpec { return &c.Spec.JobTemplate.Spec.Template.Spec },
		func(c *batchv1.CronJob) string { return resource.Selector(c.Spec.JobTemplate.Spec.Selector) })...),
}
