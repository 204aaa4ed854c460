package validation

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func job(j *batchv1.Job) field.ErrorList {
	l := &list{}
	jobSpec(l, &j.Spec, specPath)
	if j.Spec.Selector == nil {
		l.required(specPath.Child("selector"), "")
	} else {
		selector(l, j.Spec.Selector, specPath.Child("selector"))
		if sel, err := metav1.LabelSelectorAsSelector(j.Spec.Selector); err == nil && !sel.Matches(labels.Set(j.Spec.Template.Labels)) {
			l.add(field.Invalid(specPath.Child("template", "metadata", "labels"), j.Spec.Template.Labels, "`selector` does not match template `labels`"))
		}
	}
	if indexed(&j.Spec) && j.Spec.Completions != nil && *j.Spec.Completions > 0 {
		if msgs := validation.IsDNS1123Label(fmt.Sprintf("%s-%d", j.Name, *j.Spec.Completions-1)); len(msgs) > 0 {
			l.add(field.Invalid(field.NewPath("metadata").Child("name"), j.Name, fmt.Sprintf("will not able to create pod with invalid DNS label: %s-%d", j.Name, *j.Spec.Completions-1)))
		}
	}
	return l.ErrorList
}

func indexed(s *batchv1.JobSpec) bool {
	return s.CompletionMode != nil && *s.CompletionMode == batchv1.IndexedCompletion
}

func jobSpec(l *list, s *batchv1.JobSpec, p *field.Path) {
	count(l, s.Parallelism, p.Child("parallelism"))
	count(l, s.Completions, p.Child("completions"))
	if s.ActiveDeadlineSeconds != nil {
		l.notNegative(p.Child("activeDeadlineSeconds"), *s.ActiveDeadlineSeconds)
	}
	count(l, s.BackoffLimit, p.Child("backoffLimit"))
	count(l, s.TTLSecondsAfterFinished, p.Child("ttlSecondsAfterFinished"))
	count(l, s.BackoffLimitPerIndex, p.Child("backoffLimitPerIndex"))
	count(l, s.MaxFailedIndexes, p.Child("maxFailedIndexes"))
	if s.CompletionMode != nil {
		oneOf(l, p.Child("completionMode"), *s.CompletionMode, batchv1.IndexedCompletion, batchv1.NonIndexedCompletion)
	}
	switch {
	case indexed(s):
		if s.Completions == nil {
			l.required(p.Child("completions"), "when completion mode is Indexed")
		}
		if s.Parallelism != nil && s.Completions != nil && *s.Parallelism > 100000 && *s.Completions > 100000 {
			l.add(field.Invalid(p.Child("parallelism"), *s.Parallelism, "must be less than or equal to 100000 when completion mode is Indexed"))
		}
		if s.MaxFailedIndexes != nil && s.Completions != nil && *s.MaxFailedIndexes > *s.Completions {
			l.add(field.Invalid(p.Child("maxFailedIndexes"), *s.MaxFailedIndexes, "must be less than or equal to completions"))
		}
	default:
		if s.BackoffLimitPerIndex != nil {
			l.add(field.Invalid(p.Child("backoffLimitPerIndex"), *s.BackoffLimitPerIndex, "requires indexed completion mode"))
		}
		if s.MaxFailedIndexes != nil {
			l.add(field.Invalid(p.Child("maxFailedIndexes"), *s.MaxFailedIndexes, "requires indexed completion mode"))
		}
		if s.SuccessPolicy != nil {
			l.add(field.Invalid(p.Child("successPolicy"), s.SuccessPolicy, "requires indexed completion mode"))
		}
	}
	if s.MaxFailedIndexes != nil && s.BackoffLimitPerIndex == nil {
		l.required(p.Child("backoffLimitPerIndex"), "when maxFailedIndexes is specified")
	}
	if s.ManagedBy != nil {
		l.addAll(validation.IsDomainPrefixedPath(p.Child("managedBy"), *s.ManagedBy))
	}
	if s.PodReplacementPolicy != nil {
		oneOf(l, p.Child("podReplacementPolicy"), *s.PodReplacementPolicy, batchv1.Failed, batchv1.TerminatingOrFailed)
		if s.PodFailurePolicy != nil && *s.PodReplacementPolicy != batchv1.Failed {
			l.add(field.NotSupported(p.Child("podReplacementPolicy"), *s.PodReplacementPolicy, []batchv1.PodReplacementPolicy{batchv1.Failed}))
		}
	}
	failurePolicy(l, s, p.Child("podFailurePolicy"))
	successPolicy(l, s, p.Child("successPolicy"))
	podTemplate(l, &s.Template, p.Child("template"))
	rp := p.Child("template", "spec", "restartPolicy")
	switch s.Template.Spec.RestartPolicy {
	case corev1.RestartPolicyNever:
	case corev1.RestartPolicyOnFailure:
		if s.PodFailurePolicy != nil {
			l.add(field.Invalid(rp, s.Template.Spec.RestartPolicy, "only \"Never\" is supported when podFailurePolicy is specified"))
		}
	default:
		l.add(field.NotSupported(rp, s.Template.Spec.RestartPolicy, []corev1.RestartPolicy{corev1.RestartPolicyNever, corev1.RestartPolicyOnFailure}))
	}
}

