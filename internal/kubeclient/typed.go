package kubeclient

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
)

// Typed reaches the objects of one resource, in one namespace or, if that is "", in all or none. client-go's gentype
// has the same calls, but brings its fake with it, and with that OpenAPI, gnostic and managed fields: 3 MB in a process.
type Typed[T object, L runtime.Object] struct {
	client              rest.Interface
	params              runtime.ParameterCodec
	resource, namespace string
	newT                func() T
	newL                func() L
}

func typed[T object, L runtime.Object](c *Client, gv schema.GroupVersion, resource, namespace string, newT func() T, newL func() L) *Typed[T, L] {
	return &Typed[T, L]{client: c.groups[gv], params: c.params, resource: resource, namespace: namespace, newT: newT, newL: newL}
}

// at begins a request.
func (t *Typed[T, L]) at(r *rest.Request) *rest.Request {
	return r.NamespaceIfScoped(t.namespace, t.namespace != "").Resource(t.resource)
}

// Get reads an object.
func (t *Typed[T, L]) Get(ctx context.Context, name string, o metav1.GetOptions) (T, error) {
	out := t.newT()
	err := t.at(t.client.Get()).Name(name).VersionedParams(&o, t.params).Do(ctx).Into(out)
	return out, err
}

// List reads the objects that the options select.
func (t *Typed[T, L]) List(ctx context.Context, o metav1.ListOptions) (L, error) {
	out := t.newL()
	err := t.at(t.client.Get()).VersionedParams(&o, t.params).Do(ctx).Into(out)
	return out, err
}

// Watch follows the objects that the options select.
func (t *Typed[T, L]) Watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	o.Watch = true
	return t.at(t.client.Get()).VersionedParams(&o, t.params).Watch(ctx)
}

// Create makes an object and returns it as it was stored.
func (t *Typed[T, L]) Create(ctx context.Context, obj T, o metav1.CreateOptions) (T, error) {
	out := t.newT()
	err := t.at(t.client.Post()).VersionedParams(&o, t.params).Body(obj).Do(ctx).Into(out)
	return out, err
}

// Update replaces an object; a stale resource version is a conflict.
func (t *Typed[T, L]) Update(ctx context.Context, obj T, o metav1.UpdateOptions) (T, error) {
	out := t.newT()
	err := t.at(t.client.Put()).Name(obj.GetName()).VersionedParams(&o, t.params).Body(obj).Do(ctx).Into(out)
	return out, err
}

// UpdateStatus replaces an object's status.
func (t *Typed[T, L]) UpdateStatus(ctx context.Context, obj T, o metav1.UpdateOptions) (T, error) {
	out := t.newT()
	err := t.at(t.client.Put()).Name(obj.GetName()).SubResource("status").VersionedParams(&o, t.params).Body(obj).Do(ctx).Into(out)
	return out, err
}

// Patch changes an object or a subresource of it.
func (t *Typed[T, L]) Patch(ctx context.Context, name string, kind types.PatchType, patch []byte, o metav1.PatchOptions, subresources ...string) (T, error) {
	out := t.newT()
	err := t.at(t.client.Patch(kind)).Name(name).SubResource(subresources...).VersionedParams(&o, t.params).Body(patch).Do(ctx).Into(out)
	return out, err
}

// DeleteCollection removes the objects that the options select.
func (t *Typed[T, L]) DeleteCollection(ctx context.Context, o metav1.DeleteOptions, list metav1.ListOptions) error {
	return t.at(t.client.Delete()).VersionedParams(&list, t.params).Body(&o).Do(ctx).Error()
}

// Delete removes an object.
func (t *Typed[T, L]) Delete(ctx context.Context, name string, o metav1.DeleteOptions) error {
	return t.at(t.client.Delete()).Name(name).Body(&o).Do(ctx).Error()
}
