package core

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	storageerr "k8s.io/apiserver/pkg/storage/errors"
	"k8s.io/apiserver/pkg/util/dryrun"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/mote-edge/mote/controlplane/registry/resource"
)

// namespaces has a descriptor, and a REST of its own because deleting one is a
// state machine: Active → Terminating → gone once spec.finalizers is empty.
var namespaces = resource.Descriptor[*corev1.Namespace]{
	GV: corev1.SchemeGroupVersion, Plural: "namespaces", Cached: true, Singular: "namespace", Cluster: true, ShortNames: []string{"ns"},
	New:     func() *corev1.Namespace { return &corev1.Namespace{} },
	NewList: func() runtime.Object { return &corev1.NamespaceList{} },
	Columns: []resource.Column[*corev1.Namespace]{
		resource.Name[*corev1.Namespace](),
		{Name: "Status", Doc: "The status of the namespace", Value: func(n *corev1.Namespace) any { return string(n.Status.Phase) }},
		resource.Age[*corev1.Namespace](),
	},
	HasStatus:     true,
	ReturnDeleted: true,
	NameRule:      validation.ValidateNamespaceName,
	Fields:        func(n *corev1.Namespace) fields.Set { return fields.Set{"status.phase": string(n.Status.Phase)} },
	PrepareCreate: func(_ context.Context, n *corev1.Namespace) {
		n.Status.Phase = corev1.NamespaceActive
		if !slices.Contains(n.Spec.Finalizers, corev1.FinalizerKubernetes) {
			n.Spec.Finalizers = append(n.Spec.Finalizers, corev1.FinalizerKubernetes)
		}
	},
	PrepareUpdate: func(_ context.Context, n, old *corev1.Namespace) { n.Spec.Finalizers = old.Spec.Finalizers },
	// The label must match a generated name too, and that exists only now.
	Canonicalize: func(n *corev1.Namespace) {
		if n.Labels == nil {
			n.Labels = map[string]string{}
		}
		n.Labels[corev1.LabelMetadataName] = n.Name
	},
	Tune: func(s *genericregistry.Store) {
		s.ShouldDeleteDuringUpdate = func(ctx context.Context, key string, obj, existing runtime.Object) bool {
			n, ok := obj.(*corev1.Namespace)
			return ok && len(n.Spec.Finalizers) == 0 && genericregistry.ShouldDeleteDuringUpdate(ctx, key, obj, existing)
		}
	},
}

// namespaceREST hides DeleteCollection, as upstream does: there is no good
// meaning for deleting all namespaces.
type namespaceREST struct {
	rest.Getter
	rest.Lister
	rest.CreaterUpdater
	rest.Watcher
	store *resource.REST
}

func newNamespaceREST(store *resource.REST) *namespaceREST {
	return &namespaceREST{Getter: store, Lister: store, CreaterUpdater: store, Watcher: store, store: store}
}

func (r *namespaceREST) New() runtime.Object              { return r.store.New() }
func (r *namespaceREST) Destroy()                         { r.store.Destroy() }
func (r *namespaceREST) NamespaceScoped() bool            { return false }
func (r *namespaceREST) GetSingularName() string          { return r.store.GetSingularName() }
func (r *namespaceREST) ShortNames() []string             { return r.store.ShortNames() }
func (r *namespaceREST) ReadinessCheck() error            { return r.store.ReadinessCheck() }
func (r *namespaceREST) DeleteReturnsDeletedObject() bool { return true }
func (r *namespaceREST) StorageVersion() runtime.GroupVersioner {
	return r.store.StorageVersion()
}

func (r *namespaceREST) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return r.store.GetResetFields()
}

