// Package quota says what each kind of object counts for in a ResourceQuota. The admission plugin (the library's) and
// the quota controller use the same evaluators, so that what is refused and what is reported agree.
//
// Reads:  objects of a namespace, through the list function that it is given.
// Writes: nothing.
package quota

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
)

// ListFunc lists a resource's objects in a namespace, typed for pods, services and claims; metadata will do for others.
type ListFunc func(gvr schema.GroupVersionResource, namespace string) ([]runtime.Object, error)

// NewConfiguration returns the evaluators of the resources that quotas know by name. Every other resource is counted as
// "count/<resource>.<group>" by an evaluator that the library makes when it first sees one; list may be nil where only
// admission uses them, which never lists.
func NewConfiguration(list ListFunc) quota.Configuration {
	core := func(r string) schema.GroupVersionResource { return corev1.SchemeGroupVersion.WithResource(r) }
	lister := func(r string) generic.ListFuncByNamespace {
		return func(namespace string) ([]runtime.Object, error) { return list(core(r), namespace) }
	}
	counted := func(r string, alias corev1.ResourceName) quota.Evaluator {
		return generic.NewObjectCountEvaluator(core(r).GroupResource(), lister(r), alias)
	}
	return generic.NewConfiguration([]quota.Evaluator{
		podEvaluator(lister("pods")), serviceEvaluator(lister("services")), claimEvaluator(lister("persistentvolumeclaims")),
		counted("configmaps", corev1.ResourceConfigMaps), counted("secrets", corev1.ResourceSecrets),
		counted("resourcequotas", corev1.ResourceQuotas), counted("replicationcontrollers", corev1.ResourceReplicationControllers),
	}, Ignored())
}

// Ignored are resources that no quota counts.
func Ignored() map[schema.GroupResource]struct{} {
	return map[schema.GroupResource]struct{}{{Resource: "events"}: {}, {Group: "events.k8s.io", Resource: "events"}: {}}
}

// evaluator is what pods, services and claims have in common; the functions are what sets them apart.
type evaluator struct {
	gr          schema.GroupResource
	list        generic.ListFuncByNamespace
	resources   func(corev1.ResourceName) bool
	usage       func(runtime.Object) (corev1.ResourceList, error)
	scope       generic.MatchesScopeFunc
	constraints func(required []corev1.ResourceName, obj runtime.Object) error
	handles     func(admission.Attributes) bool
}

var _ quota.Evaluator = (*evaluator)(nil)

func (e *evaluator) GroupResource() schema.GroupResource { return e.gr }

func (e *evaluator) Handles(a admission.Attributes) bool { return e.handles(a) }

func (e *evaluator) Constraints(required []corev1.ResourceName, obj runtime.Object) error {
	if e.constraints == nil {
		return nil
	}
	return e.constraints(required, obj)
}

func (e *evaluator) MatchingResources(in []corev1.ResourceName) []corev1.ResourceName {
	var out []corev1.ResourceName
	for _, r := range in {
		if e.resources(r) {
			out = append(out, r)
		}
	}
	return out
}

func (e *evaluator) Matches(q *corev1.ResourceQuota, obj runtime.Object) (bool, error) {
	return generic.Matches(q, obj, e.MatchingResources, e.scope)
}

func (e *evaluator) MatchingScopes(obj runtime.Object, scopes []corev1.ScopedResourceSelectorRequirement) ([]corev1.ScopedResourceSelectorRequirement, error) {
	var out []corev1.ScopedResourceSelectorRequirement
	for _, s := range scopes {
		ok, err := e.scope(s, obj)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, s)
		}
	}
	return out, nil
}

// UncoveredQuotaScopes returns the limited scopes that no quota covers.
func (e *evaluator) UncoveredQuotaScopes(limited, matched []corev1.ScopedResourceSelectorRequirement) ([]corev1.ScopedResourceSelectorRequirement, error) {
	var out []corev1.ScopedResourceSelectorRequirement
	for _, s := range limited {
		covered := slices.ContainsFunc(matched, func(m corev1.ScopedResourceSelectorRequirement) bool {
			return m.ScopeName == s.ScopeName && m.Operator == s.Operator && slices.Equal(m.Values, s.Values)
		})
		if !covered {
			out = append(out, s)
		}
	}
	return out, nil
}

func (e *evaluator) Usage(obj runtime.Object) (corev1.ResourceList, error) { return e.usage(obj) }

func (e *evaluator) UsageStats(o quota.UsageStatsOptions) (quota.UsageStats, error) {
	return generic.CalculateUsageStats(o, e.list, e.scope, e.usage)
}

func one() resource.Quantity { return *resource.NewQuantity(1, resource.DecimalSI) }

// isCount reports the name by which any object can be counted.
func isCount(name corev1.ResourceName, gr schema.GroupResource) bool {
	return name == generic.ObjectCountQuotaResourceNameFor(gr)
}

func hasAnyPrefix(s string, prefixes ...string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(s, p) })
}
