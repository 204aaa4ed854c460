package status

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func rule(action corev1.ContainerRestartRuleAction, op corev1.ContainerRestartRuleOnExitCodesOperator, codes ...int32) corev1.ContainerRestartRule {
	return corev1.ContainerRestartRule{Action: action, ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: op, Values: codes}}
}

func TestMatchingRule(t *testing.T) {
	const restart, all = corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers
	const in, notIn = corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn
	c := &corev1.Container{RestartPolicyRules: []corev1.ContainerRestartRule{rule(restart, in, 1), rule(all, in, 1, 42), rule(restart, notIn, 0, 2), {Action: all}}}
	for code, want := range map[int32]corev1.ContainerRestartRuleAction{1: restart, 42: all, 7: restart, 0: "", 2: ""} {
		got := corev1.ContainerRestartRuleAction("")
		if r := MatchingRule(c, code); r != nil {
			got = r.Action
		}
		if got != want || RestartsAll(c, code) != (want == all) {
			t.Errorf("%d: %q, want %q", code, got, want)
		}
	}
}

// The statuses of a pod that starts over: before, while and after its containers are removed.
func TestRestartingAllContainers(t *testing.T) {
	s := scenario(corev1.RestartPolicyNever, []string{"i"}, "a", "b").exited("i", 0).exited("a", 42).running("b")
	s.in.Pod.Spec.Containers[0].RestartPolicyRules = []corev1.ContainerRestartRule{
		rule(corev1.ContainerRestartRuleActionRestartAllContainers, corev1.ContainerRestartRuleOnExitCodesOpIn, 42),
	}
	st := Compute(s.in)
	if got, want := text(st), "Running i=Completed a=Error b=running PodReadyToStartContainers Initialized PodScheduled AllContainersRestarting"; got != want {
		t.Errorf("before\ngot  %s\nwant %s", got, want)
	}
	s.in.Old, s.in.Observed.Containers = &st, nil
	st = Compute(s.in)
	if got, want := text(st), "Running i=RestartingAllContainers<RestartingAllContainers a=RestartingAllContainers<Error b=RestartingAllContainers<RestartingAllContainers PodReadyToStartContainers Initialized PodScheduled"; got != want {
		t.Errorf("removed\ngot  %s\nwant %s", got, want)
	}
	for _, c := range append(st.InitContainerStatuses, st.ContainerStatuses...) {
		if c.RestartCount != 1 {
			t.Errorf("%s: restarts %d", c.Name, c.RestartCount)
		}
	}
	s.in.Old = &st
	s.running("a")
	s.in.Observed.Containers[0].Attempt = 1
	if st = Compute(s.in); st.ContainerStatuses[0].RestartCount != 1 || st.ContainerStatuses[0].LastTerminationState.Terminated.ExitCode != 42 || st.ContainerStatuses[1].RestartCount != 1 {
		t.Errorf("after: %+v", st.ContainerStatuses)
	}
	for i := range st.Conditions {
		if c := &st.Conditions[i]; c.Type == corev1.AllContainersRestarting && (c.Status != corev1.ConditionFalse || c.ObservedGeneration != 3) {
			t.Errorf("condition: %+v", c)
		}
	}
}

// A container that has ended shows what it gets when it runs again.
func TestResourcesOfEndedContainers(t *testing.T) {
	list := func(cpu string) corev1.ResourceRequirements {
		return corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}}
	}
	had := list("1")
	for name, c := range map[string]struct {
		resize *corev1.PodCondition
		want   string
	}{
		"as it asks":           {nil, "2"},
		"what it had, for now": {&corev1.PodCondition{Type: corev1.PodResizePending}, "1"},
	} {
		s := scenario(corev1.RestartPolicyAlways, nil, "a").exited("a", 1).note("a", Note{Given: &had, Waiting: waiting("CrashLoopBackOff").Waiting})
		s.in.Pod.Spec.Containers[0].Resources, s.in.Resize = list("2"), c.resize
		st := Compute(s.in).ContainerStatuses[0]
		if st.Resources == nil || st.Resources.Requests.Cpu().String() != c.want || st.AllocatedResources.Cpu().String() != c.want {
			t.Errorf("%s: %+v, %v", name, st.Resources, st.AllocatedResources)
		}
	}
	if st := Compute(scenario(corev1.RestartPolicyAlways, nil, "a").in).ContainerStatuses[0]; st.Resources != nil {
		t.Errorf("before it is made: %+v", st.Resources)
	}
}
