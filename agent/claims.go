package agent

import (
	"context"
	"slices"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/mote-edge/mote/agent/dra"
)

var _ dra.API = apiServer{}

// ResourceClaim implements dra.API.
func (a apiServer) ResourceClaim(ctx context.Context, namespace, name string) (*resourcev1.ResourceClaim, error) {
	return a.client.ResourceClaims(namespace).Get(ctx, name, metav1.GetOptions{})
}

// SliceDrivers implements dra.API.
func (a apiServer) SliceDrivers(ctx context.Context) ([]string, error) {
	list, err := a.client.ResourceSlices().List(ctx, metav1.ListOptions{FieldSelector: fields.Set{resourcev1.ResourceSliceSelectorNodeName: a.node}.String()})
	if err != nil {
		return nil, err
	}
	var out []string
	for i := range list.Items {
		out = append(out, list.Items[i].Spec.Driver)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// DeleteSlices implements dra.API.
func (a apiServer) DeleteSlices(ctx context.Context, driver string) error {
	return a.client.ResourceSlices().DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: fields.Set{
		resourcev1.ResourceSliceSelectorNodeName: a.node, resourcev1.ResourceSliceSelectorDriver: driver,
	}.String()})
}
