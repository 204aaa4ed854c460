package job

import (
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// ruling is what a pod failure policy says about a failed pod.
type ruling struct {
	counts  bool                            // against the back-off limit
	action  *batchv1.PodFailurePolicyAction // of the rule that matched; nil if none did
	failJob string                          // why the Job must fail; empty if it needn't
}

// rule applies the first rule that matches.
func rule(policy *batchv1.PodFailurePolicy, pod *corev1.Pod) ruling {
	if policy == nil {
		return ruling{counts: true}
	}
	for i := range policy.Rules {
		r := &policy.Rules[i]
		why := ""
		switch {
		case r.OnExitCodes != nil:
			if c := exited(pod, r.OnExitCodes); c != nil {
				why = fmt.Sprintf("Container %s for pod %s/%s failed with exit code %v matching %v rule at index %d",
					c.Name, pod.Namespace, pod.Name, c.State.Terminated.ExitCode, r.Action, i)
			}
		case r.OnPodConditions != nil:
			if c := conditioned(pod, r.OnPodConditions); c != nil {
				why = fmt.Sprintf("Pod %s/%s has condition %v matching %v rule at index %d", pod.Namespace, pod.Name, c.Type, r.Action, i)
			}
		}
		if why == "" {
			continue
		}
		switch r.Action {
		case batchv1.PodFailurePolicyActionIgnore:
			return ruling{action: &r.Action}
		case batchv1.PodFailurePolicyActionFailJob:
			return ruling{counts: true, action: &r.Action, failJob: why}
		case batchv1.PodFailurePolicyActionFailIndex, batchv1.PodFailurePolicyActionCount:
			return ruling{counts: true, action: &r.Action}
		}
	}
	return ruling{counts: true}
}

func exited(pod *corev1.Pod, want *batchv1.PodFailurePolicyOnExitCodesRequirement) *corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
		for i := range list {
			c := &list[i]
			if c.State.Terminated == nil || c.State.Terminated.ExitCode == 0 || (want.ContainerName != nil && *want.ContainerName != c.Name) {
				continue
			}
			listed := slices.Contains(want.Values, c.State.Terminated.ExitCode)
			if want.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn && listed ||
				want.Operator == batchv1.PodFailurePolicyOnExitCodesOpNotIn && !listed {
				return c
			}
		}
	}
	return nil
}

func conditioned(pod *corev1.Pod, patterns []batchv1.PodFailurePolicyOnPodConditionsPattern) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		c := &pod.Status.Conditions[i]
		for _, p := range patterns {
			if c.Type == p.Type && c.Status == p.Status {
				return c
			}
		}
	}
	return nil
}

// succeededEarly says whether the indexes that succeeded satisfy a rule of the success policy.
func succeededEarly(policy *batchv1.SuccessPolicy, completions int, done indexes) (message string, ok bool) {
	if policy == nil || len(done) == 0 {
		return "", false
	}
	for i := range policy.Rules {
		r := &policy.Rules[i]
		met := false
		if r.SucceededIndexes != nil {
			want := parseIndexes(*r.SucceededIndexes, completions)
			n := want.common(done)
			met = len(want) > 0 && (n == want.len() || (r.SucceededCount != nil && n >= int(*r.SucceededCount)))
		} else {
			met = r.SucceededCount != nil && done.len() >= int(*r.SucceededCount)
		}
		if met {
			return fmt.Sprintf("Matched rules at index %d", i), true
		}
	}
	return "", false
}
