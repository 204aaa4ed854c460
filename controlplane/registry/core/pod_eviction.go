package core

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	policyv1beta1 "k8s.io/api/policy/v1beta1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/wait"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/dryrun"
	"k8s.io/client-go/util/retry"
	pdbhelper "k8s.io/component-helpers/apps/poddisruptionbudget"
	"k8s.io/utils/ptr"

	"github.com/mote-edge/mote/controlplane/registry/resource"
)

// maxDisrupted bounds the evictions that a budget's controller hasn't confirmed.
const maxDisrupted = 2000

var evictionRetry = wait.Backoff{Steps: 20, Duration: 500 * time.Millisecond, Factor: 1, Jitter: 0.1}

// podEviction is pods/eviction: a delete that disruption budgets may refuse.
type podEviction struct {
	// pods writes through the status strategy, for the DisruptionTarget condition.
	pods    *genericregistry.Store
	budgets *genericregistry.Store
	status  *resource.Status
}

func (r *podEviction) New() runtime.Object { return &policyv1.Eviction{} }
func (r *podEviction) Destroy()            {}

func (r *podEviction) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return policyv1.SchemeGroupVersion.WithKind("Eviction")
}

func (r *podEviction) AcceptsGroupVersion(gv schema.GroupVersion) bool {
	return gv == policyv1.SchemeGroupVersion || gv == policyv1beta1.SchemeGroupVersion
}

var (
	_ rest.NamedCreater             = (*podEviction)(nil)
	_ rest.GroupVersionKindProvider = (*podEviction)(nil)
	_ rest.GroupVersionAcceptor     = (*podEviction)(nil)
)

