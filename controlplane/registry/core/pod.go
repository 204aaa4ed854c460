package core

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/mote-edge/mote/controlplane/registry/resource"
)

var pods = resource.Descriptor[*corev1.Pod]{
	GV: corev1.SchemeGroupVersion, Plural: "pods", Cached: true, Singular: "pod",
	ShortNames: []string{"po"}, Categories: []string{"all"},
	New:           func() *corev1.Pod { return &corev1.Pod{} },
	NewList:       func() runtime.Object { return &corev1.PodList{} },
	Columns:       podColumns,
	RowConditions: finishedRow,
	HasStatus:     true,
	Generation:    true,
	ReturnDeleted: true,
	Fields:        podFields,
	Indexed:       "spec.nodeName",
	Graceful:      podGracePeriod,
	PrepareCreate: preparePod,
	PrepareStatus: preparePodStatus,
	WarnCreate: func(_ context.Context, p *corev1.Pod) []string {
		if msgs := utilvalidation.IsDNS1123Label(p.Name); len(msgs) != 0 {
			return []string{fmt.Sprintf("metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: %v", msgs)}
		}
		return nil
	},
	ResetStatusFields: []fieldpath.Path{
		fieldpath.MakePathOrDie("spec"),
		fieldpath.MakePathOrDie("metadata", "deletionTimestamp"),
		fieldpath.MakePathOrDie("metadata", "ownerReferences"),
	},
}

func podFields(p *corev1.Pod) fields.Set {
	set := make(fields.Set, 10)
	set["spec.nodeName"] = p.Spec.NodeName
	set["spec.restartPolicy"] = string(p.Spec.RestartPolicy)
	set["spec.schedulerName"] = p.Spec.SchedulerName
	set["spec.serviceAccountName"] = p.Spec.ServiceAccountName
	set["spec.hostNetwork"] = strconv.FormatBool(p.Spec.HostNetwork)
	set["status.phase"] = string(p.Status.Phase)
	set["status.podIP"] = ""
	if len(p.Status.PodIPs) > 0 {
		set["status.podIP"] = p.Status.PodIPs[0].IP
	}
	set["status.nominatedNodeName"] = p.Status.NominatedNodeName
	return set
}

// podGracePeriod decides how long a deleted pod may still run. Nobody waits for
// a pod that no node has, or that has ended.
func podGracePeriod(_ context.Context, p *corev1.Pod, options *metav1.DeleteOptions) bool {
	if options == nil {
		return false
	}
	var period int64
	switch {
	case options.GracePeriodSeconds != nil:
		period = *options.GracePeriodSeconds
	case p.Spec.TerminationGracePeriodSeconds != nil:
		period = *p.Spec.TerminationGracePeriodSeconds
	}
	if p.Spec.NodeName == "" || podDone(p) {
		period = 0
	}
	if period < 0 {
		period = 1
	}
	options.GracePeriodSeconds = &period
	return true
}

func podDone(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded
}

func preparePod(_ context.Context, p *corev1.Pod) {
	p.Status.Phase = corev1.PodPending
	if len(p.Spec.SchedulingGates) > 0 {
		setPodCondition(&p.Status, corev1.PodCondition{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonSchedulingGated,
			Message: "Scheduling is blocked due to non-empty scheduling gates",
		})
	}
	mergeMatchLabelKeys(p)
	p.Status.QOSClass = QOSClass(p)
}

// mergeMatchLabelKeys writes the pod's own values of matchLabelKeys into the
// selectors, so that the scheduler need not know of the keys (KEP-3633, KEP-3243).
func mergeMatchLabelKeys(p *corev1.Pod) {
	merge := func(s *metav1.LabelSelector, keys []string, op metav1.LabelSelectorOperator) {
		if s == nil {
			return // selects nothing, and must stay so
		}
		for _, k := range keys {
			if v, ok := p.Labels[k]; ok {
				s.MatchExpressions = append(s.MatchExpressions, metav1.LabelSelectorRequirement{Key: k, Operator: op, Values: []string{v}})
			}
		}
	}
	term := func(t *corev1.PodAffinityTerm) {
		merge(t.LabelSelector, t.MatchLabelKeys, metav1.LabelSelectorOpIn)
		merge(t.LabelSelector, t.MismatchLabelKeys, metav1.LabelSelectorOpNotIn)
	}
	terms := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) {
		for i := range required {
			term(&required[i])
		}
		for i := range preferred {
			term(&preferred[i].PodAffinityTerm)
		}
	}
	if a := p.Spec.Affinity; a != nil {
		if a.PodAffinity != nil {
			terms(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
		}
		if a.PodAntiAffinity != nil {
			terms(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
		}
	}
	for i := range p.Spec.TopologySpreadConstraints {
		c := &p.Spec.TopologySpreadConstraints[i]
		merge(c.LabelSelector, c.MatchLabelKeys, metav1.LabelSelectorOpIn)
	}
}

// preparePodStatus keeps what a node agent may not change, or may not know of.
func preparePodStatus(_ context.Context, p, old *corev1.Pod) {
	p.DeletionTimestamp = nil // the generic update puts the old one back
	p.OwnerReferences = old.OwnerReferences
	st, was := &p.Status, &old.Status
	if st.QOSClass == "" {
		st.QOSClass = was.QOSClass
	}
	if st.ResourceClaimStatuses == nil {
		st.ResourceClaimStatuses = was.ResourceClaimStatuses
	}
	if st.ExtendedResourceClaimStatus == nil {
		st.ExtendedResourceClaimStatus = was.ExtendedResourceClaimStatus
	}
	if st.ObservedGeneration == 0 {
		st.ObservedGeneration = was.ObservedGeneration
	}
	left := slices.Clone(was.Conditions)
	for i := range st.Conditions {
		c := &st.Conditions[i]
		j := slices.IndexFunc(left, func(o corev1.PodCondition) bool { return o.Type == c.Type })
		if j < 0 {
			continue
		}
		if c.ObservedGeneration == 0 {
			c.ObservedGeneration = left[j].ObservedGeneration
		}
		left = slices.Delete(left, j, j+1)
	}
}

// setPodCondition adds or replaces a condition; the transition time moves only
// when its status does. It says whether anything changed.
func setPodCondition(st *corev1.PodStatus, c corev1.PodCondition) bool {
	c.LastTransitionTime = metav1.NewTime(time.Now())
	for i := range st.Conditions {
		have := &st.Conditions[i]
		if have.Type != c.Type {
			continue
		}
		if have.Status == c.Status {
			c.LastTransitionTime = have.LastTransitionTime
		}
		same := have.Status == c.Status && have.Reason == c.Reason && have.Message == c.Message &&
			have.LastProbeTime.Equal(&c.LastProbeTime) && have.LastTransitionTime.Equal(&c.LastTransitionTime)
		if !same {
			*have = c
		}
		return !same
	}
	st.Conditions = append(st.Conditions, c)
	return true
}
