// Package discovery holds the endpoint slices of discovery.k8s.io/v1.
//
// Reads: the objects it serves.
// Writes: the objects it serves.
package discovery

import (
	"fmt"
	"strconv"
	"strings"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/mote-edge/mote/controlplane/registry/resource"
)

// Storages builds everything of discovery.k8s.io/v1.
func Storages(c *resource.Config) (resource.Storages, error) {
	to := resource.Storages{}
	return to, resource.AddAll(c, to, &Slices)
}

// Slices are the endpoint slices.
var Slices = resource.Descriptor[*discoveryv1.EndpointSlice]{
	GV: discoveryv1.SchemeGroupVersion, Plural: "endpointslices", Cached: true, Singular: "endpointslice",
	New:        func() *discoveryv1.EndpointSlice { return &discoveryv1.EndpointSlice{} },
	NewList:    func() runtime.Object { return &discoveryv1.EndpointSliceList{} },
	Generation: true,
	// There is no spec; the labels say which Service the slice belongs to.
	GenerationOf: func(s *discoveryv1.EndpointSlice) any { return []any{s.AddressType, s.Endpoints, s.Ports, s.Labels} },
	Columns: []resource.Column[*discoveryv1.EndpointSlice]{
		resource.Name[*discoveryv1.EndpointSlice](),
		{Name: "AddressType", Value: func(s *discoveryv1.EndpointSlice) any { return string(s.AddressType) }},
		{Name: "Ports", Value: func(s *discoveryv1.EndpointSlice) any {
			var list []string
			for _, p := range s.Ports {
				switch {
				case p.Port != nil:
					list = append(list, strconv.Itoa(int(*p.Port)))
				case p.Name != nil:
					list = append(list, *p.Name)
				default:
					list = append(list, "*")
				}
			}
			return firstThree(list)
		}},
		{Name: "Endpoints", Value: func(s *discoveryv1.EndpointSlice) any {
			var list []string
			for _, e := range s.Endpoints {
				list = append(list, e.Addresses...)
			}
			return firstThree(list)
		}},
		resource.Age[*discoveryv1.EndpointSlice](),
	},
}

func firstThree(list []string) string {
	switch n := len(list); {
	case n == 0:
		return "<unset>"
	case n > 3:
		return fmt.Sprintf("%s + %d more...", strings.Join(list[:3], ","), n-3)
	}
	return strings.Join(list, ",")
}
