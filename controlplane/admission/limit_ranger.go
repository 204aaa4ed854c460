package admission

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	podresource "k8s.io/component-helpers/resource"
)

// limitRanger fills in the resources that a namespace's limit ranges give by default, and refuses what lies outside them.
type limitRanger struct {
	ranges corelisters.LimitRangeLister
	recent LimitRanges
}

// LimitRanges lists the limit ranges of a namespace as of now; the objects are only to be read.
type LimitRanges func(ctx context.Context, namespace string) ([]*corev1.LimitRange, error)

// WantsLimitRanges is a plugin that looks at limit ranges which its informer may not have heard of yet.
type WantsLimitRanges interface{ SetLimitRanges(LimitRanges) }

var (
	_ admission.MutationInterface   = (*limitRanger)(nil)
	_ admission.ValidationInterface = (*limitRanger)(nil)
	_ WantsLimitRanges              = (*limitRanger)(nil)
)

func (*limitRanger) Handles(op admission.Operation) bool {
	return op == admission.Create || op == admission.Update
}

func (l *limitRanger) SetLimitRanges(recent LimitRanges) { l.recent = recent }

func (l *limitRanger) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	i := f.Core().V1().LimitRanges()
	i.Informer()
	l.ranges = i.Lister()
}

func (l *limitRanger) ValidateInitialization() error {
	if l.ranges == nil || l.recent == nil {
		return errors.New("the limit range informer and storage are not set")
	}
	return nil
}

func (l *limitRanger) list(ctx context.Context, namespace string) ([]*corev1.LimitRange, error) {
	list, err := l.ranges.LimitRanges(namespace).List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("list limit ranges: %w", err)
	}
	if len(list) == 0 {
		// A limit range made a moment ago must hold for the pod that follows it. Namespaces without one pay a look into
		// the API server's own watch cache.
		if list, err = l.recent(ctx, namespace); err != nil {
			return nil, fmt.Errorf("list limit ranges: %w", err)
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Name < list[j].Name })
	return list, nil
}

func (l *limitRanger) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod := admittedPod(a)
	if pod == nil || a.GetOperation() != admission.Create {
		return nil
	}
	ranges, err := l.list(ctx, a.GetNamespace())
	if err != nil {
		return err
	}
	for _, r := range ranges {
		defaultResources(r, pod)
	}
	return nil
}

func (l *limitRanger) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	var check func(*corev1.LimitRange) []error
	switch obj := a.GetObject().(type) {
	case *corev1.Pod:
		if !on(a, "", "pods", "") && !on(a, "", "pods", "resize") || (a.GetSubresource() == "" && a.GetOperation() != admission.Create) {
			return nil
		}
		check = func(r *corev1.LimitRange) []error { return checkPod(r, obj) }
	case *corev1.PersistentVolumeClaim:
		if !on(a, "", "persistentvolumeclaims", "") {
			return nil
		}
		check = func(r *corev1.LimitRange) []error { return checkClaim(r, obj) }
	default:
		return nil
	}
	ranges, err := l.list(ctx, a.GetNamespace())
	if err != nil {
		return err
	}
	for _, r := range ranges {
		if errs := check(r); len(errs) > 0 {
			return admission.NewForbidden(a, utilerrors.NewAggregate(errs))
		}
	}
	return nil
}

// defaultResources merges a range's container defaults into every container, and notes on the pod what it did.
func defaultResources(r *corev1.LimitRange, pod *corev1.Pod) {
	limits, requests := corev1.ResourceList{}, corev1.ResourceList{}
	for _, item := range r.Spec.Limits {
		if item.Type != corev1.LimitTypeContainer {
			continue
		}
		for k, v := range item.Default {
			limits[k] = v
		}
		for k, v := range item.DefaultRequest {
			requests[k] = v
		}
	}
	var notes []string
	apply := func(kind string, list []corev1.Container) {
		for i := range list {
			c := &list[i]
			for _, part := range []struct {
				name string
				dst  *corev1.ResourceList
				src  corev1.ResourceList
			}{{"request", &c.Resources.Requests, requests}, {"limit", &c.Resources.Limits, limits}} {
				var set []string
				for k, v := range part.src {
					if _, ok := (*part.dst)[k]; ok {
						continue
					}
					if *part.dst == nil {
						*part.dst = corev1.ResourceList{}
					}
					(*part.dst)[k] = v.DeepCopy()
					set = append(set, string(k))
				}
				if len(set) > 0 {
					sort.Strings(set)
					notes = append(notes, fmt.Sprintf("%s %s for %s %s", strings.Join(set, ", "), part.name, kind, c.Name))
				}
			}
		}
	}
	apply("container", pod.Spec.Containers)
	apply("init container", pod.Spec.InitContainers)
	if len(notes) > 0 {
		if pod.Annotations == nil {
			pod.Annotations = map[string]string{}
		}
		pod.Annotations["kubernetes.io/limit-ranger"] = "LimitRanger plugin set: " + strings.Join(notes, "; ")
	}
}

