package apiserver

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
)

// stores are the storages of what the server itself looks up on each request. A client's call would go through the whole
// handler and be encoded and decoded: for the pods of a full node that costs more than the request that asked.
// What they return belongs to the watch cache; it is only to be read.
type stores struct{ pods, limitRanges rest.Lister }

// set takes the storages before the server serves.
func (s *stores) set(groups []*genericapiserver.APIGroupInfo) error {
	for _, g := range groups {
		if gv := g.PrioritizedVersions[0]; gv == corev1.SchemeGroupVersion {
			storages := g.VersionedResourcesStorageMap[gv.Version]
			pods, ok1 := storages["pods"].(rest.Lister)
			ranges, ok2 := storages["limitranges"].(rest.Lister)
			if !ok1 || !ok2 {
				return fmt.Errorf("the storages of pods (%T) and limit ranges (%T) can't list", storages["pods"], storages["limitranges"])
			}
			s.pods, s.limitRanges = pods, ranges
		}
	}
	return nil
}

// podsOf lists the pods that are bound to a node: from the watch cache, or fresh from the datastore.
func (s *stores) podsOf(ctx context.Context, node string, fresh bool) ([]*corev1.Pod, error) {
	opts := &internalversion.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.nodeName", node)}
	if !fresh {
		opts.ResourceVersion = "0"
	}
	obj, err := s.pods.List(request.WithNamespace(ctx, metav1.NamespaceAll), opts)
	if err != nil {
		return nil, err
	}
	list, ok := obj.(*corev1.PodList)
	if !ok {
		return nil, fmt.Errorf("the storage of pods lists %T", obj)
	}
	return pointers(list.Items), nil
}

// limitRangesOf lists those of a namespace, from the watch cache.
func (s *stores) limitRangesOf(ctx context.Context, namespace string) ([]*corev1.LimitRange, error) {
	obj, err := s.limitRanges.List(request.WithNamespace(ctx, namespace), &internalversion.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return nil, err
	}
	list, ok := obj.(*corev1.LimitRangeList)
	if !ok {
		return nil, fmt.Errorf("the storage of limit ranges lists %T", obj)
	}
	return pointers(list.Items), nil
}

func pointers[T any](items []T) []*T {
	out := make([]*T, len(items))
	for i := range items {
		out[i] = &items[i]
	}
	return out
}
