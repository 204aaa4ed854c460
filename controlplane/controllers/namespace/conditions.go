package namespace

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// outcome is what one attempt to empty a namespace found.
type outcome struct {
	discovery  error
	failures   []error
	remaining  map[schema.GroupVersionResource]int
	finalizers map[string]int
}

func (o *outcome) empty() bool { return len(o.remaining) == 0 }

// conditions turns an outcome into a namespace's conditions, worded as upstream words them, and says whether they differ.
func (o *outcome) conditions(old []corev1.NamespaceCondition, now metav1.Time) ([]corev1.NamespaceCondition, bool) {
	var remaining, finalizers, failures []string
	for gvr, n := range o.remaining {
		remaining = append(remaining, fmt.Sprintf("%s.%s has %d resource instances", gvr.Resource, gvr.Group, n))
	}
	for name, n := range o.finalizers {
		finalizers = append(finalizers, fmt.Sprintf("%s in %d resource instances", name, n))
	}
	for _, err := range o.failures {
		failures = append(failures, err.Error())
	}
	slices.Sort(remaining)
	slices.Sort(finalizers)
	slices.Sort(failures)
	out, changed := slices.Clone(old), false
	set := func(t corev1.NamespaceConditionType, bad bool, reason, message, okReason, okMessage string) {
		c := corev1.NamespaceCondition{Type: t, Status: corev1.ConditionTrue, Reason: reason, Message: message, LastTransitionTime: now}
		if !bad {
			c.Status, c.Reason, c.Message = corev1.ConditionFalse, okReason, okMessage
		}
		i := slices.IndexFunc(out, func(o corev1.NamespaceCondition) bool { return o.Type == t })
		if i < 0 {
			out, changed = append(out, c), true
			return
		}
		if out[i].Status == c.Status {
			c.LastTransitionTime = out[i].LastTransitionTime
		}
		changed = changed || out[i].Status != c.Status || out[i].Reason != c.Reason || out[i].Message != c.Message
		out[i] = c
	}
	discoveryMessage := ""
	if o.discovery != nil {
		discoveryMessage = o.discovery.Error()
	}
	set(corev1.NamespaceDeletionDiscoveryFailure, o.discovery != nil, "DiscoveryFailed", discoveryMessage,
		"ResourcesDiscovered", "All resources successfully discovered")
	set(corev1.NamespaceDeletionGVParsingFailure, false, "", "",
		"ParsedGroupVersions", "All legacy kube types successfully parsed")
	set(corev1.NamespaceDeletionContentFailure, len(failures) > 0, "ContentDeletionFailed",
		fmt.Sprintf("Failed to delete all resource types, %d remaining: %s", len(failures), strings.Join(failures, ", ")),
		"ContentDeleted", "All content successfully deleted, may be waiting on finalization")
	set(corev1.NamespaceContentRemaining, len(remaining) > 0, "SomeResourcesRemain",
		"Some resources are remaining: "+strings.Join(remaining, ", "),
		"ContentRemoved", "All content successfully removed")
	set(corev1.NamespaceFinalizersRemaining, len(finalizers) > 0, "SomeFinalizersRemain",
		"Some content in the namespace has finalizers remaining: "+strings.Join(finalizers, ", "),
		"ContentHasNoFinalizers", "All content-preserving finalizers finished")
	return out, changed
}
