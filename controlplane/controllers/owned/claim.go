package owned

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Verdict is what an owner does about an object.
type Verdict int

// The verdicts.
const (
	Ignore  Verdict = iota // someone else's, or not wanted
	Keep                   // ours, and still selected
	Adopt                  // an orphan that the selector matches
	Release                // ours, but no longer selected
)

// Judge decides whether an object belongs to an owner. An owner that is being deleted changes nothing.
func Judge(owner metav1.Object, selector labels.Selector, obj metav1.Object) Verdict {
	matches := selector.Matches(labels.Set(obj.GetLabels()))
	if ref := metav1.GetControllerOfNoCopy(obj); ref != nil {
		switch {
		case ref.UID != owner.GetUID():
			return Ignore
		case matches:
			return Keep
		case owner.GetDeletionTimestamp() != nil:
			return Ignore
		default:
			return Release
		}
	}
	if !matches || owner.GetDeletionTimestamp() != nil || obj.GetDeletionTimestamp() != nil ||
		owner.GetNamespace() != obj.GetNamespace() {
		return Ignore
	}
	return Adopt
}

// Claimer adopts and releases the objects of one owner.
type Claimer[T metav1.Object] struct {
	Owner    metav1.Object
	Kind     schema.GroupVersionKind
	Selector labels.Selector
	// Finalizers are added with the owner reference and removed with it; usually none.
	Finalizers []string
	// AdoptIf restricts adoption further, nil allows it.
	AdoptIf func(T) bool
	// Live reads the owner from the API server, not from a cache. It is called once at most, before the first adoption.
	Live func(ctx context.Context) (metav1.Object, error)
	// Patch applies a strategic merge patch to an object. Not-found errors mean that it is gone already.
	Patch func(ctx context.Context, obj T, patch []byte) error
}

// Claim returns the objects that belong to the owner, after adopting and releasing what must be. An adopted object is
// returned as it was before. If some could not be patched, the rest is returned with the joined errors.
func (c *Claimer[T]) Claim(ctx context.Context, objs []T) ([]T, error) {
	var (
		out     []T
		errs    []error
		checked bool
		liveErr error
	)
	for _, obj := range objs {
		switch Judge(c.Owner, c.Selector, obj) {
		case Keep:
			out = append(out, obj)
		case Release:
			err := c.Patch(ctx, obj, c.releasePatch(obj))
			// Invalid: the object was recreated under the same name, or has no such reference any more.
			if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsInvalid(err) {
				errs = append(errs, fmt.Errorf("release %s: %w", obj.GetName(), err))
			}
		case Adopt:
			if c.AdoptIf != nil && !c.AdoptIf(obj) {
				continue
			}
			if !checked {
				checked, liveErr = true, c.mayAdopt(ctx)
				if liveErr != nil {
					errs = append(errs, liveErr)
				}
			}
			if liveErr != nil {
				continue
			}
			if err := c.Patch(ctx, obj, c.adoptPatch(obj)); err != nil {
				if !apierrors.IsNotFound(err) {
					errs = append(errs, fmt.Errorf("adopt %s: %w", obj.GetName(), err))
				}
				continue
			}
			out = append(out, obj)
		case Ignore:
		}
	}
	return out, errors.Join(errs...)
}

// mayAdopt guards against adopting for an owner whose deletion the cache doesn't show yet: the garbage collector would
// take the adopted objects with it, although their deletion was asked to orphan them.
func (c *Claimer[T]) mayAdopt(ctx context.Context) error {
	live, err := c.Live(ctx)
	if err != nil {
		return fmt.Errorf("can't adopt: %w", err)
	}
	if live.GetUID() != c.Owner.GetUID() {
		return fmt.Errorf("can't adopt: %s %s/%s was replaced", c.Kind.Kind, c.Owner.GetNamespace(), c.Owner.GetName())
	}
	if live.GetDeletionTimestamp() != nil {
		return fmt.Errorf("can't adopt: %s %s/%s is being deleted", c.Kind.Kind, c.Owner.GetNamespace(), c.Owner.GetName())
	}
	return nil
}

func (c *Claimer[T]) adoptPatch(obj T) []byte {
	meta := map[string]any{
		"uid":             obj.GetUID(),
		"ownerReferences": []metav1.OwnerReference{*metav1.NewControllerRef(c.Owner, c.Kind)},
	}
	if len(c.Finalizers) > 0 {
		meta["finalizers"] = c.Finalizers
	}
	return metaPatch(meta)
}

func (c *Claimer[T]) releasePatch(obj T) []byte {
	meta := map[string]any{
		"uid":             obj.GetUID(),
		"ownerReferences": []map[string]any{{"$patch": "delete", "uid": c.Owner.GetUID()}},
	}
	if len(c.Finalizers) > 0 {
		meta["$deleteFromPrimitiveList/finalizers"] = c.Finalizers
	}
	return metaPatch(meta)
}

func metaPatch(meta map[string]any) []byte {
	b, err := json.Marshal(map[string]any{"metadata": meta})
	if err != nil {
		panic(err) // plain maps and strings always encode
	}
	return b
}
