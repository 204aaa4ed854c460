package core

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/mote-edge/mote/controlplane/registry/resource"
	"github.com/mote-edge/mote/controlplane/registry/validation"
)

// podEdit is an update-only subresource that changes a few fields of a pod's
// spec, and says which for server-side apply.
type podEdit struct {
	*resource.Edit
	fields fieldpath.Filter
}

var (
	_ rest.Patcher                   = (*podEdit)(nil)
	_ rest.ResetFieldsFilterStrategy = (*podEdit)(nil)
)

func (e *podEdit) GetResetFieldsFilter() map[fieldpath.APIVersion]fieldpath.Filter {
	return map[fieldpath.APIVersion]fieldpath.Filter{"v1": e.fields}
}

func ephemeralContainers(store *genericregistry.Store) rest.Storage {
	return &podEdit{
		Edit: &pods.Subresource(store, func(_ context.Context, p, old *corev1.Pod) {
			wanted := p.Spec.EphemeralContainers
			p.Spec, p.Status = old.Spec, old.Status
			metav1.ResetObjectMetaForStatus(p, old)
			p.Spec.EphemeralContainers = wanted
		}, validateEphemeralContainers).Edit,
		fields: fieldpath.NewIncludeMatcherFilter(fieldpath.MakePrefixMatcherOrDie("spec", "ephemeralContainers")),
	}
}

func resize(store *genericregistry.Store) rest.Storage {
	any := fieldpath.MatchAnyPathElement()
	return &podEdit{
		Edit: &pods.Subresource(store, prepareResize, validateResize).Edit,
		fields: fieldpath.NewIncludeMatcherFilter(
			fieldpath.MakePrefixMatcherOrDie("spec", "containers", any, "resources"),
			fieldpath.MakePrefixMatcherOrDie("spec", "containers", any, "resizePolicy"),
			fieldpath.MakePrefixMatcherOrDie("spec", "initContainers", any, "resources"),
			fieldpath.MakePrefixMatcherOrDie("spec", "initContainers", any, "resizePolicy"),
			fieldpath.MakePrefixMatcherOrDie("spec", "resources"),
		),
	}
}

// prepareResize keeps everything but the resources. A pod whose containers were
// added, renamed or moved stays as it came, so that validation can say so.
func prepareResize(_ context.Context, p, old *corev1.Pod) {
	containers, ok := resized(p.Spec.Containers, old.Spec.Containers)
	inits, ok2 := resized(p.Spec.InitContainers, old.Spec.InitContainers)
	if !ok || !ok2 {
		return
	}
	whole := p.Spec.Resources
	p.Spec, p.Status = old.Spec, old.Status
	metav1.ResetObjectMetaForStatus(p, old)
	p.Spec.Containers, p.Spec.InitContainers, p.Spec.Resources = containers, inits, whole
}

func resized(now, old []corev1.Container) ([]corev1.Container, bool) {
	if len(now) != len(old) {
		return nil, false
	}
	if len(old) == 0 {
		return old, true
	}
	out := make([]corev1.Container, len(old))
	for i := range old {
		if now[i].Name != old[i].Name {
			return nil, false
		}
		out[i] = old[i]
		out[i].Resources, out[i].ResizePolicy = now[i].Resources, now[i].ResizePolicy
	}
	return out, true
}

// validateEphemeralContainers lets ephemeral containers be added; those that
// exist stay as they are.
func validateEphemeralContainers(p, old *corev1.Pod) field.ErrorList {
	errs := podRules(p)
	path := field.NewPath("spec", "ephemeralContainers")
	now := map[string]corev1.EphemeralContainer{}
	for _, c := range p.Spec.EphemeralContainers {
		now[c.Name] = c
	}
	for i, was := range old.Spec.EphemeralContainers {
		switch c, ok := now[was.Name]; {
		case !ok:
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("existing ephemeral containers %q may not be removed\n", was.Name)))
		case !apiequality.Semantic.DeepEqual(c, was):
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("existing ephemeral containers %q may not be changed\n%v", was.Name, path.Index(i))))
		}
	}
	if old.Annotations[corev1.MirrorPodAnnotationKey] != "" {
		errs = append(errs, field.Forbidden(field.NewPath(""), "static pods do not support ephemeral containers"))
	}
	return errs
}

