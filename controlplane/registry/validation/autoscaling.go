package validation

import (
	"fmt"
	"strings"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func autoscaler(h *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	l := &list{}
	scalesToZero := false
	for _, m := range h.Spec.Metrics {
		scalesToZero = scalesToZero || m.Type == autoscalingv2.ObjectMetricSourceType || m.Type == autoscalingv2.ExternalMetricSourceType
	}
	if n := h.Spec.MinReplicas; n != nil {
		low := int32(1)
		if scalesToZero {
			low = 0
		}
		if *n < low {
			l.add(field.Invalid(specPath.Child("minReplicas"), *n, fmt.Sprintf("must be greater than or equal to %d", low)))
		}
	}
	if h.Spec.MaxReplicas < 1 {
		l.add(field.Invalid(specPath.Child("maxReplicas"), h.Spec.MaxReplicas, "must be greater than 0"))
	}
	if h.Spec.MinReplicas != nil && h.Spec.MaxReplicas < *h.Spec.MinReplicas {
		l.add(field.Invalid(specPath.Child("maxReplicas"), h.Spec.MaxReplicas, "must be greater than or equal to `minReplicas`"))
	}
	scaleTarget(l, h.Spec.ScaleTargetRef, specPath.Child("scaleTargetRef"))
	for i := range h.Spec.Metrics {
		metric(l, &h.Spec.Metrics[i], specPath.Child("metrics").Index(i))
	}
	if b := h.Spec.Behavior; b != nil {
		scalingRules(l, b.ScaleUp, specPath.Child("behavior", "scaleUp"))
		scalingRules(l, b.ScaleDown, specPath.Child("behavior", "scaleDown"))
	}
	return l.ErrorList
}

func scaleTarget(l *list, ref autoscalingv2.CrossVersionObjectReference, p *field.Path) {
	l.pathSegmentRequired(p.Child("kind"), ref.Kind)
	l.pathSegmentRequired(p.Child("name"), ref.Name)
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	switch {
	case err != nil:
		l.add(field.Invalid(p.Child("apiVersion"), ref.APIVersion, err.Error()))
	case gv.Group == "" && ref.Kind != "ReplicationController":
		l.add(field.Invalid(p.Child("apiVersion"), ref.APIVersion, "apiVersion must specify API group"))
	}
}

func metric(l *list, m *autoscalingv2.MetricSpec, p *field.Path) {
	have := map[autoscalingv2.MetricSourceType]bool{
		autoscalingv2.ObjectMetricSourceType: m.Object != nil, autoscalingv2.PodsMetricSourceType: m.Pods != nil, autoscalingv2.ResourceMetricSourceType: m.Resource != nil,
		autoscalingv2.ExternalMetricSourceType: m.External != nil, autoscalingv2.ContainerResourceMetricSourceType: m.ContainerResource != nil,
	}
	set, known := have[m.Type]
	switch {
	case m.Type == "":
		l.required(p.Child("type"), "must specify a metric source type")
		fallthrough
	case !known:
		l.add(field.NotSupported(p.Child("type"), m.Type, []string{"ContainerResource", "External", "Object", "Pods", "Resource"}))
	case !set:
		l.required(p.Child(strings.ToLower(string(m.Type[:1]))+string(m.Type[1:])), "must populate information for the given metric source")
	}
	if o := m.Object; o != nil {
		op := p.Child("object")
		l.pathSegmentRequired(op.Child("describedObject", "kind"), o.DescribedObject.Kind)
		l.pathSegmentRequired(op.Child("describedObject", "name"), o.DescribedObject.Name)
		if _, err := schema.ParseGroupVersion(o.DescribedObject.APIVersion); err != nil {
			l.add(field.Invalid(op.Child("describedObject", "apiVersion"), o.DescribedObject.APIVersion, err.Error()))
		}
		metricName(l, o.Metric, op.Child("metric"))
		metricTarget(l, o.Target, op.Child("target"))
		if o.Target.Value == nil && o.Target.AverageValue == nil {
			l.required(op.Child("target", "averageValue"), "must set either a target value or averageValue")
		}
	}
	if o := m.Pods; o != nil {
		op := p.Child("pods")
		metricName(l, o.Metric, op.Child("metric"))
		metricTarget(l, o.Target, op.Child("target"))
		if o.Target.AverageValue == nil || o.Target.AverageValue.Sign() <= 0 {
			l.required(op.Child("target", "averageValue"), "must specify a positive target averageValue")
		}
	}
	if o := m.External; o != nil {
		op := p.Child("external")
		metricName(l, o.Metric, op.Child("metric"))
		metricTarget(l, o.Target, op.Child("target"))
		switch {
		case o.Target.Value == nil && o.Target.AverageValue == nil:
			l.required(op.Child("target", "averageValue"), "must set either a target value for metric or a per-pod target")
		case o.Target.Value != nil && o.Target.AverageValue != nil:
			l.add(field.Forbidden(op.Child("target", "value"), "may not set both a target value for metric and a per-pod target"))
		}
	}
	if o := m.Resource; o != nil {
		if o.Name == "" {
			l.required(p.Child("resource", "name"), "must specify a resource name")
		}
		resourceTarget(l, o.Target, p.Child("resource", "target"))
	}
	if o := m.ContainerResource; o != nil {
		op := p.Child("containerResource")
		switch {
		case o.Name == "":
			l.required(op.Child("name"), "must specify a resource name")
		default:
			containerResourceName(l, o.Name, op.Child("name"))
		}
		if o.Container == "" {
			l.required(op.Child("container"), "must specify a container")
		} else {
			l.dnsLabel(op.Child("container"), o.Container)
		}
		resourceTarget(l, o.Target, op.Child("target"))
	}
}

func containerResourceName(l *list, name corev1.ResourceName, p *field.Path) {
	l.qualifiedName(p, string(name))
	if native(name) && !standardContainerResources.Has(name) && !hugePages(name) {
		l.add(field.Invalid(p, name, "must be a standard resource for containers"))
	}
}

func metricName(l *list, m autoscalingv2.MetricIdentifier, p *field.Path) {
	if m.Name == "" {
		l.required(p.Child("name"), "must specify a metric name")
	} else {
		l.pathSegment(p.Child("name"), m.Name)
	}
	if m.Selector != nil {
		selector(l, m.Selector, p.Child("selector"))
	}
}

func metricTarget(l *list, t autoscalingv2.MetricTarget, p *field.Path) {
	if t.Type == "" {
		l.required(p.Child("type"), "must specify a metric target type")
	}
	switch t.Type {
	case autoscalingv2.UtilizationMetricType, autoscalingv2.ValueMetricType, autoscalingv2.AverageValueMetricType:
	default:
		l.add(field.Invalid(p.Child("type"), t.Type, "must be either Utilization, Value, or AverageValue"))
	}
	positive := func(name string, q *resource.Quantity) {
		if q != nil && q.Sign() != 1 {
			l.add(field.Invalid(p.Child(name), q, "must be positive"))
		}
	}
	positive("value", t.Value)
	positive("averageValue", t.AverageValue)
	if t.AverageUtilization != nil && *t.AverageUtilization < 1 {
		l.add(field.Invalid(p.Child("averageUtilization"), *t.AverageUtilization, "must be greater than 0"))
	}
}

func resourceTarget(l *list, t autoscalingv2.MetricTarget, p *field.Path) {
	metricTarget(l, t, p)
	switch {
	case t.AverageUtilization == nil && t.AverageValue == nil:
		l.required(p.Child("averageUtilization"), "must set either a target raw value or a target utilization")
	case t.AverageUtilization != nil && t.AverageValue != nil:
		l.add(field.Forbidden(p.Child("averageValue"), "may not set both a target raw value and a target utilization"))
	}
}

func scalingRules(l *list, r *autoscalingv2.HPAScalingRules, p *field.Path) {
	if r == nil {
		return
	}
	if s := r.StabilizationWindowSeconds; s != nil {
		if *s < 0 {
			l.add(field.Invalid(p.Child("stabilizationWindowSeconds"), *s, "must be greater than or equal to zero"))
		} else if *s > 3600 {
			l.add(field.Invalid(p.Child("stabilizationWindowSeconds"), *s, "must be less than or equal to 3600"))
		}
	}
	if r.SelectPolicy != nil {
		oneOf(l, p.Child("selectPolicy"), *r.SelectPolicy, autoscalingv2.DisabledPolicySelect, autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect)
	}
	if t := r.Tolerance; t != nil && t.Sign() < 0 {
		l.add(field.Invalid(p.Child("tolerance"), t, "must be greater than or equal to 0"))
	}
	if len(r.Policies) == 0 {
		l.required(p.Child("policies"), "must specify at least one Policy")
	}
	for i, policy := range r.Policies {
		pp := p.Child("policies").Index(i)
		oneOf(l, pp.Child("type"), policy.Type, autoscalingv2.PercentScalingPolicy, autoscalingv2.PodsScalingPolicy)
		if policy.Value <= 0 {
			l.add(field.Invalid(pp.Child("value"), policy.Value, "must be greater than zero"))
		}
		if policy.PeriodSeconds <= 0 {
			l.add(field.Invalid(pp.Child("periodSeconds"), policy.PeriodSeconds, "must be greater than zero"))
		} else if policy.PeriodSeconds > 1800 {
			l.add(field.Invalid(pp.Child("periodSeconds"), policy.PeriodSeconds, "must be less than or equal to 1800"))
		}
	}
}
