package revision

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/mote-edge/mote/controlplane/controllers/owned"
)

// ErrCollision says that another template has the name of the revision to create: the owner's collision count must go
// up, which gives another name.
var ErrCollision = errors.New("hash collision between revisions")

// Histories reads and writes the revisions of owners of one kind.
type Histories struct {
	Client kubernetes.Interface
	Index  cache.Indexer // of ControllerRevisions, with owned.Index
	Kind   schema.GroupVersionKind

	mu    sync.Mutex
	match map[types.UID]match
}

// match says that a revision held an owner's template, which saves encoding and comparing the template every time one
// of the owner's pods changes.
type match struct {
	generation int64
	revision   types.UID
	version    string
}

func (h *Histories) remember(owner metav1.Object, r *appsv1.ControllerRevision) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.match == nil {
		h.match = map[types.UID]match{}
	}
	h.match[owner.GetUID()] = match{owner.GetGeneration(), r.UID, r.ResourceVersion}
}

func (h *Histories) remembers(owner metav1.Object, r *appsv1.ControllerRevision) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	m, ok := h.match[owner.GetUID()]
	return ok && m == match{owner.GetGeneration(), r.UID, r.ResourceVersion}
}

// Forget drops what is known of a deleted owner.
func (h *Histories) Forget(owner types.UID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.match, owner)
}

// List returns an owner's revisions, oldest first, after adopting and releasing. live reads the owner from the API.
func (h *Histories) List(ctx context.Context, owner metav1.Object, selector labels.Selector, live func(context.Context) (metav1.Object, error)) ([]*appsv1.ControllerRevision, error) {
	claimer := owned.Claimer[*appsv1.ControllerRevision]{
		Owner: owner, Kind: h.Kind, Selector: selector, Live: live,
		Patch: func(ctx context.Context, r *appsv1.ControllerRevision, patch []byte) error {
			_, err := h.Client.AppsV1().ControllerRevisions(r.Namespace).Patch(ctx, r.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
			return err
		},
	}
	list, err := claimer.Claim(ctx, append(owned.Of[*appsv1.ControllerRevision](h.Index, owner.GetUID()),
		owned.Orphans[*appsv1.ControllerRevision](h.Index, owner.GetNamespace())...))
	Sort(list)
	return list, err
}

// Wanted describes the revision that an owner should have now.
type Wanted struct {
	Template *corev1.PodTemplateSpec
	Hash     func(data []byte) string // names it
	Label    string                   // the hash is put under this label
}

// Current returns the revision that holds the owner's present template: the newest of the list if it does, an older
// one, renumbered to be the newest (a roll-back), or a new one.
func (h *Histories) Current(ctx context.Context, owner metav1.Object, list []*appsv1.ControllerRevision, w Wanted) (*appsv1.ControllerRevision, error) {
	if n := len(list); n > 0 && h.remembers(owner, list[n-1]) {
		return list[n-1], nil
	}
	data, err := Data(w.Template)
	if err != nil {
		return nil, err
	}
	number := int64(1)
	if len(list) > 0 {
		number = list[len(list)-1].Revision + 1
	}
	for i := len(list) - 1; i >= 0; i-- {
		r := list[i]
		if !Holds(r, w.Template, data) {
			continue
		}
		if i == len(list)-1 {
			h.remember(owner, r)
			return r, nil
		}
		r = r.DeepCopy()
		r.Revision = number
		return h.Client.AppsV1().ControllerRevisions(r.Namespace).Update(ctx, r, metav1.UpdateOptions{})
	}
	hash := w.Hash(data)
	r := &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{
			Name: Name(owner.GetName(), hash), Namespace: owner.GetNamespace(),
			Labels: maps.Clone(w.Template.Labels), Annotations: maps.Clone(owner.GetAnnotations()),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, h.Kind)},
		},
		Data:     runtime.RawExtension{Raw: data},
		Revision: number,
	}
	if r.Labels == nil {
		r.Labels = map[string]string{}
	}
	r.Labels[w.Label] = hash
	made, err := h.Client.AppsV1().ControllerRevisions(r.Namespace).Create(ctx, r, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		return made, err
	}
	// Made before, and not in the cache yet; or a clash.
	found, err := h.Client.AppsV1().ControllerRevisions(r.Namespace).Get(ctx, r.Name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	if !metav1.IsControlledBy(found, owner) || !Holds(found, w.Template, data) {
		return nil, fmt.Errorf("%w: %s", ErrCollision, r.Name)
	}
	return found, nil
}

// Delete deletes revisions; those already gone are no error.
func (h *Histories) Delete(ctx context.Context, list []*appsv1.ControllerRevision) error {
	for _, r := range list {
		err := h.Client.AppsV1().ControllerRevisions(r.Namespace).Delete(ctx, r.Name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete revision %s: %w", r.Name, err)
		}
	}
	return nil
}