// resizable tells what of a change of resources a running pod can't have.
func resizable(now, was corev1.ResourceRequirements, p *field.Path) (errs field.ErrorList) {
	for _, side := range []struct {
		name     string
		now, was corev1.ResourceList
	}{{"requests", now.Requests, was.Requests}, {"limits", now.Limits, was.Limits}} {
		for name, q := range side.was {
			n, ok := side.now[name]
			if name != corev1.ResourceCPU && name != corev1.ResourceMemory {
				if !ok || n.Cmp(q) != 0 {
					errs = append(errs, field.Forbidden(p.Child(side.name).Key(string(name)), "only cpu and memory resources are mutable"))
				}
				continue
			}
			if !ok {
				errs = append(errs, field.Forbidden(p.Child(side.name), "resource "+side.name+" cannot be removed"))
			}
		}
		for name := range side.now {
			if _, had := side.was[name]; !had && name != corev1.ResourceCPU && name != corev1.ResourceMemory {
				errs = append(errs, field.Forbidden(p.Child(side.name).Key(string(name)), "only cpu and memory resources are mutable"))
			}
		}
	}
	return errs
}

// validateResize refuses what a running pod can't have changed.
func validateResize(p, old *corev1.Pod) field.ErrorList {
	errs := podRules(p)
	spec := field.NewPath("spec")
	if len(p.Spec.Containers) != len(old.Spec.Containers) || len(p.Spec.InitContainers) != len(old.Spec.InitContainers) {
		return append(errs, field.Forbidden(spec.Child("containers"), "containers may not be added or removed during resize"))
	}
	check := func(now, was []corev1.Container, path *field.Path) {
		renamed := false
		for i := range was {
			if now[i].Name != was[i].Name {
				errs, renamed = append(errs, field.Forbidden(path.Index(i).Child("name"), "containers may not be renamed or reordered on resize")), true
			}
		}
		for i := range was {
			if !renamed {
				errs = append(errs, resizable(now[i].Resources, was[i].Resources, path.Index(i).Child("resources"))...)
			}
		}
	}
	switch whole := old.Spec.Resources; {
	case whole != nil && p.Spec.Resources == nil:
		errs = append(errs, field.Forbidden(spec.Child("resources"), "pod-level resources cannot be removed"))
	case whole != nil:
		errs = append(errs, resizable(*p.Spec.Resources, *whole, spec.Child("resources"))...)
	}
	check(p.Spec.Containers, old.Spec.Containers, spec.Child("containers"))
	check(p.Spec.InitContainers, old.Spec.InitContainers, spec.Child("initContainers"))
	for i, c := range old.Spec.InitContainers {
		restarts := slices.ContainsFunc(c.ResizePolicy, func(r corev1.ContainerResizePolicy) bool { return r.RestartPolicy == corev1.RestartContainer })
		sidecar := c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
		if !sidecar && restarts && !apiequality.Semantic.DeepEqual(c.Resources, p.Spec.InitContainers[i].Resources) {
			errs = append(errs, field.Forbidden(spec.Child("initContainers").Index(i), "non-sidecar init containers with a resize policy of RestartContainer cannot be resized"))
		}
	}
	if QOSClass(p) != old.Status.QOSClass {
		errs = append(errs, field.Invalid(spec, old.Status.QOSClass, "Pod QOS Class may not change as a result of resizing"))
	}
	if podDone(old) {
		errs = append(errs, field.Forbidden(field.NewPath(""), "pods that have ended can't be resized"))
	}
	if old.Annotations[corev1.MirrorPodAnnotationKey] != "" {
		errs = append(errs, field.Forbidden(field.NewPath(""), "static pods cannot be resized"))
	}
	return errs
}

// podRules are the rules for a whole pod, less the one that holds for a create
// alone.
func podRules(p *corev1.Pod) field.ErrorList {
	return slices.DeleteFunc(validation.Create(p), func(e *field.Error) bool {
		return e.Type == field.ErrorTypeForbidden && e.Field == "spec.ephemeralContainers"
	})
}
