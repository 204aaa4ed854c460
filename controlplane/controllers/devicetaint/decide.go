package devicetaint

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
)

// cluster is what a decision looks at.
type cluster struct {
	claim  func(namespace, name string) *resourcev1.ResourceClaim // nil: there is none
	slices []*resourcev1.ResourceSlice
	rules  []*resourcev1.DeviceTaintRule
}

// eviction is when a pod has to go, and the rules among the reasons.
type eviction struct {
	at    time.Time
	rules map[types.UID]bool
}

// evictAt says when a pod has to leave because of the devices that it uses; nil: it may stay. It is pure.
func evictAt(pod *corev1.Pod, c cluster) *eviction {
	if pod.Spec.NodeName == "" || pod.DeletionTimestamp != nil {
		return nil
	}
	var out *eviction
	for name, made := range resourceclaim.PodClaims(pod) {
		claim := c.claim(pod.Namespace, name)
		if claim == nil || claim.Status.Allocation == nil || made && resourceclaim.IsForPod(pod, claim, false) != nil || !resourceclaim.IsReservedForPod(pod, claim, false) {
			continue
		}
		for i := range claim.Status.Allocation.Devices.Results {
			r := &claim.Status.Allocation.Devices.Results[i]
			for _, t := range c.taintsOf(r) {
				at, leaves := due(&t.DeviceTaint, r.Tolerations)
				if !leaves {
					continue
				}
				if out == nil {
					out = &eviction{at: at, rules: map[types.UID]bool{}}
				}
				if at.Before(out.at) {
					out.at = at
				}
				if t.rule != "" {
					out.rules[t.rule] = true
				}
			}
		}
	}
	return out
}

// taint is one that a device's driver has published, or one of a rule.
type taint struct {
	resourcev1.DeviceTaint
	rule types.UID
}

// taintsOf are the taints of an allocated device that evict. Rules count for devices that aren't published any more, too.
func (c cluster) taintsOf(r *resourcev1.DeviceRequestAllocationResult) []taint {
	var out []taint
	if d := c.device(r); d != nil {
		for _, t := range d.Taints {
			if t.Effect == resourcev1.DeviceTaintEffectNoExecute {
				out = append(out, taint{DeviceTaint: t})
			}
		}
	}
	for _, rule := range c.rules {
		if rule.Spec.Taint.Effect == resourcev1.DeviceTaintEffectNoExecute && selects(rule.Spec.DeviceSelector, r.Driver, r.Pool, r.Device) {
			out = append(out, taint{rule.Spec.Taint, rule.UID})
		}
	}
	return out
}

// device is the published one, of the newest generation of its pool.
func (c cluster) device(r *resourcev1.DeviceRequestAllocationResult) *resourcev1.Device {
	var found *resourcev1.Device
	generation := int64(-1)
	for _, s := range c.slices {
		if s.Spec.Driver != r.Driver || s.Spec.Pool.Name != r.Pool || s.Spec.Pool.Generation < generation {
			continue
		}
		if s.Spec.Pool.Generation > generation {
			generation, found = s.Spec.Pool.Generation, nil
		}
		for i := range s.Spec.Devices {
			if s.Spec.Devices[i].Name == r.Device {
				found = &s.Spec.Devices[i]
			}
		}
	}
	return found
}

// selects tells whether a rule is about a device. Without a selector it is about none, with an empty one about all.
func selects(s *resourcev1.DeviceTaintSelector, driver, pool, device string) bool {
	return s != nil && (s.Driver == nil || *s.Driver == driver) && (s.Pool == nil || *s.Pool == pool) && (s.Device == nil || *s.Device == device)
}

// due is when a taint drives its device's users out; false if they tolerate it for good. Of several tolerations the shortest
// counts.
func due(t *resourcev1.DeviceTaint, tolerations []resourcev1.DeviceToleration) (time.Time, bool) {
	var at time.Time
	if t.TimeAdded != nil {
		at = t.TimeAdded.Time
	}
	least := int64(-1)
	for _, tol := range tolerations {
		if tol.Effect != resourcev1.DeviceTaintEffectNoExecute || !resourceclaim.ToleratesTaint(tol, *t) {
			continue
		}
		if tol.TolerationSeconds == nil {
			return time.Time{}, false
		}
		if n := max(*tol.TolerationSeconds, 0); least < 0 || n < least {
			least = n
		}
	}
	return at.Add(time.Duration(max(least, 0)) * time.Second), true
}

// tally is what a rule does, or would do.
type tally struct {
	published, allocated int // devices that it selects; counted for rules without effect alone
	pods, namespaces     int // to be evicted
	evicted              int // so far
}

// condition is how a rule's status tells of evictions, in upstream's words.
func condition(rule *resourcev1.DeviceTaintRule, n tally) metav1.Condition {
	c := metav1.Condition{Type: resourcev1.DeviceTaintConditionEvictionInProgress, Status: metav1.ConditionFalse, ObservedGeneration: rule.Generation}
	switch rule.Spec.Taint.Effect {
	case resourcev1.DeviceTaintEffectNoExecute:
		switch {
		case n.pods > 0:
			c.Status, c.Reason = metav1.ConditionTrue, "PodsPendingEviction"
			c.Message = count(n.pods, "pod needs", "pods need") + " to be evicted in " + count(n.namespaces, "namespace", "different namespaces") + "."
		case n.evicted > 0:
			c.Reason = "Completed"
		default:
			c.Reason = "NotStarted"
		}
	case resourcev1.DeviceTaintEffectNone:
		c.Reason = "NoEffect"
		c.Message = fmt.Sprintf("%s selected. %s selected. %s be evicted in %s if the effect was NoExecute. "+
			"This information will not be updated again. Recreate the DeviceTaintRule to trigger an update.",
			count(n.published, "published device", "published devices"), count(n.allocated, "allocated device", "allocated devices"),
			count(n.pods, "pod would", "pods would"), count(n.namespaces, "namespace", "different namespaces"))
	default:
		c.Reason, c.Message = "OtherEffect", "Eviction only happens for the NoExecute effect."
	}
	if n.evicted > 0 {
		if c.Message != "" {
			c.Message += " "
		}
		c.Message += count(n.evicted, "pod", "pods") + " evicted since starting the controller."
	}
	return c
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// devicesOf are the devices that a pod's claims have: driver, pool, name.
func devicesOf(pod *corev1.Pod, c cluster) [][3]string {
	var out [][3]string
	for name := range resourceclaim.PodClaims(pod) {
		if claim := c.claim(pod.Namespace, name); claim != nil && claim.Status.Allocation != nil {
			for _, r := range claim.Status.Allocation.Devices.Results {
				out = append(out, [3]string{r.Driver, r.Pool, r.Device})
			}
		}
	}
	return out
}
