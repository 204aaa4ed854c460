package resource

import (
	"context"
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimachineryvalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// Scale says how to read and write the replicas of a kind.
type Scale[T Object] struct {
	Replicas    func(T) int32
	SetReplicas func(T, int32)
	Current     func(T) int32
	Selector    func(T) (string, error)
}

// scaleREST shows an object as an autoscaling/v1 Scale.
type scaleREST[T Object] struct {
	store *genericregistry.Store
	d     *Descriptor[T]
	s     Scale[T]
}

// ScaleOf returns the scale subresource over the store of d.
func ScaleOf[T Object](d *Descriptor[T], store *genericregistry.Store, s Scale[T]) rest.Storage {
	return &scaleREST[T]{store: store, d: d, s: s}
}

func (r *scaleREST[T]) New() runtime.Object { return &autoscalingv1.Scale{} }
func (r *scaleREST[T]) Destroy()            {}

func (r *scaleREST[T]) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return autoscalingv1.SchemeGroupVersion.WithKind("Scale")
}

func (r *scaleREST[T]) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	obj, err := r.store.Get(ctx, name, options)
	if err != nil {
		return nil, err
	}
	return r.scale(obj)
}

func (r *scaleREST[T]) Update(ctx context.Context, name string, objInfo rest.UpdatedObjectInfo, createValidation rest.ValidateObjectFunc,
	updateValidation rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions,
) (runtime.Object, bool, error) {
	obj, _, err := r.store.Update(ctx, name, &scaleInfo[T]{rest: r, name: name, request: objInfo},
		func(ctx context.Context, obj runtime.Object) error {
			s, err := r.scale(obj)
			if err != nil {
				return err
			}
			return createValidation(ctx, s)
		},
		func(ctx context.Context, obj, old runtime.Object) error {
			s, err := r.scale(obj)
			if err != nil {
				return err
			}
			was, err := r.scale(old)
			if err != nil {
				return err
			}
			return updateValidation(ctx, s, was)
		}, false, options)
	if err != nil {
		return nil, false, err
	}
	s, err := r.scale(obj)
	return s, false, err
}

func (r *scaleREST[T]) ConvertToTable(ctx context.Context, object, options runtime.Object) (*metav1.Table, error) {
	return scaleTable.ConvertToTable(ctx, object, options)
}

var scaleTable = tables[*autoscalingv1.Scale]{columns: []Column[*autoscalingv1.Scale]{
	Name[*autoscalingv1.Scale](),
	{Name: "Desired", Type: "integer", Value: func(s *autoscalingv1.Scale) any { return int64(s.Spec.Replicas) }},
	{Name: "Available", Type: "integer", Value: func(s *autoscalingv1.Scale) any { return int64(s.Status.Replicas) }},
	Age[*autoscalingv1.Scale](),
}}

func (r *scaleREST[T]) scale(o runtime.Object) (*autoscalingv1.Scale, error) {
	obj := o.(T)
	selector, err := r.s.Selector(obj)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{
			Name: obj.GetName(), Namespace: obj.GetNamespace(), UID: obj.GetUID(),
			ResourceVersion: obj.GetResourceVersion(), CreationTimestamp: obj.GetCreationTimestamp(),
		},
		Spec:   autoscalingv1.ScaleSpec{Replicas: r.s.Replicas(obj)},
		Status: autoscalingv1.ScaleStatus{Replicas: r.s.Current(obj), Selector: selector},
	}, nil
}

// scaleInfo turns object → scale → updated scale → updated object, and carries
// the field ownership of replicas along.
type scaleInfo[T Object] struct {
	rest    *scaleREST[T]
	name    string
	request rest.UpdatedObjectInfo
}

func (i *scaleInfo[T]) Preconditions() *metav1.Preconditions { return i.request.Preconditions() }

func (i *scaleInfo[T]) UpdatedObject(ctx context.Context, oldObj runtime.Object) (runtime.Object, error) {
	d := i.rest.d
	resource := schema.GroupResource{Group: d.GV.Group, Resource: d.Plural + "/scale"}
	obj := oldObj.DeepCopyObject().(T)
	if obj.GetResourceVersion() == "" {
		return nil, apierrors.NewNotFound(resource, i.name)
	}
	owners := managedfields.NewScaleHandler(obj.GetManagedFields(), d.GV, managedfields.ResourcePathMappings{
		d.GV.String(): fieldpath.MakePathOrDie("spec", "replicas"),
	})
	old, err := i.rest.scale(obj)
	if err != nil {
		return nil, err
	}
	if old.ManagedFields, err = owners.ToSubresource(); err != nil {
		return nil, err
	}
	updated, err := i.request.UpdatedObject(ctx, old)
	if err != nil {
		return nil, err
	}
	scale, ok := updated.(*autoscalingv1.Scale)
	if !ok || scale == nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("expected input object type to be Scale, but %T", updated))
	}
	if errs := validateScale(scale); len(errs) > 0 {
		return nil, apierrors.NewInvalid(autoscalingv1.SchemeGroupVersion.WithKind("Scale").GroupKind(), i.name, errs)
	}
	if scale.UID != "" && scale.UID != obj.GetUID() {
		return nil, apierrors.NewConflict(resource, i.name,
			fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", scale.UID, obj.GetUID()))
	}
	i.rest.s.SetReplicas(obj, scale.Spec.Replicas)
	obj.SetResourceVersion(scale.ResourceVersion) // the store compares it
	entries, err := owners.ToParent(scale.ManagedFields)
	if err != nil {
		return nil, err
	}
	obj.SetManagedFields(entries)
	return obj, nil
}

func validateScale(s *autoscalingv1.Scale) field.ErrorList {
	errs := apimachineryvalidation.ValidateObjectMeta(&s.ObjectMeta, true, apimachineryvalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
	if s.Spec.Replicas < 0 {
		errs = append(errs, field.Invalid(field.NewPath("spec", "replicas"), s.Spec.Replicas, "must be greater than or equal to 0"))
	}
	return errs
}

// Selected renders a label selector as scale.status.selector wants it.
func Selected(s *metav1.LabelSelector) (string, error) {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return "", err
	}
	return selector.String(), nil
}

var (
	_ rest.Patcher                  = (*scaleREST[Object])(nil)
	_ rest.GroupVersionKindProvider = (*scaleREST[Object])(nil)
)
