// Package resource turns a short description of an API resource into its REST
// storage: strategies, status subresource, selectable fields, table columns and
// the choice whether a watch cache is worth its memory.
//
// Reads: the storage options that the API server's RESTOptionsGetter gives.
// Writes: nothing itself; the stores that it builds write to etcd.
package resource

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// Object is what every stored kind is.
type Object interface {
	runtime.Object
	metav1.Object
}

// Descriptor says all that is particular to one resource. Zero values mean the
// common case, so a plain resource needs GV, the names, New, NewList and
// Columns only.
type Descriptor[T Object] struct {
	GV schema.GroupVersion
	// AlsoVersions are further versions that serve the same storage.
	AlsoVersions []string
	Plural       string
	Singular     string
	// Cluster is true for a resource without namespaces.
	Cluster    bool
	ShortNames []string
	Categories []string

	New     func() T
	NewList func() runtime.Object

	// Columns are the cells of `kubectl get`; nil gives NAME and CREATED AT.
	Columns []Column[T]
	// RowConditions marks rows that clients may show differently.
	RowConditions func(T) []metav1.TableRowCondition

	// HasStatus makes a create drop the status, an update keep the old one, and
	// Build return a status subresource.
	HasStatus bool
	// StatusOnCreate keeps the status that a create brings along.
	StatusOnCreate bool
	// Generation makes metadata.generation count the changes of spec.
	Generation bool
	// GenerationOf replaces "spec" as what the generation counts.
	GenerationOf func(T) any
	// StatusKeepsMeta is true where a status update may not touch metadata
	// other than finalizers and managed fields; most kinds allow it.
	StatusKeepsMeta bool
	// StatusKeepsLabels is true where a status update may not touch labels.
	StatusKeepsLabels bool

	// PrepareCreate and PrepareUpdate run after the generic steps above.
	PrepareCreate func(ctx context.Context, obj T)
	PrepareUpdate func(ctx context.Context, obj, old T)
	PrepareStatus func(ctx context.Context, obj, old T)

	// NameRule checks metadata.name; nil means a DNS subdomain.
	NameRule validation.ValidateNameFunc
	// Validate and the rest replace the kind's rules in package validation; a
	// Validate checks metadata too.
	Validate       func(obj T) field.ErrorList
	ValidateUpdate func(obj, old T) field.ErrorList
	ValidateStatus func(obj, old T) field.ErrorList
	WarnCreate     func(ctx context.Context, obj T) []string
	WarnUpdate     func(ctx context.Context, obj, old T) []string
	Canonicalize   func(obj T)

	// CreateOnUpdate lets a PUT create the object.
	CreateOnUpdate bool
	// NeedsResourceVersion refuses an update that names no resourceVersion.
	NeedsResourceVersion bool
	// ReturnDeleted makes DELETE answer with the object, not with a Status.
	ReturnDeleted bool
	// GarbageCollection is the default of kinds whose dependents have one.
	GarbageCollection rest.GarbageCollectionPolicy
	// Graceful sets the grace period of a delete, and says whether there is one.
	Graceful func(ctx context.Context, obj T, options *metav1.DeleteOptions) bool

	// Fields are the selectable fields besides metadata.name and namespace.
	Fields func(obj T) fields.Set
	// Indexed is the selectable field that the watch cache keeps an index for,
	// so that a watcher with an exact match on it costs nothing on the others'
	// changes. It needs an entry in Fields.
	Indexed string

	// Cached keeps a watch cache: right for what every node's agent watches.
	// The others are watched by this process's own informers alone, for which
	// the cache would be a second copy of every object.
	Cached bool

	// Tune changes the finished store before it is completed: the hooks that
	// few resources need.
	Tune func(*genericregistry.Store)

	// ResetFields and ResetStatusFields replace the generic sets: ["status"]
	// for the resource and ["spec"] for its status.
	ResetFields       []fieldpath.Path
	ResetStatusFields []fieldpath.Path
}

// GroupResource is the resource's qualified name.
func (d *Descriptor[T]) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: d.GV.Group, Resource: d.Plural}
}

func (d *Descriptor[T]) attrs(obj runtime.Object) (labels.Set, fields.Set, error) {
	t, ok := obj.(T)
	if !ok {
		return nil, nil, fmt.Errorf("%s storage got a %T", d.Plural, obj)
	}
	var set fields.Set
	if d.Fields != nil {
		set = d.Fields(t)
	} else {
		set = make(fields.Set, 2)
	}
	set["metadata.name"] = t.GetName()
	if !d.Cluster {
		set["metadata.namespace"] = t.GetNamespace()
	}
	return t.GetLabels(), set, nil
}

// index returns the two forms of the index on d.Indexed: one dispatches watch
// events, the other answers lists.
func (d *Descriptor[T]) index() (storage.IndexerFuncs, *cache.Indexers) {
	if d.Indexed == "" {
		return nil, nil
	}
	value := func(obj runtime.Object) string { return d.Fields(obj.(T))[d.Indexed] }
	return storage.IndexerFuncs{d.Indexed: value}, &cache.Indexers{
		storage.FieldIndex(d.Indexed): func(obj any) ([]string, error) {
			t, ok := obj.(T)
			if !ok {
				return nil, fmt.Errorf("%s index got a %T", d.Plural, obj)
			}
			return []string{value(t)}, nil
		},
	}
}

func (d *Descriptor[T]) predicate(label labels.Selector, field fields.Selector) storage.SelectionPredicate {
	p := storage.SelectionPredicate{Label: label, Field: field, GetAttrs: d.attrs}
	if d.Indexed != "" {
		p.IndexFields = []string{d.Indexed}
	}
	return p
}

// UpdateCheck validates a change of an object.
type UpdateCheck[T Object] func(obj, old T) field.ErrorList
