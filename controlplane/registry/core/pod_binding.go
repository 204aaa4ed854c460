package core

import (
	"context"
	"errors"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	storageerr "k8s.io/apiserver/pkg/storage/errors"
	"k8s.io/apiserver/pkg/util/dryrun"
)

// podBinding is pods/binding: the one way a pod gets its node.
type podBinding struct{ store *genericregistry.Store }

func (r *podBinding) New() runtime.Object   { return &corev1.Binding{} }
func (r *podBinding) Destroy()              {}
func (r *podBinding) NamespaceScoped() bool { return true }

// PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate keeps the binding's
// uid and resourceVersion, which are preconditions on the pod.
func (r *podBinding) PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate() bool { return true }

func (r *podBinding) Create(ctx context.Context, name string, obj runtime.Object, createValidation rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	b, ok := obj.(*corev1.Binding)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a Binding object: %#v", obj))
	}
	if b.Name != name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Binding object")
	}
	if errs := validateBinding(b); len(errs) != 0 {
		return nil, errs.ToAggregate()
	}
	if createValidation != nil {
		if err := createValidation(ctx, b.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	if err := r.bind(ctx, b, dryrun.IsDryRun(options.DryRun)); err != nil {
		return nil, err
	}
	return &metav1.Status{Status: metav1.StatusSuccess}, nil
}

func validateBinding(b *corev1.Binding) field.ErrorList {
	var errs field.ErrorList
	target := field.NewPath("target")
	if b.Target.Kind != "" && b.Target.Kind != "Node" {
		errs = append(errs, field.NotSupported(target.Child("kind"), b.Target.Kind, []string{"Node", "<empty>"}))
	}
	if b.Target.Name == "" {
		errs = append(errs, field.Required(target.Child("name"), ""))
	}
	return errs
}

func (r *podBinding) bind(ctx context.Context, b *corev1.Binding, dryRun bool) error {
	key, err := r.store.KeyFunc(ctx, b.Name)
	if err != nil {
		return err
	}
	var pre *storage.Preconditions
	if b.UID != "" || b.ResourceVersion != "" {
		pre = &storage.Preconditions{}
		if b.UID != "" {
			pre.UID = &b.UID
		}
		if b.ResourceVersion != "" {
			pre.ResourceVersion = &b.ResourceVersion
		}
	}
	err = r.store.Storage.GuaranteedUpdate(ctx, key, &corev1.Pod{}, false, pre, storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
		p := obj.(*corev1.Pod)
		switch {
		case p.DeletionTimestamp != nil:
			return nil, fmt.Errorf("pod %s is being deleted, cannot be assigned to a host", p.Name)
		case p.Spec.NodeName != "":
			return nil, fmt.Errorf("pod %v is already assigned to node %q", p.Name, p.Spec.NodeName)
		case len(p.Spec.SchedulingGates) != 0:
			return nil, fmt.Errorf("pod %v has non-empty .spec.schedulingGates", p.Name)
		}
		p.Spec.NodeName = b.Target.Name
		p.Status.NominatedNodeName = "" // a stale hint misleads autoscalers
		p.Annotations = merged(p.Annotations, b.Annotations)
		p.Labels = merged(p.Labels, b.Labels)
		setPodCondition(&p.Status, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue})
		return p, nil
	}), dryRun, nil)
	if err == nil {
		return nil
	}
	gr := pods.GroupResource()
	err = storageerr.InterpretUpdateError(storageerr.InterpretGetError(err, gr, b.Name), gr, b.Name)
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		gr.Resource = "pods/binding"
		err = apierrors.NewConflict(gr, b.Name, err)
	}
	return err
}

func merged(into, from map[string]string) map[string]string {
	if len(from) == 0 {
		return into
	}
	out := maps.Clone(into)
	if out == nil {
		out = make(map[string]string, len(from))
	}
	maps.Copy(out, from)
	return out
}

// bindings is the old top-level resource; the pod's name is in the object.
type bindings struct{ *podBinding }

func (r *bindings) GetSingularName() string { return "binding" }

func (r *bindings) Create(ctx context.Context, obj runtime.Object, createValidation rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	b, ok := obj.(*corev1.Binding)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a Binding object: %T", obj))
	}
	return r.podBinding.Create(ctx, b.Name, obj, createValidation, options)
}

var (
	_ rest.NamedCreater                   = (*podBinding)(nil)
	_ rest.SubresourceObjectMetaPreserver = (*podBinding)(nil)
	_ rest.Creater                        = (*bindings)(nil)
	_ rest.SingularNameProvider           = (*bindings)(nil)
)
