package claims

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	"k8s.io/dynamic-resource-allocation/structured"

	"github.com/mote-edge/mote/controlplane/scheduler/fit"
)

// filterTimeout bounds the search for devices on one node, as upstream's.
const filterTimeout = 10 * time.Second

// podClaims are one pod's claims while its node is being decided.
type podClaims struct {
	of        *Claims
	pod       *corev1.Pod
	claims    []*resourcev1.ResourceClaim
	places    []*nodeaffinity.NodeSelector // of allocated claims that aren't available everywhere
	missing   []*resourcev1.ResourceClaim  // those without an allocation
	allocator structured.Allocator         // for those
	results   map[string][]resourcev1.AllocationResult
	// misplaced are allocated claims that some node refused the pod for.
	misplaced map[int]bool
	backed    map[corev1.ResourceName]string // the classes behind the pod's extended resources
	extended  map[string]*extended           // what they are on each node; its result comes after the others
	made      *resourcev1.ResourceClaim      // for them
	old       *resourcev1.ResourceClaim      // for them, by an earlier try: it goes first
}

var _ fit.PodClaims = (*podClaims)(nil)

// For implements fit.Claims.
func (c *Claims) For(pod *corev1.Pod) (fit.PodClaims, string) {
	if !Uses(pod) {
		return nil, ""
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ready() {
		return nil, "waiting for the caches of resource claims"
	}
	p := &podClaims{of: c, pod: pod, results: map[string][]resourcev1.AllocationResult{}, misplaced: map[int]bool{}, extended: map[string]*extended{}}
	var err error
	if p.backed, err = c.backing(pod); err != nil {
		return nil, err.Error()
	}
	if len(p.backed) == 0 && len(pod.Spec.ResourceClaims) == 0 {
		return nil, ""
	}
	if len(p.backed) > 0 {
		p.old = c.leftover(pod)
	}
	for i := range pod.Spec.ResourceClaims {
		claim, why := c.claimOf(pod, &pod.Spec.ResourceClaims[i])
		if why != "" {
			return nil, why
		}
		if claim == nil {
			continue // the pod does without
		}
		if why := p.add(claim); why != "" {
			return nil, why
		}
	}
	if len(p.missing) == 0 && len(p.backed) == 0 {
		return p, ""
	}
	state, err := c.allocated()
	if err == nil {
		var slices []*resourcev1.ResourceSlice
		if slices, err = c.devices(); err == nil {
			p.allocator, err = structured.NewAllocator(context.Background(), features, state, classes{c.classes}, slices, c.cel)
		}
	}
	if err != nil {
		return nil, err.Error()
	}
	return p, ""
}

// claimOf is the claim behind a pod's entry; nil if the pod does without one.
func (c *Claims) claimOf(pod *corev1.Pod, entry *corev1.PodResourceClaim) (*resourcev1.ResourceClaim, string) {
	name, check, err := resourceclaim.Name(pod, entry)
	if err != nil {
		return nil, err.Error()
	}
	if name == nil {
		return nil, ""
	}
	claim, err := c.claims.ResourceClaims(pod.Namespace).Get(*name)
	if err != nil {
		return nil, err.Error()
	}
	if claim.DeletionTimestamp != nil {
		return nil, fmt.Sprintf("resourceclaim %q is being deleted", claim.Name)
	}
	if check {
		if err := resourceclaim.IsForPod(pod, claim, false); err != nil {
			return nil, err.Error()
		}
	}
	return claim, ""
}

func (p *podClaims) add(claim *resourcev1.ResourceClaim) string {
	p.claims = append(p.claims, claim)
	p.places = append(p.places, nil)
	ref := claim.Namespace + "/" + claim.Name
	if a := claim.Status.Allocation; a != nil {
		if !resourceclaim.CanBeReserved(claim) && !resourceclaim.IsReservedForPod(p.pod, claim, false) {
			return "resourceclaim in use"
		}
		if a.NodeSelector != nil {
			selector, err := nodeaffinity.NewNodeSelector(a.NodeSelector)
			if err != nil {
				return fmt.Sprintf("resource claim %s: %v", ref, err)
			}
			p.places[len(p.places)-1] = selector
		}
		return ""
	}
	if p.of.pending[claim.UID] != nil {
		return fmt.Sprintf("resource claim %s is in the process of being allocated", ref)
	}
	for _, r := range claim.Spec.Devices.Requests {
		if r.Exactly != nil {
			if why := p.of.classExists(r.Exactly.DeviceClassName, r.Name); why != "" {
				return why
			}
		}
		for _, sub := range r.FirstAvailable {
			if why := p.of.classExists(sub.DeviceClassName, r.Name+"/"+sub.Name); why != "" {
				return why
			}
		}
		if r.Exactly == nil && len(r.FirstAvailable) == 0 {
			return fmt.Sprintf("resource claim %s, request %s: unknown request type", ref, r.Name)
		}
	}
	p.missing = append(p.missing, claim)
	return ""
}

func (c *Claims) classExists(class, request string) string {
	if _, err := c.classes.Get(class); apierrors.IsNotFound(err) {
		return fmt.Sprintf("request %s: device class %s does not exist", request, class)
	}
	return ""
}

// Fits implements fit.PodClaims. What the node would give is kept for Reserve.
func (p *podClaims) Fits(node *corev1.Node) string {
	ok := true
	for i, selector := range p.places {
		if selector != nil && !selector.Match(node) {
			p.misplaced[i], ok = true, false
		}
	}
	if !ok {
		return "resourceclaim not available on the node"
	}
	if p.old != nil {
		return "cannot schedule extended resource claim"
	}
	missing := p.missing
	delete(p.extended, node.Name)
	if x := extendedOn(p.pod, p.backed, node); x != nil {
		p.extended[node.Name], missing = x, append(slices.Clone(missing), x.claim)
	}
	if len(missing) == 0 {
		return ""
	}
	ctx, cancel := context.WithTimeout(context.Background(), filterTimeout)
	defer cancel()
	results, err := p.allocator.Allocate(ctx, node, missing)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("node %s: timed out trying to allocate devices", node.Name)
	case err != nil:
		return err.Error()
	case len(results) != len(missing):
		return "cannot allocate all claims"
	}
	p.results[node.Name] = results
	return ""
}

// Reserve implements fit.PodClaims.
func (p *podClaims) Reserve(node string) {
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	for i, claim := range p.missing {
		if i < len(p.results[node]) {
			p.of.pending[claim.UID] = &p.results[node][i]
		}
	}
	if x := p.extended[node]; x != nil && len(p.results[node]) > len(p.missing) {
		p.of.pending[x.claim.UID] = &p.results[node][len(p.missing)]
	}
}

// Backs implements fit.PodClaims.
func (p *podClaims) Backs(resource corev1.ResourceName) bool { return p.backed[resource] != "" }

// unused is a claim whose allocation keeps the pod from every node that it could go to otherwise, and that nobody uses; nil if there is none.
func (p *podClaims) unused() *resourcev1.ResourceClaim {
	for i, claim := range p.claims {
		if p.misplaced[i] && (len(claim.Status.ReservedFor) == 0 || len(claim.Status.ReservedFor) == 1 && claim.Status.ReservedFor[0].UID == p.pod.UID) {
			return claim
		}
	}
	return nil
}

func consumer(pod *corev1.Pod) resourcev1.ResourceClaimConsumerReference {
	return resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: pod.Name, UID: pod.UID}
}

func hasFinalizer(claim *resourcev1.ResourceClaim) bool {
	return slices.Contains(claim.Finalizers, resourcev1.Finalizer)
}
