package quota

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	podresource "k8s.io/component-helpers/resource"
)

var podResources = sets.New(corev1.ResourcePods, corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage,
	corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsEphemeralStorage,
	corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage)

func podEvaluator(list generic.ListFuncByNamespace) quota.Evaluator {
	gr := schema.GroupResource{Resource: "pods"}
	return &evaluator{
		gr: gr, list: list, usage: podUsage, scope: podScope, constraints: podConstraints,
		resources: func(r corev1.ResourceName) bool {
			return podResources.Has(r) || isCount(r, gr) || hasAnyPrefix(string(r), corev1.ResourceRequestsHugePagesPrefix, corev1.ResourceHugePagesPrefix) || extended(r)
		},
		handles: func(a admission.Attributes) bool {
			return a.GetOperation() == admission.Create && a.GetSubresource() == "" || a.GetOperation() == admission.Update && a.GetSubresource() == "resize"
		},
	}
}

// extended reports "requests.<domain>/<name>", the quota on an extended resource.
func extended(r corev1.ResourceName) bool {
	name, ok := strings.CutPrefix(string(r), corev1.DefaultResourceRequestsPrefix)
	return ok && strings.Contains(name, "/") && !strings.Contains(name, "storageclass.storage.k8s.io/")
}

func podOf(obj runtime.Object) (*corev1.Pod, error) {
	p, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, fmt.Errorf("expected a pod, got %T", obj)
	}
	return p, nil
}

// podUsage: a pod that has ended, or that is overdue to be gone, uses nothing but its place among the objects.
func podUsage(obj runtime.Object) (corev1.ResourceList, error) {
	p, err := podOf(obj)
	if err != nil {
		return nil, err
	}
	out := corev1.ResourceList{generic.ObjectCountQuotaResourceNameFor(schema.GroupResource{Resource: "pods"}): one()}
	if p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded {
		return out, nil
	}
	out[corev1.ResourcePods] = one()
	options := podresource.PodResourcesOptions{UseStatusResources: true}
	for name, q := range podresource.PodRequests(p, options) {
		out[corev1.ResourceName(corev1.DefaultResourceRequestsPrefix+string(name))] = q
		if !strings.Contains(string(name), "/") {
			out[name] = q
		}
	}
	for name, q := range podresource.PodLimits(p, options) {
		out[corev1.ResourceName("limits."+string(name))] = q
	}
	return out, nil
}

// podConstraints: where a quota limits a resource, every container must say how much of it it wants.
func podConstraints(required []corev1.ResourceName, obj runtime.Object) error {
	p, err := podOf(obj)
	if err != nil {
		return err
	}
	var errs []error
	missing := func(name string, r corev1.ResourceRequirements) {
		have := sets.New[corev1.ResourceName]()
		for k := range r.Requests {
			have.Insert(k, corev1.ResourceName(corev1.DefaultResourceRequestsPrefix+string(k)))
		}
		for k := range r.Limits {
			have.Insert(corev1.ResourceName("limits." + string(k)))
		}
		var list []string
		for _, want := range required {
			if podResources.Has(want) && want != corev1.ResourcePods && !have.Has(want) {
				list = append(list, string(want))
			}
		}
		if len(list) > 0 {
			slices.Sort(list)
			errs = append(errs, fmt.Errorf("must specify %s for: %s", strings.Join(list, ","), name))
		}
	}
	if p.Spec.Resources != nil && len(p.Spec.Resources.Requests)+len(p.Spec.Resources.Limits) > 0 {
		missing("pod", *p.Spec.Resources)
		return utilerrors.NewAggregate(errs)
	}
	for _, list := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for i := range list {
			missing(list[i].Name, list[i].Resources)
		}
	}
	return utilerrors.NewAggregate(errs)
}

func podScope(s corev1.ScopedResourceSelectorRequirement, obj runtime.Object) (bool, error) {
	p, err := podOf(obj)
	if err != nil {
		return false, err
	}
	switch s.ScopeName {
	case corev1.ResourceQuotaScopeTerminating:
		return p.Spec.ActiveDeadlineSeconds != nil && *p.Spec.ActiveDeadlineSeconds >= 0, nil
	case corev1.ResourceQuotaScopeNotTerminating:
		return p.Spec.ActiveDeadlineSeconds == nil || *p.Spec.ActiveDeadlineSeconds < 0, nil
	case corev1.ResourceQuotaScopeBestEffort:
		return bestEffort(p), nil
	case corev1.ResourceQuotaScopeNotBestEffort:
		return !bestEffort(p), nil
	case corev1.ResourceQuotaScopePriorityClass:
		return priorityMatches(s, p.Spec.PriorityClassName), nil
	case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return crossNamespace(p), nil
	}
	return false, nil
}

func bestEffort(p *corev1.Pod) bool {
	none := func(r corev1.ResourceRequirements) bool {
		for _, list := range []corev1.ResourceList{r.Requests, r.Limits} {
			for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
				if q, ok := list[name]; ok && !q.IsZero() {
					return false
				}
			}
		}
		return true
	}
	if p.Spec.Resources != nil && !none(*p.Spec.Resources) {
		return false
	}
	for _, list := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for i := range list {
			if !none(list[i].Resources) {
				return false
			}
		}
	}
	return true
}

func priorityMatches(s corev1.ScopedResourceSelectorRequirement, class string) bool {
	switch s.Operator {
	case corev1.ScopeSelectorOpExists:
		return class != ""
	case corev1.ScopeSelectorOpDoesNotExist:
		return class == ""
	case corev1.ScopeSelectorOpIn:
		return slices.Contains(s.Values, class)
	case corev1.ScopeSelectorOpNotIn:
		return !slices.Contains(s.Values, class)
	}
	return false
}

func crossNamespace(p *corev1.Pod) bool {
	a := p.Spec.Affinity
	if a == nil {
		return false
	}
	crosses := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) bool {
		for _, w := range preferred {
			required = append(slices.Clip(required), w.PodAffinityTerm)
		}
		return slices.ContainsFunc(required, func(t corev1.PodAffinityTerm) bool { return len(t.Namespaces) > 0 || t.NamespaceSelector != nil })
	}
	return a.PodAffinity != nil && crosses(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution) ||
		a.PodAntiAffinity != nil && crosses(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
}
