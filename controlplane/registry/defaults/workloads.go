package defaults

import (
	"math"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Deployment: one replica, a rolling update a quarter at a time.
func Deployment(d *appsv1.Deployment) {
	PodTemplateSpec(&d.Spec.Template)
	unset(&d.Spec.Replicas, 1)
	unset(&d.Spec.RevisionHistoryLimit, 10)
	unset(&d.Spec.ProgressDeadlineSeconds, 600)
	zero(&d.Spec.Strategy.Type, appsv1.RollingUpdateDeploymentStrategyType)
	if d.Spec.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
		unset(&d.Spec.Strategy.RollingUpdate, appsv1.RollingUpdateDeployment{})
		unset(&d.Spec.Strategy.RollingUpdate.MaxUnavailable, intstr.FromString("25%"))
		unset(&d.Spec.Strategy.RollingUpdate.MaxSurge, intstr.FromString("25%"))
	}
}

// ReplicaSet: one replica.
func ReplicaSet(rs *appsv1.ReplicaSet) {
	PodTemplateSpec(&rs.Spec.Template)
	unset(&rs.Spec.Replicas, 1)
}

// StatefulSet: one replica, in order, claims kept.
func StatefulSet(s *appsv1.StatefulSet) {
	PodTemplateSpec(&s.Spec.Template)
	zero(&s.Spec.PodManagementPolicy, appsv1.OrderedReadyPodManagement)
	zero(&s.Spec.UpdateStrategy.Type, appsv1.RollingUpdateStatefulSetStrategyType)
	if s.Spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType {
		unset(&s.Spec.UpdateStrategy.RollingUpdate, appsv1.RollingUpdateStatefulSetStrategy{})
		unset(&s.Spec.UpdateStrategy.RollingUpdate.Partition, 0)
		unset(&s.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
	}
	unset(&s.Spec.PersistentVolumeClaimRetentionPolicy, appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{})
	zero(&s.Spec.PersistentVolumeClaimRetentionPolicy.WhenDeleted, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	zero(&s.Spec.PersistentVolumeClaimRetentionPolicy.WhenScaled, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	unset(&s.Spec.Replicas, 1)
	unset(&s.Spec.RevisionHistoryLimit, 10)
	for i := range s.Spec.VolumeClaimTemplates {
		zero(&s.Spec.VolumeClaimTemplates[i].APIVersion, "v1")
		zero(&s.Spec.VolumeClaimTemplates[i].Kind, "PersistentVolumeClaim")
		PersistentVolumeClaim(&s.Spec.VolumeClaimTemplates[i])
	}
}

// DaemonSet: a rolling update, one node at a time.
func DaemonSet(d *appsv1.DaemonSet) {
	PodTemplateSpec(&d.Spec.Template)
	unset(&d.Spec.RevisionHistoryLimit, 10)
	zero(&d.Spec.UpdateStrategy.Type, appsv1.RollingUpdateDaemonSetStrategyType)
	if d.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		unset(&d.Spec.UpdateStrategy.RollingUpdate, appsv1.RollingUpdateDaemonSet{})
		unset(&d.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
		unset(&d.Spec.UpdateStrategy.RollingUpdate.MaxSurge, intstr.FromInt32(0))
	}
}

// Job: one pod to completion, six retries.
func Job(j *batchv1.Job) {
	PodTemplateSpec(&j.Spec.Template)
	if j.Spec.Completions == nil && j.Spec.Parallelism == nil {
		unset(&j.Spec.Completions, 1)
	}
	unset(&j.Spec.Parallelism, 1)
	if j.Spec.BackoffLimitPerIndex != nil {
		unset(&j.Spec.BackoffLimit, math.MaxInt32)
	}
	unset(&j.Spec.BackoffLimit, 6)
	unset(&j.Spec.CompletionMode, batchv1.NonIndexedCompletion)
	unset(&j.Spec.Suspend, false)
	if len(j.Labels) == 0 {
		j.Labels = j.Spec.Template.Labels
	}
	policy := batchv1.TerminatingOrFailed
	if p := j.Spec.PodFailurePolicy; p != nil {
		policy = batchv1.Failed
		for i := range p.Rules {
			for k := range p.Rules[i].OnPodConditions {
				zero(&p.Rules[i].OnPodConditions[k].Status, corev1.ConditionTrue)
			}
		}
	}
	unset(&j.Spec.PodReplacementPolicy, policy)
	unset(&j.Spec.ManualSelector, false)
}

// CronJob: runs may overlap; three good and one failed run are kept.
func CronJob(c *batchv1.CronJob) {
	PodTemplateSpec(&c.Spec.JobTemplate.Spec.Template)
	zero(&c.Spec.ConcurrencyPolicy, batchv1.AllowConcurrent)
	unset(&c.Spec.Suspend, false)
	unset(&c.Spec.SuccessfulJobsHistoryLimit, 3)
	unset(&c.Spec.FailedJobsHistoryLimit, 1)
}

// HorizontalPodAutoscalerV1: at least one replica.
func HorizontalPodAutoscalerV1(h *autoscalingv1.HorizontalPodAutoscaler) {
	unset(&h.Spec.MinReplicas, 1)
}

// HorizontalPodAutoscaler: at least one replica, 80 % of the requested CPU, and upstream's scaling behaviour where a part
// of it is given.
func HorizontalPodAutoscaler(h *autoscalingv2.HorizontalPodAutoscaler) {
	unset(&h.Spec.MinReplicas, 1)
	if len(h.Spec.Metrics) == 0 {
		eighty := int32(80)
		h.Spec.Metrics = []autoscalingv2.MetricSpec{{
			Type: autoscalingv2.ResourceMetricSourceType,
			Resource: &autoscalingv2.ResourceMetricSource{
				Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &eighty},
			},
		}}
	}
	b := h.Spec.Behavior
	if b == nil {
		return
	}
	unset(&b.ScaleUp, autoscalingv2.HPAScalingRules{})
	unset(&b.ScaleUp.StabilizationWindowSeconds, 0)
	scalingRules(b.ScaleUp, []autoscalingv2.HPAScalingPolicy{
		{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15}, {Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15},
	})
	unset(&b.ScaleDown, autoscalingv2.HPAScalingRules{})
	scalingRules(b.ScaleDown, []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15}})
}

func scalingRules(r *autoscalingv2.HPAScalingRules, policies []autoscalingv2.HPAScalingPolicy) {
	unset(&r.SelectPolicy, autoscalingv2.MaxChangePolicySelect)
	if r.Policies == nil {
		r.Policies = policies
	}
}
