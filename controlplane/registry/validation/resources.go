package validation

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

var standardContainerResources = sets.New(corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage)

// native reports a resource of Kubernetes' own: one without a domain, or in kubernetes.io.
func native(name corev1.ResourceName) bool {
	return !strings.Contains(string(name), "/") || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
}

func hugePages(name corev1.ResourceName) bool {
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

// integerResource reports resources that can't be divided: extended ones and huge pages count whole units.
func integerResource(name corev1.ResourceName) bool { return !native(name) }

// Requirements checks the requests and limits of a container or pod.
func requirements(l *list, r *corev1.ResourceRequirements, p *field.Path) {
	check := func(p *field.Path, all corev1.ResourceList) {
		for name, q := range all {
			kp := p.Key(string(name))
			l.qualifiedName(kp, string(name))
			if !strings.Contains(string(name), "/") && !standardContainerResources.Has(name) && !hugePages(name) {
				l.add(field.Invalid(kp, name, "must be a standard resource for containers"))
			}
			l.quantity(kp, q)
			if integerResource(name) && q.MilliValue()%1000 != 0 {
				l.add(field.Invalid(kp, q.String(), "must be an integer"))
			}
			if hugePages(name) {
				l.messages(kp, q.String(), hugePageSize(name, q))
			}
		}
	}
	limits, requests := p.Child("limits"), p.Child("requests")
	check(limits, r.Limits)
	check(requests, r.Requests)
	for name, q := range r.Requests {
		kp := requests.Key(string(name))
		limit, ok := r.Limits[name]
		switch overcommit := native(name) && !hugePages(name); {
		case ok && q.Cmp(limit) > 0:
			l.add(field.Invalid(requests, q.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", name, limit.String())))
		case ok && !overcommit && q.Cmp(limit) != 0:
			l.add(field.Invalid(kp, q.String(), fmt.Sprintf("must be equal to %s limit of %s", name, limit.String())))
		case !ok && !overcommit:
			l.required(limits, "Limit must be set for non overcommitable resources")
		}
	}
	claims := unique[string]{}
	for i, c := range r.Claims {
		if c.Name == "" {
			l.required(p.Child("claims").Index(i).Child("name"), "")
		}
		claims.check(l, p.Child("claims").Index(i), c.Name+"/"+c.Request, c.Name)
	}
}

func hugePageSize(name corev1.ResourceName, q resource.Quantity) []string {
	size, err := resource.ParseQuantity(strings.TrimPrefix(string(name), corev1.ResourceHugePagesPrefix))
	if err != nil || size.Value() <= 0 {
		return []string{"must name a page size, such as hugepages-2Mi"}
	}
	if q.Value()%size.Value() != 0 {
		return []string{"must be a multiple of the page size"}
	}
	return nil
}

// nodeResources checks a node's capacity or a quota's names.
func resourceNames(l *list, all corev1.ResourceList, p *field.Path) {
	for name, q := range all {
		l.messages(p.Key(string(name)), name, validation.IsQualifiedName(string(name)))
		l.quantity(p.Key(string(name)), q)
	}
}
