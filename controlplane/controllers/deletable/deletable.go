// Package deletable asks the API server which kinds of objects it has that can be listed, watched and deleted: those
// that namespace deletion and garbage collection concern themselves with.
//
// Reads: discovery. Writes: nothing.
package deletable

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
)

// Kind is one kind of objects, in its group's preferred version.
type Kind struct {
	Resource   schema.GroupVersionResource
	Kind       string
	Namespaced bool
	Watchable  bool
	// Collection says that all objects of a namespace can be deleted with one request.
	Collection bool
}

// Kinds lists the deletable kinds. If only some groups could be asked, it returns these, and the error.
func Kinds(d discovery.DiscoveryInterface) ([]Kind, error) {
	lists, err := discovery.ServerPreferredResources(d)
	var out []Kind
	for _, list := range lists {
		gv, parseErr := schema.ParseGroupVersion(list.GroupVersion)
		if parseErr != nil {
			continue // no such list comes from an API server
		}
		for i := range list.APIResources {
			r := &list.APIResources[i]
			if !has(r, "delete") || !has(r, "list") {
				continue
			}
			out = append(out, Kind{
				Resource: at(gv, r).WithResource(r.Name), Kind: r.Kind, Namespaced: r.Namespaced,
				Watchable: has(r, "watch"), Collection: has(r, "deletecollection"),
			})
		}
	}
	return out, err
}

func has(r *metav1.APIResource, verb string) bool { return slices.Contains(r.Verbs, verb) }

// at is a resource's own group and version where it differs from its list's.
func at(gv schema.GroupVersion, r *metav1.APIResource) schema.GroupVersion {
	if r.Group != "" {
		gv.Group = r.Group
	}
	if r.Version != "" {
		gv.Version = r.Version
	}
	return gv
}
