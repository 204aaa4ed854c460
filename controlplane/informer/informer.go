// Package informer makes the informer factory that the scheduler and the controllers share: one watch and one cached
// copy of each object for the whole server process, trimmed of what none of them reads.
//
// Reads: the API, by watch. Writes: nothing.
package informer

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// NewFactory returns a factory without resync whose caches hold trimmed objects. A controller that writes an object
// back must patch it, or read it afresh: an update of a cached copy would drop what was trimmed, except managedFields,
// which the API server keeps when an update leaves them out.
func NewFactory(client kubernetes.Interface) informers.SharedInformerFactory {
	return factory{informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(Trim))}
}

// Trim drops managedFields, and what heartbeats repeat, from an object before it is cached.
func Trim(obj any) (any, error) {
	if d, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		trimmed, err := Trim(d.Obj)
		d.Obj = trimmed
		return d, err
	}
	m, err := meta.Accessor(obj)
	if err != nil {
		return obj, nil //nolint:nilerr // not an API object: nothing to trim
	}
	if m.GetManagedFields() != nil {
		m.SetManagedFields(nil)
	}
	if n, ok := obj.(*corev1.Node); ok {
		trimNode(n)
	}
	return obj, nil
}

// trimNode drops what only people and volume attachment read.
func trimNode(n *corev1.Node) {
	n.Status.VolumesInUse = nil
	n.Status.RuntimeHandlers = nil
}
