package resource

import (
	"context"
	"reflect"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/mote-edge/mote/controlplane/registry/scheme"
	rules "github.com/mote-edge/mote/controlplane/registry/validation"
)

// strategy answers the generic store's questions from a descriptor.
type strategy[T Object] struct {
	runtime.ObjectTyper
	names.NameGenerator
	d *Descriptor[T]
}

func newStrategy[T Object](d *Descriptor[T]) strategy[T] {
	return strategy[T]{ObjectTyper: scheme.Scheme(), NameGenerator: names.SimpleNameGenerator, d: d}
}

func (s strategy[T]) NamespaceScoped() bool                         { return !s.d.Cluster }
func (s strategy[T]) AllowCreateOnUpdate(context.Context) bool      { return s.d.CreateOnUpdate }
func (s strategy[T]) AllowUnconditionalUpdate(context.Context) bool { return !s.d.NeedsResourceVersion }

func (s strategy[T]) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	paths := s.d.ResetFields
	if paths == nil && s.d.HasStatus {
		paths = []fieldpath.Path{fieldpath.MakePathOrDie("status")}
	}
	return resetFields(s.d, paths)
}

func (s strategy[T]) DefaultGarbageCollectionPolicy(context.Context) rest.GarbageCollectionPolicy {
	if s.d.GarbageCollection == "" {
		return rest.DeleteDependents
	}
	return s.d.GarbageCollection
}

func (s strategy[T]) PrepareForCreate(ctx context.Context, o runtime.Object) {
	obj := o.(T)
	if s.d.HasStatus && !s.d.StatusOnCreate {
		part(obj, "Status").SetZero()
	}
	if s.d.Generation {
		obj.SetGeneration(1)
	}
	if s.d.PrepareCreate != nil {
		s.d.PrepareCreate(ctx, obj)
	}
}

func (s strategy[T]) PrepareForUpdate(ctx context.Context, o, oldO runtime.Object) {
	obj, old := o.(T), oldO.(T)
	if s.d.HasStatus {
		part(obj, "Status").Set(part(old, "Status"))
	}
	if s.d.PrepareUpdate != nil {
		s.d.PrepareUpdate(ctx, obj, old)
	}
	if s.d.Generation && !apiequality.Semantic.DeepEqual(s.d.counted(obj), s.d.counted(old)) {
		obj.SetGeneration(old.GetGeneration() + 1)
	}
}

// counted is what the generation counts the changes of.
func (d *Descriptor[T]) counted(obj T) any {
	if d.GenerationOf != nil {
		return d.GenerationOf(obj)
	}
	return part(obj, "Spec").Interface()
}

func (s strategy[T]) Validate(_ context.Context, o runtime.Object) field.ErrorList {
	obj := o.(T)
	if s.d.Validate != nil {
		return s.d.Validate(obj)
	}
	rule := s.d.NameRule
	if rule == nil {
		rule = validation.NameIsDNSSubdomain
	}
	errs := validation.ValidateObjectMetaAccessor(obj, !s.d.Cluster, rule, field.NewPath("metadata"))
	return append(errs, rules.Create(o)...)
}

func (s strategy[T]) ValidateUpdate(_ context.Context, o, oldO runtime.Object) field.ErrorList {
	if s.d.ValidateUpdate == nil {
		return rules.Update(o, oldO) // the generic store has checked the metadata
	}
	return s.d.ValidateUpdate(o.(T), oldO.(T))
}

func (s strategy[T]) WarningsOnCreate(ctx context.Context, o runtime.Object) []string {
	if s.d.WarnCreate == nil {
		return nil
	}
	return s.d.WarnCreate(ctx, o.(T))
}

func (s strategy[T]) WarningsOnUpdate(ctx context.Context, o, oldO runtime.Object) []string {
	if s.d.WarnUpdate == nil {
		return nil
	}
	return s.d.WarnUpdate(ctx, o.(T), oldO.(T))
}

func (s strategy[T]) Canonicalize(o runtime.Object) {
	if s.d.Canonicalize != nil {
		s.d.Canonicalize(o.(T))
	}
}

// gracefulStrategy is a strategy whose objects are deleted gracefully. It is a
// type of its own because the generic store asks by type assertion.
type gracefulStrategy[T Object] struct{ strategy[T] }

func (s gracefulStrategy[T]) CheckGracefulDelete(ctx context.Context, o runtime.Object, options *metav1.DeleteOptions) bool {
	return s.d.Graceful(ctx, o.(T), options)
}

// statusStrategy is the update strategy of the status subresource: everything
// but the status stays as it was.
type statusStrategy[T Object] struct{ strategy[T] }

func (s statusStrategy[T]) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	paths := s.d.ResetStatusFields
	if paths == nil {
		paths = []fieldpath.Path{fieldpath.MakePathOrDie("spec")}
		if s.d.StatusKeepsMeta {
			paths = append(paths, fieldpath.MakePathOrDie("metadata"))
		}
		if s.d.StatusKeepsLabels {
			paths = append(paths, fieldpath.MakePathOrDie("metadata", "labels"))
		}
	}
	return resetFields(s.d, paths)
}

func (s statusStrategy[T]) AllowCreateOnUpdate(context.Context) bool { return false }

func (s statusStrategy[T]) PrepareForUpdate(ctx context.Context, o, oldO runtime.Object) {
	obj, old := o.(T), oldO.(T)
	if spec := part(obj, "Spec"); spec.IsValid() {
		spec.Set(part(old, "Spec"))
	}
	if s.d.StatusKeepsMeta {
		metav1.ResetObjectMetaForStatus(obj, old)
	}
	if s.d.StatusKeepsLabels {
		obj.SetLabels(old.GetLabels())
	}
	if s.d.PrepareStatus != nil {
		s.d.PrepareStatus(ctx, obj, old)
	}
}

func (s statusStrategy[T]) ValidateUpdate(_ context.Context, o, oldO runtime.Object) field.ErrorList {
	if s.d.ValidateStatus == nil {
		return rules.Status(o, oldO)
	}
	return s.d.ValidateStatus(o.(T), oldO.(T))
}

func (s statusStrategy[T]) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}

// part returns a settable top-level field of a pointer to an API struct, or the
// zero Value when the kind has no such field.
func part(obj any, name string) reflect.Value {
	return reflect.ValueOf(obj).Elem().FieldByName(name)
}

func resetFields[T Object](d *Descriptor[T], paths []fieldpath.Path) map[fieldpath.APIVersion]*fieldpath.Set {
	if len(paths) == 0 {
		return nil
	}
	set := fieldpath.NewSet(paths...)
	sets := map[fieldpath.APIVersion]*fieldpath.Set{fieldpath.APIVersion(d.GV.String()): set}
	for _, v := range d.AlsoVersions {
		sets[fieldpath.APIVersion(d.GV.Group+"/"+v)] = set
	}
	return sets
}

var (
	_ rest.RESTCreateUpdateStrategy        = strategy[Object]{}
	_ rest.RESTDeleteStrategy              = strategy[Object]{}
	_ rest.GarbageCollectionDeleteStrategy = strategy[Object]{}
	_ rest.RESTGracefulDeleteStrategy      = gracefulStrategy[Object]{}
	_ rest.UpdateResetFieldsStrategy       = statusStrategy[Object]{}
)