func (r *podEviction) Create(ctx context.Context, name string, obj runtime.Object, createValidation rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	e, ok := obj.(*policyv1.Eviction)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a Eviction object: %T", obj))
	}
	if e.Name != name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	deleteOptions, err := evictionOptions(e, options)
	if err != nil {
		return nil, err
	}
	if createValidation != nil {
		if err := createValidation(ctx, e.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	pod, done, err := r.deleteUnguarded(ctx, name, deleteOptions)
	if err != nil {
		return nil, err
	}
	if !done {
		if err := r.deleteGuarded(ctx, pod, deleteOptions); err != nil {
			return nil, err
		}
	}
	return &metav1.Status{Status: metav1.StatusSuccess}, nil
}

// evictionOptions are the delete options, with the request's dry run in them.
func evictionOptions(e *policyv1.Eviction, options *metav1.CreateOptions) (*metav1.DeleteOptions, error) {
	d := e.DeleteOptions
	if d == nil {
		return &metav1.DeleteOptions{DryRun: options.DryRun}, nil
	}
	if ptr.Deref(d.IgnoreStoreReadErrorWithClusterBreakingPotential, false) {
		return nil, apierrors.NewInvalid(policyv1.SchemeGroupVersion.WithKind("Eviction").GroupKind(), e.Name, field.ErrorList{
			field.Invalid(field.NewPath("deleteOptions", "ignoreStoreReadErrorWithClusterBreakingPotential"), true,
				"can not be set for pod eviction, try after removing the option"),
		})
	}
	switch {
	case len(d.DryRun) == 0:
		d.DryRun = options.DryRun
	case len(options.DryRun) > 0 && !slices.Equal(d.DryRun, options.DryRun):
		return nil, fmt.Errorf("Non-matching dry-run options in request and content: %v and %v", options.DryRun, d.DryRun)
	}
	return d, nil
}

// deleteUnguarded deletes a pod that no budget protects: one that has ended, is
// ending, or has not begun. It returns the pod when budgets have a say.
func (r *podEviction) deleteUnguarded(ctx context.Context, name string, options *metav1.DeleteOptions) (pod *corev1.Pod, done bool, err error) {
	again := apierrors.IsConflict
	if hasVersion(options) {
		again = func(error) bool { return false }
	}
	err = retry.OnError(evictionRetry, again, func() error {
		obj, err := r.pods.Get(ctx, name, &metav1.GetOptions{})
		if err != nil {
			return err
		}
		pod = obj.(*corev1.Pod)
		if !podDone(pod) && pod.Status.Phase != corev1.PodPending && pod.DeletionTimestamp.IsZero() {
			return nil
		}
		o := options
		if !podDone(pod) && pod.DeletionTimestamp.IsZero() && !hasVersion(options) {
			o = withVersion(options, pod.ResourceVersion) // it may be about to become ready
		}
		if err := r.delete(ctx, name, o); err != nil {
			return err
		}
		done = true
		return nil
	})
	return pod, done, err
}

func (r *podEviction) deleteGuarded(ctx context.Context, pod *corev1.Pod, options *metav1.DeleteOptions) error {
	budgets, err := r.budgetsOf(ctx, pod)
	if err != nil {
		return err
	}
	pinned := false
	switch len(budgets) {
	case 0:
	case 1:
		if unhealthyMayGo(pod, &budgets[0]) {
			pinned = true
			break
		}
		if err := r.spend(ctx, pod, &budgets[0], dryrun.IsDryRun(options.DryRun)); err != nil {
			return err
		}
	default:
		return apierrors.NewInternalError(errors.New("This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."))
	}
	o := options
	if pinned {
		o = withVersion(options, pod.ResourceVersion) // it may have become ready meanwhile
	}
	err = r.delete(ctx, pod.Name, o)
	if apierrors.IsConflict(err) && pinned && !hasVersion(options) {
		return tooManyEvictions(budgets[0].Name)
	}
	return err
}

// unhealthyMayGo is true of a pod that isn't ready and that the budget's policy
// lets go without counting it.
func unhealthyMayGo(pod *corev1.Pod, b *policyv1.PodDisruptionBudget) bool {
	if hasCondition(pod, corev1.PodReady) {
		return false
	}
	if ptr.Deref(b.Spec.UnhealthyPodEvictionPolicy, policyv1.IfHealthyBudget) == policyv1.AlwaysAllow {
		return true
	}
	return b.Status.CurrentHealthy >= b.Status.DesiredHealthy && b.Status.DesiredHealthy > 0
}

func (r *podEviction) budgetsOf(ctx context.Context, pod *corev1.Pod) ([]policyv1.PodDisruptionBudget, error) {
	obj, err := r.budgets.List(ctx, &metainternalversion.ListOptions{})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(obj.(*policyv1.PodDisruptionBudgetList).Items, func(b policyv1.PodDisruptionBudget) bool {
		selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		return err != nil || !selector.Matches(labels.Set(pod.Labels))
	}), nil
}

// spend takes one disruption from the budget, or says why there is none.
func (r *podEviction) spend(ctx context.Context, pod *corev1.Pod, b *policyv1.PodDisruptionBudget, dryRun bool) error {
	fresh := b
	err := retry.RetryOnConflict(evictionRetry, func() error {
		if fresh == nil {
			obj, err := r.budgets.Get(ctx, b.Name, &metav1.GetOptions{})
			if err != nil {
				return err
			}
			fresh = obj.(*policyv1.PodDisruptionBudget)
		}
		spent, err := spendOne(fresh, pod.Name, time.Now())
		if err != nil || dryRun {
			return err
		}
		_, _, err = r.status.Update(ctx, b.Name, rest.DefaultUpdatedObjectInfo(spent),
			rest.ValidateAllObjectFunc, rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{})
		fresh = nil
		return err
	})
	if wait.Interrupted(err) {
		return apierrors.NewTimeoutError(fmt.Sprintf("couldn't update PodDisruptionBudget %q due to conflicts", b.Name), 10)
	}
	return err
}

// spendOne returns the budget after an eviction of the pod.
func spendOne(b *policyv1.PodDisruptionBudget, pod string, now time.Time) (*policyv1.PodDisruptionBudget, error) {
	st := &b.Status
	cause := func(err *apierrors.StatusError, format string, args ...any) error {
		err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes,
			metav1.StatusCause{Type: policyv1.DisruptionBudgetCause, Message: fmt.Sprintf(format, args...)})
		return err
	}
	gr := policyv1.Resource("poddisruptionbudget")
	switch {
	case st.ObservedGeneration < b.Generation:
		return nil, tooManyEvictions(b.Name)
	case st.DisruptionsAllowed < 0:
		return nil, cause(apierrors.NewForbidden(gr, b.Name, errors.New("pdb disruptions allowed is negative")),
			"The disruption budget %s does not allow evicting pods currently: pdb disruptions allowed is negative", b.Name)
	case len(st.DisruptedPods) > maxDisrupted:
		return nil, cause(apierrors.NewForbidden(gr, b.Name, errors.New("DisruptedPods map too big - too many evictions not confirmed by PDB controller")),
			"The disruption budget %s does not allow evicting pods currently: too many pending evictions not confirmed by PDB controller", b.Name)
	case st.DisruptionsAllowed == 0:
		refused := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", 0)
		c := meta.FindStatusCondition(st.Conditions, policyv1.DisruptionAllowedCondition)
		told := c != nil && c.Status == metav1.ConditionFalse && c.Message != ""
		switch {
		case told && c.Reason == policyv1.SyncFailedReason:
			return nil, cause(refused, "The disruption budget %s does not allow evicting pods currently because it failed sync: %s", b.Name, c.Message)
		case st.CurrentHealthy <= st.DesiredHealthy:
			return nil, cause(refused, "The disruption budget %s needs %d healthy pods and has %d currently", b.Name, st.DesiredHealthy, st.CurrentHealthy)
		case told:
			return nil, cause(refused, "The disruption budget %s does not allow evicting pods currently (%s): %s", b.Name, c.Reason, c.Message)
		}
		return nil, cause(refused, "The disruption budget %s does not allow evicting pods currently", b.Name)
	}
	b = b.DeepCopy()
	b.Status.DisruptionsAllowed--
	if b.Status.DisruptionsAllowed == 0 {
		pdbhelper.UpdateDisruptionAllowedCondition(b)
	}
	if b.Status.DisruptedPods == nil {
		b.Status.DisruptedPods = map[string]metav1.Time{}
	}
	// Tells the budget's controller not to count on this pod any more.
	b.Status.DisruptedPods[pod] = metav1.NewTime(now)
	return b, nil
}

