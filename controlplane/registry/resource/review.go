package resource

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
)

// Review is a resource that is answered, not stored: a create is a question.
type Review[T runtime.Object] struct {
	Singular   string
	Namespaced bool
	NewObject  func() T
	// Check refuses a malformed question; nil accepts all.
	Check func(ctx context.Context, question T) error
	// Answer runs after admission.
	Answer func(ctx context.Context, question T) (runtime.Object, error)
}

func (r *Review[T]) New() runtime.Object     { return r.NewObject() }
func (r *Review[T]) Destroy()                {}
func (r *Review[T]) NamespaceScoped() bool   { return r.Namespaced }
func (r *Review[T]) GetSingularName() string { return r.Singular }

func (r *Review[T]) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	question, ok := obj.(T)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a %s: %T", r.Singular, obj))
	}
	if r.Check != nil {
		if err := r.Check(ctx, question); err != nil {
			return nil, err
		}
	}
	if validate != nil {
		if err := validate(ctx, obj.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	return r.Answer(ctx, question)
}

var (
	_ rest.Creater              = (*Review[runtime.Object])(nil)
	_ rest.Scoper               = (*Review[runtime.Object])(nil)
	_ rest.SingularNameProvider = (*Review[runtime.Object])(nil)
)
