package claims

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mote-edge/mote/controlplane/scheduler/fit"
)

// Devices that have to be made ready before their pod is bound (KEP-5007): fabric-attached ones, say. Their driver sets
// conditions in the claim's status; until those that the device names are true, the pod waits for its binding.

// bindingTimeout is how long drivers have, as with upstream's scheduler.
const bindingTimeout = 10 * time.Minute

var (
	errBindingFailed  = errors.New("device binding failed")
	errBindingTimeout = errors.New("device binding timeout")
)

// waits tells whether devices of an allocation have to be made ready.
func waits(a *resourcev1.AllocationResult) bool {
	return a != nil && slices.ContainsFunc(a.Devices.Results, func(r resourcev1.DeviceRequestAllocationResult) bool { return len(r.BindingConditions) > 0 })
}

// prepared tells whether a claim's devices are ready, or that they won't be. It is pure.
func prepared(claim *resourcev1.ResourceClaim) (bool, error) {
	if claim.Status.Allocation == nil {
		return false, nil
	}
	for _, r := range claim.Status.Allocation.Devices.Results {
		if len(r.BindingConditions) == 0 {
			continue
		}
		i := slices.IndexFunc(claim.Status.Devices, func(d resourcev1.AllocatedDeviceStatus) bool {
			return d.Driver == r.Driver && d.Pool == r.Pool && d.Device == r.Device && (r.ShareID == nil || d.ShareID != nil && *d.ShareID == string(*r.ShareID))
		})
		if i < 0 {
			return false, nil
		}
		have := claim.Status.Devices[i].Conditions
		for _, name := range r.BindingFailureConditions {
			if c := apimeta.FindStatusCondition(have, name); c != nil && c.Status == metav1.ConditionTrue {
				return false, fmt.Errorf("%w: claim=%s, reason=%s, message=%q", errBindingFailed, claim.Name, c.Reason, c.Message)
			}
		}
		for _, name := range r.BindingConditions {
			if !apimeta.IsStatusConditionTrue(have, name) {
				return false, nil
			}
		}
	}
	return true, nil
}

// Pending tells whether a pod's devices have to be made ready before it is bound to a node: Await waits for that.
func (c *Claims) Pending(pc fit.PodClaims, node string) bool {
	p, ok := pc.(*podClaims)
	return ok && p != nil && len(p.waiting(node)) > 0
}

// waiting are the pod's claims whose devices have to be made ready.
func (p *podClaims) waiting(node string) []*resourcev1.ResourceClaim {
	var out []*resourcev1.ResourceClaim
	for _, claim := range p.claims {
		a := claim.Status.Allocation
		if i := slices.Index(p.missing, claim); i >= 0 && i < len(p.results[node]) {
			a = &p.results[node][i]
		}
		if waits(a) {
			out = append(out, claim)
		}
	}
	if i := len(p.missing); p.made != nil && i < len(p.results[node]) && waits(&p.results[node][i]) {
		out = append(out, p.made)
	}
	return out
}

// Await blocks until the drivers have made a pod's devices ready. An error means that they won't be, or not in time.
func (c *Claims) Await(ctx context.Context, pc fit.PodClaims, node string) error {
	p, ok := pc.(*podClaims)
	if !ok || p == nil {
		return nil
	}
	for _, claim := range p.waiting(node) {
		if err := c.await(ctx, claim); err != nil {
			return err
		}
	}
	return nil
}

func (c *Claims) await(ctx context.Context, claim *resourcev1.ResourceClaim) error {
	until := time.Now().Add(bindingTimeout)
	for {
		c.mu.Lock()
		moved := c.moved
		c.mu.Unlock()
		got, err := c.claims.ResourceClaims(claim.Namespace).Get(claim.Name)
		switch {
		case err != nil && !apierrors.IsNotFound(err): // one that was made a moment ago may not be in the cache
			return err
		case err == nil && got.UID != claim.UID:
			return fmt.Errorf("claim %s was replaced by another one of that name", claim.Name)
		case err == nil:
			if ready, err := prepared(got); ready || err != nil {
				return err
			}
			if a := got.Status.Allocation; a != nil && a.AllocationTimestamp != nil { // by a scheduler before this one, it may be
				until = a.AllocationTimestamp.Add(bindingTimeout)
			}
		}
		timer := time.NewTimer(time.Until(until))
		select {
		case <-moved:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
			return fmt.Errorf("%w: claim=%s", errBindingTimeout, claim.Name)
		}
	}
}

// giveUp takes the allocation from a claim whose devices didn't get ready: the next try may choose others.
func (c *Claims) giveUp(ctx context.Context, claim *resourcev1.ResourceClaim) error {
	got, err := c.client.ResourceV1().ResourceClaims(claim.Namespace).Get(ctx, claim.Name, metav1.GetOptions{})
	if err != nil || got.UID != claim.UID || !waits(got.Status.Allocation) {
		return err
	}
	if ready, err := prepared(got); ready && err == nil {
		return nil
	}
	got = got.DeepCopy()
	got.Status.Allocation, got.Status.ReservedFor, got.Status.Devices = nil, nil, nil
	_, err = c.client.ResourceV1().ResourceClaims(claim.Namespace).UpdateStatus(ctx, got, metav1.UpdateOptions{})
	return err
}