func failurePolicy(l *list, s *batchv1.JobSpec, p *field.Path) {
	if s.PodFailurePolicy == nil {
		return
	}
	names := map[string]bool{}
	for _, cs := range [][]corev1.Container{s.Template.Spec.Containers, s.Template.Spec.InitContainers} {
		for i := range cs {
			names[cs[i].Name] = true
		}
	}
	for i, r := range s.PodFailurePolicy.Rules {
		ip := p.Child("rules").Index(i)
		requiredOneOf(l, ip.Child("action"), r.Action, "", batchv1.PodFailurePolicyActionCount, batchv1.PodFailurePolicyActionFailIndex, batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyActionIgnore)
		if r.Action == batchv1.PodFailurePolicyActionFailIndex && s.BackoffLimitPerIndex == nil {
			l.add(field.Invalid(ip.Child("action"), r.Action, "requires the backoffLimitPerIndex to be set"))
		}
		switch {
		case r.OnExitCodes != nil && len(r.OnPodConditions) > 0:
			l.add(field.Invalid(ip, field.OmitValueType{}, "specifying both OnExitCodes and OnPodConditions is not supported"))
		case r.OnExitCodes == nil && len(r.OnPodConditions) == 0:
			l.add(field.Invalid(ip, field.OmitValueType{}, "specifying one of OnExitCodes and OnPodConditions is required"))
		}
		if c := r.OnExitCodes; c != nil {
			cp := ip.Child("onExitCodes")
			requiredOneOf(l, cp.Child("operator"), c.Operator, "", batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn)
			if c.ContainerName != nil && !names[*c.ContainerName] {
				l.add(field.Invalid(cp.Child("containerName"), *c.ContainerName, "must be one of the container or initContainer names in the pod template"))
			}
			if len(c.Values) == 0 {
				l.add(field.Invalid(cp.Child("values"), c.Values, "at least one value is required"))
			}
			seen := unique[int32]{}
			for k, v := range c.Values {
				if c.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn && v == 0 {
					l.add(field.Invalid(cp.Child("values").Index(k), v, "must not be 0 for the In operator"))
				}
				seen.check(l, cp.Child("values").Index(k), v, v)
			}
			if !slices.IsSorted(c.Values) {
				l.add(field.Invalid(cp.Child("values"), c.Values, "must be ordered"))
			}
		}
		for k, c := range r.OnPodConditions {
			l.qualifiedName(ip.Child("onPodConditions").Index(k).Child("type"), string(c.Type))
			if c.Status == "" {
				continue
			}
			oneOf(l, ip.Child("onPodConditions").Index(k).Child("status"), c.Status, corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown)
		}
	}
}

func successPolicy(l *list, s *batchv1.JobSpec, p *field.Path) {
	if s.SuccessPolicy == nil {
		return
	}
	if len(s.SuccessPolicy.Rules) == 0 {
		l.required(p.Child("rules"), "at least one rules must be specified when the successPolicy is specified")
	}
	for i, r := range s.SuccessPolicy.Rules {
		ip := p.Child("rules").Index(i)
		if r.SucceededIndexes == nil && r.SucceededCount == nil {
			l.required(ip, "at least one of succeededCount or succeededIndexes must be specified")
		}
		if r.SucceededIndexes != nil && s.Completions != nil {
			if err := indexList(*r.SucceededIndexes, int(*s.Completions)); err != nil {
				l.add(field.Invalid(ip.Child("succeededIndexes"), *r.SucceededIndexes, err.Error()))
			}
		}
		if r.SucceededCount != nil {
			count(l, r.SucceededCount, ip.Child("succeededCount"))
			if s.Completions != nil && *r.SucceededCount > *s.Completions {
				l.add(field.Invalid(ip.Child("succeededCount"), *r.SucceededCount, fmt.Sprintf("must be less than or equal to %d (the number of specified completions)", *s.Completions)))
			}
		}
	}
}

// indexList checks "1,3-5": rising, and below the number of completions.
func indexList(s string, completions int) error {
	last := -1
	for _, part := range strings.Split(s, ",") {
		from, to, isRange := strings.Cut(part, "-")
		a, err := strconv.Atoi(from)
		if err != nil {
			return fmt.Errorf("cannot convert string to integer for index: %q", from)
		}
		b := a
		if isRange {
			if b, err = strconv.Atoi(to); err != nil {
				return fmt.Errorf("cannot convert string to integer for index: %q", to)
			}
			if a >= b {
				return fmt.Errorf("non-increasing order, previous: %d, current: %d", a, b)
			}
		}
		if a <= last {
			return fmt.Errorf("non-increasing order, previous: %d, current: %d", last, a)
		}
		if b >= completions {
			return fmt.Errorf("too large index: %q", part)
		}
		last = b
	}
	return nil
}