func tooManyEvictions(budget string) error {
	err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", 10)
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{
		Type: policyv1.DisruptionBudgetCause, Message: fmt.Sprintf("The disruption budget %s is still being processed by the server.", budget),
	})
	return err
}

// delete says in the pod's status why it goes, and deletes it.
func (r *podEviction) delete(ctx context.Context, name string, options *metav1.DeleteOptions) error {
	if !dryrun.IsDryRun(options.DryRun) {
		updated, _, err := r.pods.Update(ctx, name, rest.DefaultUpdatedObjectInfo(nil, func(_ context.Context, _, old runtime.Object) (runtime.Object, error) {
			p := old.(*corev1.Pod).DeepCopy()
			if err := matches(p, options.Preconditions); err != nil {
				return nil, err
			}
			setPodCondition(&p.Status, corev1.PodCondition{
				Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, ObservedGeneration: p.Generation,
				Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting",
			})
			return p, nil
		}), rest.ValidateAllObjectFunc, rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{})
		if err != nil {
			return err
		}
		if hasVersion(options) {
			options = withVersion(options, updated.(*corev1.Pod).ResourceVersion) // we changed it ourselves
		}
	}
	_, _, err := r.pods.Delete(ctx, name, rest.ValidateAllObjectFunc, options)
	return err
}

func matches(p *corev1.Pod, pre *metav1.Preconditions) error {
	if pre == nil {
		return nil
	}
	gr := schema.GroupResource{Resource: "Pod"}
	if uid := ptr.Deref(pre.UID, ""); uid != "" && uid != p.UID {
		return apierrors.NewConflict(gr, p.Name, fmt.Errorf("the UID in the precondition (%s) does not match the UID in record (%s). The object might have been deleted and then recreated", uid, p.UID))
	}
	if rv := ptr.Deref(pre.ResourceVersion, ""); rv != "" && rv != p.ResourceVersion {
		return apierrors.NewConflict(gr, p.Name, fmt.Errorf("the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%s). The object might have been modified", rv, p.ResourceVersion))
	}
	return nil
}

func hasVersion(o *metav1.DeleteOptions) bool {
	return o.Preconditions != nil && o.Preconditions.ResourceVersion != nil
}

func withVersion(o *metav1.DeleteOptions, version string) *metav1.DeleteOptions {
	o = o.DeepCopy()
	if o.Preconditions == nil {
		o.Preconditions = &metav1.Preconditions{}
	}
	o.Preconditions.ResourceVersion = &version
	return o
}
