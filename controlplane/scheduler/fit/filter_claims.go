package fit

import corev1 "k8s.io/api/core/v1"

// Claims is what knows the cluster's resource claims and devices.
type Claims interface {
	// For returns the pod's claims, nil if it has none, or why it can't be scheduled to any node.
	For(pod *corev1.Pod) (PodClaims, string)
}

// PodClaims are one pod's claims while its node is decided.
type PodClaims interface {
	// Fits says why a node can't serve the claims; "" if it can. What it would give is kept.
	Fits(node *corev1.Node) string
	// Reserve keeps what the node would give from other pods.
	Reserve(node string)
	// Backs tells whether an extended resource is had by a claim where no device plugin has it.
	Backs(resource corev1.ResourceName) bool
}

func newClaims(pod *Pod, claims Claims) (PodClaims, Refusal) {
	if claims == nil && len(pod.Spec.ResourceClaims) == 0 {
		return nil, Refusal{}
	}
	if claims == nil {
		return nil, refuseFinally(DynamicResources, "pod has resource claims, which this scheduler does not allocate")
	}
	c, why := claims.For(pod.Pod)
	if why != "" {
		return nil, refuseFinally(DynamicResources, why)
	}
	if c == nil {
		return nil, Refusal{}
	}
	return c, Refusal{}
}

// filterClaims refuses finally: pods that make room don't give claims back before they have ended.
func filterClaims(c *Cycle, n *Node) Refusal {
	if c.Claims == nil {
		return Refusal{}
	}
	if why := c.Claims.Fits(n.Node); why != "" {
		return refuseFinally(DynamicResources, why)
	}
	return Refusal{}
}