func jobUpdate(j, old *batchv1.Job) field.ErrorList {
	l := &list{}
	jobSpec(l, &j.Spec, specPath)
	grows := indexed(&j.Spec) && j.Spec.Completions != nil && j.Spec.Parallelism != nil && *j.Spec.Completions == *j.Spec.Parallelism
	if !grows { // an elastic indexed job changes both together
		l.immutable(specPath.Child("completions"), apiequality.Semantic.DeepEqual(j.Spec.Completions, old.Spec.Completions), j.Spec.Completions)
	}
	l.immutable(specPath.Child("selector"), apiequality.Semantic.DeepEqual(j.Spec.Selector, old.Spec.Selector), j.Spec.Selector)
	l.immutable(specPath.Child("completionMode"), apiequality.Semantic.DeepEqual(j.Spec.CompletionMode, old.Spec.CompletionMode), j.Spec.CompletionMode)
	l.immutable(specPath.Child("podFailurePolicy"), apiequality.Semantic.DeepEqual(j.Spec.PodFailurePolicy, old.Spec.PodFailurePolicy), j.Spec.PodFailurePolicy)
	l.immutable(specPath.Child("backoffLimitPerIndex"), apiequality.Semantic.DeepEqual(j.Spec.BackoffLimitPerIndex, old.Spec.BackoffLimitPerIndex), j.Spec.BackoffLimitPerIndex)
	l.immutable(specPath.Child("successPolicy"), apiequality.Semantic.DeepEqual(j.Spec.SuccessPolicy, old.Spec.SuccessPolicy), j.Spec.SuccessPolicy)
	l.immutable(specPath.Child("managedBy"), apiequality.Semantic.DeepEqual(j.Spec.ManagedBy, old.Spec.ManagedBy), j.Spec.ManagedBy)
	now, was := j.Spec.Template.DeepCopy(), &old.Spec.Template
	if old.Spec.Suspend != nil && *old.Spec.Suspend && old.Status.StartTime == nil {
		// A suspended job that never ran may still learn where to run.
		now.Spec.NodeSelector, now.Spec.Affinity, now.Spec.Tolerations = was.Spec.NodeSelector, was.Spec.Affinity, was.Spec.Tolerations
		now.Labels, now.Annotations, now.Spec.SchedulingGates = was.Labels, was.Annotations, was.Spec.SchedulingGates
		for i := range now.Spec.Containers {
			if i < len(was.Spec.Containers) {
				now.Spec.Containers[i].Resources = was.Spec.Containers[i].Resources
			}
		}
	}
	l.immutable(specPath.Child("template"), apiequality.Semantic.DeepEqual(now, was), j.Spec.Template)
	return l.ErrorList
}

func cronJob(c *batchv1.CronJob) field.ErrorList {
	l := &list{}
	if len(c.Name) > 52 {
		l.add(field.Invalid(field.NewPath("metadata").Child("name"), c.Name, "must be no more than 52 characters"))
	}
	cronJobSpec(l, c)
	return l.ErrorList
}

func cronJobSpec(l *list, c *batchv1.CronJob) {
	switch {
	case c.Spec.Schedule == "":
		l.required(specPath.Child("schedule"), "")
	default:
		if _, err := cron.ParseStandard(c.Spec.Schedule); err != nil {
			l.add(field.Invalid(specPath.Child("schedule"), c.Spec.Schedule, err.Error()))
		}
		if strings.Contains(c.Spec.Schedule, "TZ") {
			l.add(field.Invalid(specPath.Child("schedule"), c.Spec.Schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"))
		}
	}
	if z := c.Spec.TimeZone; z != nil {
		if *z == "" {
			l.add(field.Invalid(specPath.Child("timeZone"), *z, "timeZone must be nil or non-empty string"))
		} else if strings.EqualFold(*z, "Local") {
			l.add(field.Invalid(specPath.Child("timeZone"), *z, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"))
		} else if _, err := time.LoadLocation(*z); err != nil {
			l.add(field.Invalid(specPath.Child("timeZone"), *z, err.Error()))
		}
	}
	if c.Spec.StartingDeadlineSeconds != nil {
		l.notNegative(specPath.Child("startingDeadlineSeconds"), *c.Spec.StartingDeadlineSeconds)
	}
	count(l, c.Spec.SuccessfulJobsHistoryLimit, specPath.Child("successfulJobsHistoryLimit"))
	count(l, c.Spec.FailedJobsHistoryLimit, specPath.Child("failedJobsHistoryLimit"))
	oneOf(l, specPath.Child("concurrencyPolicy"), c.Spec.ConcurrencyPolicy, batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent)
	tp := specPath.Child("jobTemplate", "spec")
	jobSpec(l, &c.Spec.JobTemplate.Spec, tp)
	if m := c.Spec.JobTemplate.Spec.ManualSelector; m != nil && *m {
		oneOf(l, tp.Child("manualSelector"), "true", "nil", "false")
	}
}

func cronJobUpdate(c, _ *batchv1.CronJob) field.ErrorList {
	l := &list{}
	cronJobSpec(l, c)
	return l.ErrorList
}
