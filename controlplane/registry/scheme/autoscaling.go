package scheme

import (
	"encoding/json"
	"maps"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
)

// What v1 has no fields for travels in these annotations, as JSON of the v2
// types. Clients treat them as opaque; they are never stored.
const (
	hpaMetrics    = "autoscaling.alpha.kubernetes.io/metrics"
	hpaStatuses   = "autoscaling.alpha.kubernetes.io/current-metrics"
	hpaConditions = "autoscaling.alpha.kubernetes.io/conditions"
	hpaBehavior   = "autoscaling.alpha.kubernetes.io/behavior"
)

func addAutoscalingConversions(s *runtime.Scheme) error {
	return firstError(
		s.AddConversionFunc((*autoscalingv1.HorizontalPodAutoscaler)(nil), (*autoscalingv2.HorizontalPodAutoscaler)(nil),
			func(a, b any, _ conversion.Scope) error {
				return hpaToV2(a.(*autoscalingv1.HorizontalPodAutoscaler), b.(*autoscalingv2.HorizontalPodAutoscaler))
			}),
		s.AddConversionFunc((*autoscalingv2.HorizontalPodAutoscaler)(nil), (*autoscalingv1.HorizontalPodAutoscaler)(nil),
			func(a, b any, _ conversion.Scope) error {
				return hpaToV1(a.(*autoscalingv2.HorizontalPodAutoscaler), b.(*autoscalingv1.HorizontalPodAutoscaler))
			}),
		s.AddConversionFunc((*autoscalingv1.HorizontalPodAutoscalerList)(nil), (*autoscalingv2.HorizontalPodAutoscalerList)(nil),
			func(a, b any, _ conversion.Scope) error {
				in, out := a.(*autoscalingv1.HorizontalPodAutoscalerList), b.(*autoscalingv2.HorizontalPodAutoscalerList)
				out.ListMeta, out.Items = in.ListMeta, make([]autoscalingv2.HorizontalPodAutoscaler, len(in.Items))
				for i := range in.Items {
					if err := hpaToV2(&in.Items[i], &out.Items[i]); err != nil {
						return err
					}
				}
				return nil
			}),
		s.AddConversionFunc((*autoscalingv2.HorizontalPodAutoscalerList)(nil), (*autoscalingv1.HorizontalPodAutoscalerList)(nil),
			func(a, b any, _ conversion.Scope) error {
				in, out := a.(*autoscalingv2.HorizontalPodAutoscalerList), b.(*autoscalingv1.HorizontalPodAutoscalerList)
				out.ListMeta, out.Items = in.ListMeta, make([]autoscalingv1.HorizontalPodAutoscaler, len(in.Items))
				for i := range in.Items {
					if err := hpaToV1(&in.Items[i], &out.Items[i]); err != nil {
						return err
					}
				}
				return nil
			}),
	)
}

func hpaToV2(in *autoscalingv1.HorizontalPodAutoscaler, out *autoscalingv2.HorizontalPodAutoscaler) error {
	*out = autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: in.ObjectMeta,
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference(in.Spec.ScaleTargetRef),
			MinReplicas:    in.Spec.MinReplicas,
			MaxReplicas:    in.Spec.MaxReplicas,
		},
		Status: autoscalingv2.HorizontalPodAutoscalerStatus{
			ObservedGeneration: in.Status.ObservedGeneration,
			LastScaleTime:      in.Status.LastScaleTime,
			CurrentReplicas:    in.Status.CurrentReplicas,
			DesiredReplicas:    in.Status.DesiredReplicas,
		},
	}
	if p := in.Spec.TargetCPUUtilizationPercentage; p != nil {
		out.Spec.Metrics = append(out.Spec.Metrics, autoscalingv2.MetricSpec{
			Type: autoscalingv2.ResourceMetricSourceType,
			Resource: &autoscalingv2.ResourceMetricSource{
				Name:   corev1.ResourceCPU,
				Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: p},
			},
		})
	}
	if p := in.Status.CurrentCPUUtilizationPercentage; p != nil {
		out.Status.CurrentMetrics = append(out.Status.CurrentMetrics, autoscalingv2.MetricStatus{
			Type: autoscalingv2.ResourceMetricSourceType,
			Resource: &autoscalingv2.ResourceMetricStatus{
				Name:    corev1.ResourceCPU,
				Current: autoscalingv2.MetricValueStatus{AverageUtilization: p},
			},
		})
	}
	carried := map[string]func([]byte) error{
		hpaMetrics:    func(b []byte) error { return appendJSON(b, &out.Spec.Metrics) },
		hpaStatuses:   func(b []byte) error { return appendJSON(b, &out.Status.CurrentMetrics) },
		hpaConditions: func(b []byte) error { return json.Unmarshal(b, &out.Status.Conditions) },
		hpaBehavior:   func(b []byte) error { return json.Unmarshal(b, &out.Spec.Behavior) },
	}
	for key, read := range carried {
		value, ok := in.Annotations[key]
		if !ok {
			continue
		}
		// A value that doesn't parse was never ours: it is dropped, as a status
		// written by a client is.
		_ = read([]byte(value))
		out.Annotations = without(out.Annotations, key)
	}
	return nil
}