func checkPod(r *corev1.LimitRange, pod *corev1.Pod) []error {
	var errs []error
	for _, item := range r.Spec.Limits {
		switch item.Type {
		case corev1.LimitTypeContainer:
			for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
				for _, c := range list {
					errs = append(errs, checkItem(item, c.Resources.Requests, c.Resources.Limits)...)
				}
			}
		case corev1.LimitTypePod:
			requests := podresource.PodRequests(pod, podresource.PodResourcesOptions{ExcludeOverhead: true})
			limits := podresource.PodLimits(pod, podresource.PodResourcesOptions{ExcludeOverhead: true})
			errs = append(errs, checkItem(item, requests, limits)...)
		}
	}
	return errs
}

func checkClaim(r *corev1.LimitRange, claim *corev1.PersistentVolumeClaim) []error {
	var errs []error
	for _, item := range r.Spec.Limits {
		if item.Type != corev1.LimitTypePersistentVolumeClaim {
			continue
		}
		for k, min := range item.Min {
			if have, ok := claim.Spec.Resources.Requests[k]; !ok || have.Cmp(min) < 0 {
				errs = append(errs, fmt.Errorf("minimum %s usage per %s is %s, but request is %s", k, item.Type, min.String(), quantity(claim.Spec.Resources.Requests, k)))
			}
		}
		for k, max := range item.Max {
			if have, ok := claim.Spec.Resources.Requests[k]; ok && have.Cmp(max) > 0 {
				errs = append(errs, fmt.Errorf("maximum %s usage per %s is %s, but request is %s", k, item.Type, max.String(), have.String()))
			}
		}
	}
	return errs
}

func quantity(list corev1.ResourceList, k corev1.ResourceName) string {
	if q, ok := list[k]; ok {
		return q.String()
	}
	return "none"
}

// checkItem holds requests and limits against a range's minimum, maximum and ratio. Upstream's words.
func checkItem(item corev1.LimitRangeItem, requests, limits corev1.ResourceList) []error {
	var errs []error
	for k, min := range item.Min {
		req, hasReq := requests[k]
		lim, hasLim := limits[k]
		switch {
		case !hasReq:
			errs = append(errs, fmt.Errorf("minimum %s usage per %s is %s. No request is specified", k, item.Type, min.String()))
		case req.Cmp(min) < 0:
			errs = append(errs, fmt.Errorf("minimum %s usage per %s is %s, but request is %s", k, item.Type, min.String(), req.String()))
		case hasLim && lim.Cmp(min) < 0:
			errs = append(errs, fmt.Errorf("minimum %s usage per %s is %s, but limit is %s", k, item.Type, min.String(), lim.String()))
		}
	}
	for k, max := range item.Max {
		req, hasReq := requests[k]
		lim, hasLim := limits[k]
		switch {
		case !hasLim:
			errs = append(errs, fmt.Errorf("maximum %s usage per %s is %s. No limit is specified", k, item.Type, max.String()))
		case lim.Cmp(max) > 0:
			errs = append(errs, fmt.Errorf("maximum %s usage per %s is %s, but limit is %s", k, item.Type, max.String(), lim.String()))
		case hasReq && req.Cmp(max) > 0:
			errs = append(errs, fmt.Errorf("maximum %s usage per %s is %s, but request is %s", k, item.Type, max.String(), req.String()))
		}
	}
	for k, ratio := range item.MaxLimitRequestRatio {
		errs = append(errs, checkRatio(item, k, ratio, requests[k], limits[k])...)
	}
	return errs
}

func checkRatio(item corev1.LimitRangeItem, k corev1.ResourceName, ratio, req, lim resource.Quantity) []error {
	if req.IsZero() || lim.IsZero() {
		return []error{fmt.Errorf("%s max limit to request ratio per %s is %s, but no request is specified or request is 0", k, item.Type, ratio.String())}
	}
	have := lim.AsApproximateFloat64() / req.AsApproximateFloat64()
	if have > ratio.AsApproximateFloat64() {
		return []error{fmt.Errorf("%s max limit to request ratio per %s is %s, but provided ratio is %f", k, item.Type, ratio.String(), have)}
	}
	return nil
}
