package status

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mote-edge/mote/agent/cri"
)

// The reasons of conditions, as upstream names them.
const (
	reasonNotReady       = "ContainersNotReady"
	reasonNotInitialized = "ContainersNotInitialized"
	reasonGates          = "ReadinessGatesNotReady"
	reasonCompleted      = "PodCompleted"
	reasonFailed         = "PodFailed"
)

// owned are the condition types that this node writes; all others belong to somebody else and are never touched.
var owned = map[corev1.PodConditionType]bool{
	corev1.PodReadyToStartContainers: true, corev1.PodInitialized: true, corev1.PodReady: true, corev1.ContainersReady: true, corev1.PodScheduled: true,
	corev1.PodResizePending: true, corev1.PodResizeInProgress: true, corev1.AllContainersRestarting: true,
}

// conditions returns ours, freshly worked out, followed by the others' as they were.
func conditions(in Input, st, old *corev1.PodStatus) []corev1.PodCondition {
	fresh := []corev1.PodCondition{
		sandboxReady(in), initialized(in.Pod, st), {}, containersReady(in.Pod, st), {Type: corev1.PodScheduled, Status: corev1.ConditionTrue},
	}
	if couldRestartAll(in.Pod) {
		fresh = append(fresh, allRestarting(in, st.Phase))
	}
	if in.Resize != nil {
		fresh = append(fresh, *in.Resize)
	}
	if in.Disrupted {
		fresh = append(fresh, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonTerminationByKubelet, Message: in.Message,
		})
	}
	fresh[2] = ready(in.Pod, fresh[3], old.Conditions)
	var out []corev1.PodCondition
	for _, c := range fresh {
		c.ObservedGeneration = in.Pod.Generation
		c.LastTransitionTime = metav1.NewTime(in.Now).Rfc3339Copy()
		if was := condition(old.Conditions, c.Type); was != nil {
			if c.Type == corev1.PodScheduled {
				c = *was // the scheduler's, but for the generation that it still holds for
				c.ObservedGeneration = in.Pod.Generation
			} else if was.Status == c.Status {
				c.LastTransitionTime = was.LastTransitionTime
			}
		}
		out = append(out, c)
	}
	for _, c := range old.Conditions {
		if !owned[c.Type] && condition(out, c.Type) == nil {
			out = append(out, c)
		}
	}
	return out
}

func condition(list []corev1.PodCondition, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range list {
		if list[i].Type == t {
			return &list[i]
		}
	}
	return nil
}

func verdict(t corev1.PodConditionType, ok bool) corev1.PodCondition {
	if ok {
		return corev1.PodCondition{Type: t, Status: corev1.ConditionTrue}
	}
	return corev1.PodCondition{Type: t, Status: corev1.ConditionFalse}
}

func sandboxReady(in Input) corev1.PodCondition {
	sb := in.Observed.Sandbox()
	ok := in.VolumesReady && !in.Ended && sb != nil && sb.State == cri.Running && (in.Pod.Spec.HostNetwork || len(sb.IPs) > 0)
	return verdict(corev1.PodReadyToStartContainers, ok)
}

func initialized(pod *corev1.Pod, st *corev1.PodStatus) corev1.PodCondition {
	var missing []string
	begun := false
	for i := range st.ContainerStatuses {
		s := &st.ContainerStatuses[i]
		begun = begun || s.State.Running != nil || s.State.Terminated != nil || s.LastTerminationState.Terminated != nil
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		s := find(st.InitContainerStatuses, c.Name)
		ok := s != nil && (s.Ready || IsSidecar(c) && s.Started != nil && *s.Started || begun)
		if !ok {
			missing = append(missing, c.Name)
		}
	}
	if len(missing) == 0 {
		c := verdict(corev1.PodInitialized, true)
		if st.Phase == corev1.PodSucceeded {
			c.Reason = reasonCompleted
		}
		return c
	}
	c := verdict(corev1.PodInitialized, false)
	c.Reason, c.Message = reasonNotInitialized, "containers with incomplete status: "+bracket(missing)
	return c
}

func containersReady(pod *corev1.Pod, st *corev1.PodStatus) corev1.PodCondition {
	c := verdict(corev1.ContainersReady, false)
	switch st.Phase {
	case corev1.PodSucceeded:
		c.Reason = reasonCompleted
		return c
	case corev1.PodFailed:
		c.Reason = reasonFailed
		return c
	}
	var unready []string
	for i := range pod.Spec.InitContainers {
		if s := find(st.InitContainerStatuses, pod.Spec.InitContainers[i].Name); IsSidecar(&pod.Spec.InitContainers[i]) && (s == nil || !s.Ready) {
			unready = append(unready, pod.Spec.InitContainers[i].Name)
		}
	}
	for i := range pod.Spec.Containers {
		if s := find(st.ContainerStatuses, pod.Spec.Containers[i].Name); s == nil || !s.Ready {
			unready = append(unready, pod.Spec.Containers[i].Name)
		}
	}
	if len(unready) == 0 {
		return verdict(corev1.ContainersReady, true)
	}
	c.Reason, c.Message = reasonNotReady, "containers with unready status: "+bracket(unready)
	return c
}

func ready(pod *corev1.Pod, containers corev1.PodCondition, others []corev1.PodCondition) corev1.PodCondition {
	if containers.Status != corev1.ConditionTrue {
		containers.Type = corev1.PodReady
		return containers
	}
	var why []string
	for _, g := range pod.Spec.ReadinessGates {
		switch c := condition(others, g.ConditionType); {
		case c == nil:
			why = append(why, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", g.ConditionType))
		case c.Status != corev1.ConditionTrue:
			why = append(why, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", g.ConditionType, c.Status))
		}
	}
	if len(why) == 0 {
		return verdict(corev1.PodReady, true)
	}
	c := verdict(corev1.PodReady, false)
	c.Reason, c.Message = reasonGates, strings.Join(why, ", ")
	return c
}

func bracket(names []string) string { return "[" + strings.Join(names, " ") + "]" }

// Others returns the conditions of own that this node writes, and of api those that it doesn't, PodScheduled included.
func Others(api, own []corev1.PodCondition) []corev1.PodCondition {
	var out []corev1.PodCondition
	for _, c := range own {
		if owned[c.Type] && (c.Type != corev1.PodScheduled || condition(api, c.Type) == nil) {
			out = append(out, c)
		}
	}
	for _, c := range api {
		if !owned[c.Type] || c.Type == corev1.PodScheduled {
			out = append(out, c)
		}
	}
	return out
}
