package openapi

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/util"
	smd "sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// Converter is the managedfields.TypeConverter of the built-in types. It decodes a type's merge rules when the first
// object of that type is written, and shares them between the types that contain it.
type Converter struct {
	scheme *runtime.Scheme

	mu    sync.RWMutex
	roots map[schema.GroupVersionKind]*typed.ParseableType
	atoms map[string]smd.Atom
}

var _ managedfields.TypeConverter = (*Converter)(nil)

// NewConverter returns a converter for the kinds of the scheme.
func NewConverter(s *runtime.Scheme) *Converter {
	return &Converter{scheme: s, roots: map[schema.GroupVersionKind]*typed.ParseableType{}, atoms: map[string]smd.Atom{}}
}

// ObjectToTyped implements managedfields.TypeConverter.
func (c *Converter) ObjectToTyped(o runtime.Object, opts ...typed.ValidationOptions) (*typed.TypedValue, error) {
	t, err := c.parseable(o.GetObjectKind().GroupVersionKind())
	if err != nil {
		return nil, err
	}
	if u, ok := o.(*unstructured.Unstructured); ok {
		return t.FromUnstructured(u.UnstructuredContent(), opts...)
	}
	if !slices.Contains(opts, typed.AllowDuplicates) {
		return t.FromStructured(o, opts...)
	}
	// A Go value of the type has the schema's shape, and whoever allows duplicates, which are all it could be wrong in, goes on
	// to compare it, which reports what validation would: it was a third of what managed fields cost, twice for each write.
	v, err := value.NewValueReflect(o)
	if err != nil {
		return nil, fmt.Errorf("look into a %T: %w", o, err)
	}
	return typed.AsTypedUnvalidated(v, t.Schema, t.TypeRef), nil //nolint:staticcheck // deprecated for costing little less: it is a lot here
}

// TypedToObject implements managedfields.TypeConverter.
func (c *Converter) TypedToObject(v *typed.TypedValue) (runtime.Object, error) {
	switch o := v.AsValue().Unstructured().(type) {
	case map[string]any:
		return &unstructured.Unstructured{Object: o}, nil
	default:
		return nil, fmt.Errorf("failed to convert value to unstructured for type %T", o)
	}
}

func (c *Converter) parseable(gvk schema.GroupVersionKind) (*typed.ParseableType, error) {
	c.mu.RLock()
	t := c.roots[gvk]
	c.mu.RUnlock()
	if t != nil {
		return t, nil
	}
	sample, err := c.scheme.New(gvk)
	if err != nil {
		return nil, fmt.Errorf("no corresponding type for %v: %w", gvk, err)
	}
	name := util.GetCanonicalTypeName(sample)
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.roots[gvk]; t != nil {
		return t, nil
	}
	s, err := c.closure(name)
	if err != nil {
		return nil, err
	}
	t = &typed.ParseableType{Schema: s, TypeRef: smd.TypeRef{NamedType: &name}}
	c.roots[gvk] = t
	return t, nil
}

// untyped are what the table's types fall back to where the API has no schema.
var untyped = []string{"__untyped_atomic_", "__untyped_deduced_"}

// closure makes a schema of a type and of all that it contains.
func (c *Converter) closure(name string) (*smd.Schema, error) {
	s := &smd.Schema{}
	seen := map[string]bool{}
	todo := append([]string{name}, untyped...)
	for len(todo) > 0 {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[n] {
			continue
		}
		seen[n] = true
		a, err := c.atom(n)
		if err != nil {
			return nil, err
		}
		s.Types = append(s.Types, smd.TypeDef{Name: n, Atom: a})
		todo = references(a, todo)
	}
	return s, nil
}

func (c *Converter) atom(name string) (smd.Atom, error) {
	if a, ok := c.atoms[name]; ok {
		return a, nil
	}
	body, ok := mergeTable().find(name)
	if !ok {
		return smd.Atom{}, fmt.Errorf("no merge rules for type %s: run controlplane/apiserver/openapi/gen", name)
	}
	var w wireAtom
	if err := json.Unmarshal([]byte(body), &w); err != nil {
		return smd.Atom{}, fmt.Errorf("merge rules of type %s: %w", name, err)
	}
	a := w.atom()
	c.atoms[name] = a
	return a, nil
}

// references appends the names of the types that an atom refers to.
func references(a smd.Atom, to []string) []string {
	ref := func(r smd.TypeRef) {
		if r.NamedType != nil {
			to = append(to, *r.NamedType)
			return
		}
		to = references(r.Inlined, to)
	}
	if a.List != nil {
		ref(a.List.ElementType)
	}
	if a.Map != nil {
		for i := range a.Map.Fields {
			ref(a.Map.Fields[i].Type)
		}
		ref(a.Map.ElementType)
	}
	return to
}
