package claims

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"github.com/mote-edge/mote/controlplane/scheduler/fit"
)

// Bind writes down what was decided for a pod: allocations, and that the pod uses its claims. It comes before the pod's
// binding; Unreserve takes it back.
func (c *Claims) Bind(ctx context.Context, pc fit.PodClaims, node string) error {
	p, ok := pc.(*podClaims)
	if !ok || p == nil {
		return nil
	}
	for _, claim := range p.claims {
		if err := p.bind(ctx, claim, node); err != nil {
			return fmt.Errorf("resource claim %s/%s: %w", claim.Namespace, claim.Name, err)
		}
	}
	return p.bindExtended(ctx, node)
}

func (p *podClaims) bind(ctx context.Context, claim *resourcev1.ResourceClaim, node string) error {
	var decided *resourcev1.AllocationResult
	for i, m := range p.missing {
		if m.UID == claim.UID {
			decided = &p.results[node][i]
		}
	}
	client := p.of.client.ResourceV1().ResourceClaims(claim.Namespace)
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		got, err := client.Get(ctx, claim.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		switch {
		case got.UID != claim.UID:
			return errors.New("it was replaced by another one of that name")
		case got.DeletionTimestamp != nil:
			return errors.New("it is being deleted")
		case decided == nil && got.Status.Allocation == nil:
			return errors.New("it was deallocated meanwhile")
		case decided != nil && got.Status.Allocation != nil:
			return errors.New("it was allocated by somebody else meanwhile")
		case resourceclaim.IsReservedForPod(p.pod, got, false):
			return nil
		case !resourceclaim.CanBeReserved(got):
			return errors.New("it is in use")
		}
		if decided != nil {
			// The finalizer comes first: an allocated claim must not vanish before it is given back.
			if !hasFinalizer(got) {
				got.Finalizers = append(got.Finalizers, resourcev1.Finalizer)
				if got, err = client.Update(ctx, got, metav1.UpdateOptions{}); err != nil {
					return err
				}
			}
			got.Status.Allocation = stamped(decided)
		}
		got.Status.ReservedFor = append(got.Status.ReservedFor, consumer(p.pod))
		_, err = client.UpdateStatus(ctx, got, metav1.UpdateOptions{})
		return err
	})
}

// stamped says when devices were allocated that have to be made ready: their drivers have only so long.
func stamped(a *resourcev1.AllocationResult) *resourcev1.AllocationResult {
	if waits(a) {
		a = a.DeepCopy()
		now := metav1.Now()
		a.AllocationTimestamp = &now
	}
	return a
}

// Unreserve takes back what was decided for a pod that isn't bound after all. Allocations that were written stay: the
// pod will be scheduled to them, or they will be given back.
func (c *Claims) Unreserve(ctx context.Context, pc fit.PodClaims) {
	p, ok := pc.(*podClaims)
	if !ok || p == nil {
		return
	}
	c.mu.Lock()
	for _, claim := range p.missing {
		delete(c.pending, claim.UID)
	}
	for _, x := range p.extended {
		delete(c.pending, x.claim.UID)
	}
	if p.made != nil {
		delete(c.pending, p.made.UID)
	}
	c.mu.Unlock()
	if p.made != nil {
		if err := c.discard(ctx, p.made); err != nil {
			slog.WarnContext(ctx, "claim of extended resources not deleted, the next try does it", "claim", p.made.Namespace+"/"+p.made.Name, "err", err)
		}
	}
	for _, claim := range p.claims {
		if err := c.giveUp(ctx, claim); err != nil && !apierrors.IsNotFound(err) {
			slog.WarnContext(ctx, "devices that didn't get ready stay allocated", "claim", claim.Namespace+"/"+claim.Name, "err", err)
		}
		patch, err := json.Marshal(map[string]any{
			"metadata": map[string]any{"uid": claim.UID},
			"status":   map[string]any{"reservedFor": []any{map[string]any{"$patch": "delete", "uid": p.pod.UID}}},
		})
		if err != nil {
			continue // plain values always marshal
		}
		if got, err := c.client.ResourceV1().ResourceClaims(claim.Namespace).Get(ctx, claim.Name, metav1.GetOptions{}); err != nil || !reserved(got, p.pod) {
			continue
		}
		_, _ = c.client.ResourceV1().ResourceClaims(claim.Namespace).Patch(ctx, claim.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	}
	c.changed()
}

func reserved(claim *resourcev1.ResourceClaim, pod *corev1.Pod) bool {
	return resourceclaim.IsReservedForPod(pod, claim, false)
}

// Refused gives back an allocation that keeps a pod from every node and that nobody uses, so that the next try may
// allocate the claim elsewhere. It reports whether there was one.
func (c *Claims) Refused(ctx context.Context, pc fit.PodClaims) (bool, error) {
	p, ok := pc.(*podClaims)
	if !ok || p == nil {
		return false, nil
	}
	if p.old != nil {
		return true, c.discard(ctx, p.old)
	}
	claim := p.unused()
	if claim == nil {
		return false, nil
	}
	claim = claim.DeepCopy()
	claim.Status.Allocation, claim.Status.ReservedFor = nil, nil
	_, err := c.client.ResourceV1().ResourceClaims(claim.Namespace).UpdateStatus(ctx, claim, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return true, nil // it changed: that is looked at anyway
	}
	return true, err
}