func hpaToV1(in *autoscalingv2.HorizontalPodAutoscaler, out *autoscalingv1.HorizontalPodAutoscaler) error {
	*out = autoscalingv1.HorizontalPodAutoscaler{
		ObjectMeta: in.ObjectMeta,
		Spec: autoscalingv1.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv1.CrossVersionObjectReference(in.Spec.ScaleTargetRef),
			MinReplicas:    in.Spec.MinReplicas,
			MaxReplicas:    in.Spec.MaxReplicas,
		},
		Status: autoscalingv1.HorizontalPodAutoscalerStatus{
			ObservedGeneration: in.Status.ObservedGeneration,
			LastScaleTime:      in.Status.LastScaleTime,
			CurrentReplicas:    in.Status.CurrentReplicas,
			DesiredReplicas:    in.Status.DesiredReplicas,
		},
	}
	var metrics []autoscalingv2.MetricSpec
	for _, m := range in.Spec.Metrics {
		if r := m.Resource; r != nil && r.Name == corev1.ResourceCPU && r.Target.AverageUtilization != nil &&
			out.Spec.TargetCPUUtilizationPercentage == nil {
			out.Spec.TargetCPUUtilizationPercentage = r.Target.AverageUtilization
			continue
		}
		metrics = append(metrics, m)
	}
	var statuses []autoscalingv2.MetricStatus
	for _, m := range in.Status.CurrentMetrics {
		if r := m.Resource; r != nil && r.Name == corev1.ResourceCPU && r.Current.AverageUtilization != nil &&
			out.Status.CurrentCPUUtilizationPercentage == nil {
			out.Status.CurrentCPUUtilizationPercentage = r.Current.AverageUtilization
			continue
		}
		statuses = append(statuses, m)
	}
	carried := map[string]any{}
	if len(metrics) > 0 {
		carried[hpaMetrics] = metrics
	}
	if len(statuses) > 0 {
		carried[hpaStatuses] = statuses
	}
	if len(in.Status.Conditions) > 0 {
		carried[hpaConditions] = in.Status.Conditions
	}
	if in.Spec.Behavior != nil {
		carried[hpaBehavior] = in.Spec.Behavior
	}
	if len(carried) == 0 {
		return nil
	}
	out.Annotations = maps.Clone(out.Annotations)
	if out.Annotations == nil {
		out.Annotations = map[string]string{}
	}
	for key, value := range carried {
		encoded, err := json.Marshal(value)
		if err != nil {
			return err
		}
		out.Annotations[key] = string(encoded)
	}
	return nil
}

func appendJSON[T any](b []byte, list *[]T) error {
	var more []T
	if err := json.Unmarshal(b, &more); err != nil {
		return err
	}
	*list = append(*list, more...)
	return nil
}

// without returns m less one key, and leaves m alone: conversions may share
// their input's maps.
func without(m map[string]string, key string) map[string]string {
	out := maps.Clone(m)
	delete(out, key)
	return out
}
