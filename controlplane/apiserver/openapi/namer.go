package openapi

import (
	"cmp"
	"reflect"
	"slices"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/util"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// namer knows the kinds that a type is served as. The library's own one would name the hub version too, which for us
// is the served type.
type namer map[string][]schema.GroupVersionKind

func newNamer(s *runtime.Scheme) namer {
	n := namer{}
	for gvk, t := range s.AllKnownTypes() {
		if gvk.Version == runtime.APIVersionInternal {
			continue
		}
		name := util.GetCanonicalTypeName(reflect.New(t).Interface())
		n[name] = append(n[name], gvk)
	}
	for _, gvks := range n {
		slices.SortFunc(gvks, func(a, b schema.GroupVersionKind) int {
			return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Kind, b.Kind))
		})
	}
	return n
}

// name is a definition's name in the document, and the extension that tells its kinds.
func (n namer) name(definition string) (string, spec.Extensions) {
	gvks := n[definition]
	if len(gvks) == 0 {
		return definition, nil
	}
	list := make([]any, 0, len(gvks))
	for _, g := range gvks {
		list = append(list, map[string]any{"group": g.Group, "version": g.Version, "kind": g.Kind})
	}
	return definition, spec.Extensions{"x-kubernetes-group-version-kind": list}
}
