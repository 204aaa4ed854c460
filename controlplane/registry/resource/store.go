package resource

import (
	"context"
	"io"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/mote-edge/mote/controlplane/deepstack"
)

// REST is a generic store that also knows the names that clients may use.
type REST struct {
	*genericregistry.Store
	shortNames, categories []string
}

func (r *REST) ShortNames() []string { return r.shortNames }
func (r *REST) Categories() []string { return r.categories }

// Status is the status subresource of a REST: it reads and writes the same
// object, through a strategy that lets only the status change. It serves for
// other update-only subresources too (approval, resize, …).
type Status struct{ Edit }

// Edit is a Status that doesn't say which fields it resets: for subresources
// that give server-side apply a filter instead.
type Edit struct{ store *genericregistry.Store }

// NewStatus returns an update-only subresource over store with its own strategy.
func NewStatus(store *genericregistry.Store, update rest.UpdateResetFieldsStrategy) *Status {
	s := *store
	s.UpdateStrategy = update
	s.ResetFieldsStrategy = update
	s.CreateStrategy = nil
	return &Status{Edit{store: &s}}
}

func (r *Edit) New() runtime.Object { return r.store.New() }

// Destroy does nothing: the store belongs to the main resource.
func (r *Edit) Destroy() {}

func (r *Edit) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	return r.store.Get(ctx, name, options)
}

func (r *Edit) Update(ctx context.Context, name string, objInfo rest.UpdatedObjectInfo, createValidation rest.ValidateObjectFunc,
	updateValidation rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions,
) (runtime.Object, bool, error) {
	deepstack.Reserve() // the server runs updates in goroutines of their own
	// A subresource never creates its object.
	return r.store.Update(ctx, name, objInfo, createValidation, updateValidation, false, options)
}

func (r *Status) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return r.store.GetResetFields()
}

func (r *Edit) ConvertToTable(ctx context.Context, object, options runtime.Object) (*metav1.Table, error) {
	return r.store.ConvertToTable(ctx, object, options)
}

// Store gives access to the underlying store for controllers of the same process.
func (r *Edit) Store() *genericregistry.Store { return r.store }

var (
	_ rest.StandardStorage     = (*REST)(nil)
	_ rest.ShortNamesProvider  = (*REST)(nil)
	_ rest.CategoriesProvider  = (*REST)(nil)
	_ rest.Patcher             = (*Status)(nil)
	_ rest.ResetFieldsStrategy = (*Status)(nil)
)

// Build makes the resource's storage, and its status subresource when it has one.
func (d *Descriptor[T]) Build(c *Config) (*REST, *Status, error) {
	base := newStrategy(d)
	store := &genericregistry.Store{
		NewFunc:                   func() runtime.Object { return d.New() },
		NewListFunc:               d.NewList,
		DefaultQualifiedResource:  d.GroupResource(),
		SingularQualifiedResource: schema.GroupResource{Group: d.GV.Group, Resource: d.Singular},
		CreateStrategy:            base,
		UpdateStrategy:            base,
		DeleteStrategy:            base,
		ResetFieldsStrategy:       base,
		ReturnDeletedObject:       d.ReturnDeleted,
		TableConvertor:            d.table(),
		PredicateFunc:             d.predicate,
	}
	if d.Graceful != nil {
		store.DeleteStrategy = gracefulStrategy[T]{base}
	}
	if d.Tune != nil {
		d.Tune(store)
	}
	trigger, indexers := d.index()
	err := store.CompleteWithOptions(&generic.StoreOptions{
		RESTOptions: lean{RESTOptionsGetter: c.Options, decorator: d.decorator(c)},
		AttrFunc:    d.attrs,
		TriggerFunc: trigger,
		Indexers:    indexers,
	})
	if err != nil {
		return nil, nil, err
	}
	r := &REST{Store: store, shortNames: d.ShortNames, categories: d.Categories}
	if !d.HasStatus {
		return r, nil, nil
	}
	return r, NewStatus(store, statusStrategy[T]{base}), nil
}

// lean adapts the API server's storage options to one resource.
type lean struct {
	generic.RESTOptionsGetter
	decorator generic.StorageDecorator
}

func (d *Descriptor[T]) decorator(c *Config) generic.StorageDecorator {
	if d.Cached {
		return nil // what the options have is the cache
	}
	return c.Uncached
}

func (l lean) GetRESTOptions(gr schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	opts, err := l.RESTOptionsGetter.GetRESTOptions(gr, example)
	if err != nil {
		return opts, err
	}
	if l.decorator != nil {
		opts.Decorator = l.decorator
	}
	config := *opts.StorageConfig
	config.Codec = untyped{config.Codec}
	opts.StorageConfig = &config
	return opts, nil
}

// untyped clears apiVersion and kind from what comes out of etcd. With hub
// types equal to API types the decoder leaves them filled in, and then every
// item of every list would carry them, which the API's own lists don't.
type untyped struct{ runtime.Codec }

func (c untyped) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	obj, gvk, err := c.Codec.Decode(data, defaults, into)
	if obj != nil {
		obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	}
	return obj, gvk, err
}

func (c untyped) Encode(obj runtime.Object, w io.Writer) error { return c.Codec.Encode(obj, w) }

// Subresource makes another update-only subresource: its own prepare and
// validate over the same store, and d.ResetStatusFields as what it resets.
func (d *Descriptor[T]) Subresource(store *genericregistry.Store, prepare func(context.Context, T, T), validate UpdateCheck[T]) *Status {
	sub := *d
	return NewStatus(store, subStrategy[T]{
		statusStrategy: statusStrategy[T]{newStrategy(&sub)}, prepare: prepare, validate: validate,
	})
}

type subStrategy[T Object] struct {
	statusStrategy[T]
	prepare  func(context.Context, T, T)
	validate UpdateCheck[T]
}

func (s subStrategy[T]) PrepareForUpdate(ctx context.Context, o, old runtime.Object) {
	s.prepare(ctx, o.(T), old.(T))
	if s.d.Generation && !apiequality.Semantic.DeepEqual(s.d.counted(o.(T)), s.d.counted(old.(T))) {
		o.(T).SetGeneration(old.(T).GetGeneration() + 1)
	}
}

func (s subStrategy[T]) ValidateUpdate(_ context.Context, o, old runtime.Object) field.ErrorList {
	if s.validate == nil {
		return nil
	}
	return s.validate(o.(T), old.(T))
}

// StatusOf returns the status subresource over a store that Build made.
func (d *Descriptor[T]) StatusOf(store *genericregistry.Store) *Status {
	return NewStatus(store, statusStrategy[T]{newStrategy(d)})
}
