package informer

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

const byNode = "node"

// PodsByNode returns a function that lists the pods of a node from the shared cache. It may be called by several
// controllers, before the factory is started.
func PodsByNode(f informers.SharedInformerFactory) (func(node string) []*corev1.Pod, error) {
	pods := f.Core().V1().Pods().Informer()
	if _, ok := pods.GetIndexer().GetIndexers()[byNode]; !ok {
		err := pods.AddIndexers(cache.Indexers{byNode: func(o any) ([]string, error) {
			if p, ok := o.(*corev1.Pod); ok && p.Spec.NodeName != "" {
				return []string{p.Spec.NodeName}, nil
			}
			return nil, nil
		}})
		if err != nil {
			return nil, fmt.Errorf("index of pods by node: %w", err)
		}
	}
	indexer := pods.GetIndexer()
	return func(node string) []*corev1.Pod {
		objects, err := indexer.ByIndex(byNode, node)
		if err != nil {
			return nil // only if the index is missing
		}
		out := make([]*corev1.Pod, 0, len(objects))
		for _, o := range objects {
			out = append(out, o.(*corev1.Pod))
		}
		return out
	}, nil
}