// Delete marks the namespace as terminating; the namespace controller empties
// it and drops the finalizer, and then a second delete removes it.
func (r *namespaceREST) Delete(ctx context.Context, name string, deleteValidation rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	obj, err := r.store.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, false, err
	}
	ns := obj.(*corev1.Namespace)
	if options == nil {
		options = metav1.NewDeleteOptions(0)
	}
	if options.Preconditions == nil {
		options.Preconditions = &metav1.Preconditions{}
	}
	gr := namespaces.GroupResource()
	switch p := options.Preconditions; {
	case p.UID == nil:
		p.UID = &ns.UID
	case *p.UID != ns.UID:
		return nil, false, apierrors.NewConflict(gr, name,
			fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", *p.UID, ns.UID))
	}
	if rv := options.Preconditions.ResourceVersion; rv != nil && *rv != ns.ResourceVersion {
		return nil, false, apierrors.NewConflict(gr, name,
			fmt.Errorf("Precondition failed: ResourceVersion in precondition: %v, ResourceVersion in object meta: %v", *rv, ns.ResourceVersion))
	}
	if !ns.DeletionTimestamp.IsZero() {
		if len(ns.Spec.Finalizers) != 0 {
			return ns, false, nil
		}
		return r.store.Delete(ctx, name, deleteValidation, options)
	}

	key, err := r.store.KeyFunc(ctx, name)
	if err != nil {
		return nil, false, err
	}
	out := r.store.New()
	err = r.store.Storage.GuaranteedUpdate(ctx, key, out, false,
		&storage.Preconditions{UID: options.Preconditions.UID, ResourceVersion: options.Preconditions.ResourceVersion},
		storage.SimpleUpdate(func(existing runtime.Object) (runtime.Object, error) {
			ns := existing.(*corev1.Namespace)
			if err := deleteValidation(ctx, ns); err != nil {
				return nil, err
			}
			if ns.DeletionTimestamp.IsZero() {
				now := metav1.Now()
				ns.DeletionTimestamp = &now
			}
			ns.Status.Phase = corev1.NamespaceTerminating
			ns.Finalizers = propagationFinalizers(ns.Finalizers, options)
			return ns, nil
		}), dryrun.IsDryRun(options.DryRun), nil)
	if err != nil {
		err = storageerr.InterpretUpdateError(storageerr.InterpretGetError(err, gr, name), gr, name)
		if _, ok := err.(apierrors.APIStatus); !ok {
			err = apierrors.NewInternalError(err)
		}
		return nil, false, err
	}
	return out, false, nil
}

// propagationFinalizers adds or takes away the garbage collector's finalizers
// as the delete options ask; without an opinion they stay as they are.
func propagationFinalizers(have []string, options *metav1.DeleteOptions) []string {
	orphan, foreground := slices.Contains(have, metav1.FinalizerOrphanDependents), slices.Contains(have, metav1.FinalizerDeleteDependents)
	switch {
	case options.OrphanDependents != nil: //nolint:staticcheck // old clients still send it
		orphan = *options.OrphanDependents //nolint:staticcheck // as above
		foreground = !orphan
	case options.PropagationPolicy != nil:
		orphan = *options.PropagationPolicy == metav1.DeletePropagationOrphan
		foreground = *options.PropagationPolicy == metav1.DeletePropagationForeground
	}
	out := slices.DeleteFunc(slices.Clone(have), func(f string) bool {
		return f == metav1.FinalizerOrphanDependents || f == metav1.FinalizerDeleteDependents
	})
	if orphan {
		out = append(out, metav1.FinalizerOrphanDependents)
	}
	if foreground {
		out = append(out, metav1.FinalizerDeleteDependents)
	}
	return out
}

// addNamespaces adds namespaces, their status and their finalize subresource.
func addNamespaces(c *resource.Config, to resource.Storages) error {
	r, status, err := namespaces.Build(c)
	if err != nil {
		return err
	}
	finalize := namespaces
	finalize.ResetStatusFields = []fieldpath.Path{fieldpath.MakePathOrDie("status")}
	to["namespaces"] = newNamespaceREST(r)
	to["namespaces/status"] = status
	to["namespaces/finalize"] = namespaceFinalize{finalize.Subresource(r.Store, func(_ context.Context, n, old *corev1.Namespace) {
		n.Status = old.Status
	}, nil)}
	return nil
}

// namespaceFinalize changes spec.finalizers alone of what an update may change. It can be updated, not read.
type namespaceFinalize struct{ status *resource.Status }

var (
	_ rest.Storage             = namespaceFinalize{}
	_ rest.Updater             = namespaceFinalize{}
	_ rest.ResetFieldsStrategy = namespaceFinalize{}
)

// New gives the decoder an object.
func (r namespaceFinalize) New() runtime.Object { return r.status.New() }

// Destroy does nothing: the namespaces' own storage ends what they share.
func (r namespaceFinalize) Destroy() {}

// Update changes the finalizers.
func (r namespaceFinalize) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, force bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return r.status.Update(ctx, name, info, create, update, force, options)
}

// GetResetFields are the fields that an update leaves alone.
func (r namespaceFinalize) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return r.status.GetResetFields()
}
