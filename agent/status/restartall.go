package status

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/mote-edge/mote/agent/cri"
)

// RestartingAllContainers is the reason of containers that were ended, or wait, because another container's end restarts
// the whole pod in place.
const RestartingAllContainers = "RestartingAllContainers"

const restartingAllMessage = "The container is removed because RestartAllContainers in place"

// MatchingRule returns the first of a container's restart rules that fits its exit code; nil if none does.
func MatchingRule(c *corev1.Container, code int32) *corev1.ContainerRestartRule {
	for i := range c.RestartPolicyRules {
		r := &c.RestartPolicyRules[i]
		if e := r.ExitCodes; e != nil && slices.Contains(e.Values, code) == (e.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn) {
			return r
		}
	}
	return nil
}

// RestartsAll tells whether a container that ended with that code makes all containers of its pod start over.
func RestartsAll(c *corev1.Container, code int32) bool {
	r := MatchingRule(c, code)
	return r != nil && r.Action == corev1.ContainerRestartRuleActionRestartAllContainers
}

// RestartSources are the containers whose end makes the pod start over: they have ended and are still there. What is
// removed first are the others, so that an agent that dies in between finds the reason again.
func RestartSources(pod *corev1.Pod, p cri.Pod) []*cri.Container {
	var out []*cri.Container
	eachContainer(pod, func(c *corev1.Container) {
		if cur := p.Latest(c.Name); cur != nil && cur.State == cri.Exited && RestartsAll(c, cur.ExitCode) {
			out = append(out, cur)
		}
	})
	return out
}

// AllRestarting tells whether a status says that all containers are being restarted.
func AllRestarting(st *corev1.PodStatus) bool {
	if st == nil {
		return false
	}
	c := condition(st.Conditions, corev1.AllContainersRestarting)
	return c != nil && c.Status == corev1.ConditionTrue
}

func eachContainer(pod *corev1.Pod, f func(*corev1.Container)) {
	for i := range pod.Spec.InitContainers {
		f(&pod.Spec.InitContainers[i])
	}
	for i := range pod.Spec.Containers {
		f(&pod.Spec.Containers[i])
	}
}

// couldRestartAll tells whether a pod has a rule that restarts all of it: such pods have the condition always.
func couldRestartAll(pod *corev1.Pod) bool {
	could := false
	eachContainer(pod, func(c *corev1.Container) {
		could = could || slices.ContainsFunc(c.RestartPolicyRules, func(r corev1.ContainerRestartRule) bool {
			return r.Action == corev1.ContainerRestartRuleActionRestartAllContainers
		})
	})
	return could
}

func allRestarting(in Input, phase corev1.PodPhase) corev1.PodCondition {
	c := verdict(corev1.AllContainersRestarting, false)
	switch {
	case phase == corev1.PodSucceeded:
		c.Reason = reasonCompleted
	case phase == corev1.PodFailed:
		c.Reason = reasonFailed
	case !in.Ended && len(RestartSources(in.Pod, in.Observed)) > 0:
		c.Status, c.Reason, c.Message = corev1.ConditionTrue, "RestartAllContainersStarted", "container exited with restart policy rule"
	}
	return c
}

// removed is the status of a container that was taken away to start over with the whole pod. Those that had to go say so;
// the ones that were the reason keep what they ended with.
func removed(old *corev1.ContainerStatus, c *corev1.Container, st corev1.ContainerStatus) corev1.ContainerStatus {
	st.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: RestartingAllContainers, Message: restartingAllMessage}}
	st.LastTerminationState = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		Reason: RestartingAllContainers, Message: restartingAllMessage, ExitCode: 137,
	}}
	if t := old.State.Terminated; t != nil && RestartsAll(c, t.ExitCode) {
		st.LastTerminationState.Terminated = t
	}
	st.RestartCount = old.RestartCount + 1
	return st
}
