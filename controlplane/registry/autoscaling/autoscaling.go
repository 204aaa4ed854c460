// Package autoscaling holds horizontal pod autoscalers, served as autoscaling/v1
// and v2 from one storage.
//
// Reads: the objects it serves.
// Writes: the objects it serves.
package autoscaling

import (
	"fmt"
	"strings"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"

	registry "github.com/mote-edge/mote/controlplane/registry/resource"
)

// Storages builds the storages of autoscaling/v2; v1 serves the same ones.
func Storages(c *registry.Config) (registry.Storages, error) {
	to := registry.Storages{}
	return to, registry.AddAll(c, to, &autoscalers)
}

type hpa = autoscalingv2.HorizontalPodAutoscaler

var autoscalers = registry.Descriptor[*hpa]{
	GV: autoscalingv2.SchemeGroupVersion, Plural: "horizontalpodautoscalers", Singular: "horizontalpodautoscaler",
	ShortNames: []string{"hpa"}, Categories: []string{"all"},
	New:       func() *hpa { return &hpa{} },
	NewList:   func() runtime.Object { return &autoscalingv2.HorizontalPodAutoscalerList{} },
	HasStatus: true, Generation: true,
	AlsoVersions: []string{"v1"},
	Columns: []registry.Column[*hpa]{
		registry.Name[*hpa](),
		{Name: "Reference", Value: func(h *hpa) any { return h.Spec.ScaleTargetRef.Kind + "/" + h.Spec.ScaleTargetRef.Name }},
		{Name: "Targets", Value: func(h *hpa) any { return targets(h.Spec.Metrics, h.Status.CurrentMetrics) }},
		{Name: "MinPods", Value: func(h *hpa) any {
			if h.Spec.MinReplicas == nil {
				return "<unset>"
			}
			return fmt.Sprint(*h.Spec.MinReplicas)
		}},
		{Name: "MaxPods", Value: func(h *hpa) any { return int64(h.Spec.MaxReplicas) }},
		{Name: "Replicas", Value: func(h *hpa) any { return int64(h.Status.CurrentReplicas) }},
		registry.Age[*hpa](),
	},
}

// targets lists "current/target" of the first two metrics.
func targets(specs []autoscalingv2.MetricSpec, statuses []autoscalingv2.MetricStatus) string {
	if len(specs) == 0 {
		return registry.None
	}
	var parts []string
	for i, spec := range specs {
		var status autoscalingv2.MetricStatus
		if i < len(statuses) {
			status = statuses[i]
		}
		parts = append(parts, target(spec, status))
	}
	if n := len(parts); n > 2 {
		return strings.Join(parts[:2], ", ") + fmt.Sprintf(" + %d more...", n-2)
	}
	return strings.Join(parts, ", ")
}

func target(spec autoscalingv2.MetricSpec, status autoscalingv2.MetricStatus) string {
	value := func(t autoscalingv2.MetricTarget, have *autoscalingv2.MetricValueStatus) string {
		if t.AverageValue != nil {
			var q *resource.Quantity
			if have != nil {
				q = have.AverageValue
			}
			return quantity(q) + "/" + t.AverageValue.String() + " (avg)"
		}
		var q *resource.Quantity
		if have != nil {
			q = have.Value
		}
		return quantity(q) + "/" + quantity(t.Value)
	}
	perPod := func(name string, t autoscalingv2.MetricTarget, have *autoscalingv2.MetricValueStatus) string {
		current, want := "<unknown>", "<auto>"
		if t.AverageValue != nil {
			if have != nil {
				current = quantity(have.AverageValue)
			}
			return name + ": " + current + "/" + t.AverageValue.String()
		}
		if have != nil && have.AverageUtilization != nil {
			current = fmt.Sprintf("%d%%", *have.AverageUtilization)
		}
		if t.AverageUtilization != nil {
			want = fmt.Sprintf("%d%%", *t.AverageUtilization)
		}
		return name + ": " + current + "/" + want
	}
	switch {
	case spec.External != nil:
		var have *autoscalingv2.MetricValueStatus
		if status.External != nil {
			have = &status.External.Current
		}
		return value(spec.External.Target, have)
	case spec.Object != nil:
		var have *autoscalingv2.MetricValueStatus
		if status.Object != nil {
			have = &status.Object.Current
		}
		return value(spec.Object.Target, have)
	case spec.Pods != nil:
		current := "<unknown>"
		if status.Pods != nil {
			current = quantity(status.Pods.Current.AverageValue)
		}
		return current + "/" + quantity(spec.Pods.Target.AverageValue)
	case spec.Resource != nil:
		var have *autoscalingv2.MetricValueStatus
		if status.Resource != nil {
			have = &status.Resource.Current
		}
		return perPod(string(spec.Resource.Name), spec.Resource.Target, have)
	case spec.ContainerResource != nil:
		var have *autoscalingv2.MetricValueStatus
		if status.ContainerResource != nil {
			have = &status.ContainerResource.Current
		}
		return perPod(string(spec.ContainerResource.Name), spec.ContainerResource.Target, have)
	}
	return "<unknown type>"
}

func quantity(q *resource.Quantity) string {
	if q == nil {
		return "<unknown>"
	}
	return q.String()
}
