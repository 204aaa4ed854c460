package status

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mote-edge/mote/agent/cri"
)

var now = time.Unix(5000, 0)

type scene struct{ in Input }

func scenario(policy corev1.RestartPolicy, init []string, regular ...string) *scene {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Generation: 3}, Spec: corev1.PodSpec{RestartPolicy: policy}}
	for _, n := range init {
		name, sidecar := strings.CutSuffix(n, "+")
		c := corev1.Container{Name: name}
		if sidecar {
			c.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
		}
		p.Spec.InitContainers = append(p.Spec.InitContainers, c)
	}
	for _, n := range regular {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: n})
	}
	return &scene{Input{
		Pod: p, Now: now, Runtime: "rt", VolumesReady: true, Notes: map[string]Note{}, HostIPs: []string{"192.0.2.1"},
		Observed: cri.Pod{Sandboxes: []*cri.Sandbox{{ID: "s", State: cri.Running, IPs: []string{"10.0.0.1"}}}},
	}}
}

func (s *scene) running(name string) *scene {
	s.in.Observed.Containers = append(s.in.Observed.Containers, &cri.Container{ID: name + "-up", Name: name, State: cri.Running, StartedAt: 1e9})
	s.in.Notes[name] = Note{Started: true, Ready: true}
	return s
}

func (s *scene) exited(name string, code int32) *scene {
	s.in.Observed.Containers = append(s.in.Observed.Containers, &cri.Container{ID: name, Name: name, State: cri.Exited, ExitCode: code, FinishedAt: 2e9})
	return s
}

func (s *scene) note(name string, n Note) *scene { s.in.Notes[name] = n; return s }
func (s *scene) with(f func(*Input)) *scene      { f(&s.in); return s }

func waiting(reason string) Note {
	return Note{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}
}

// text sums a status up: phase, the states by name, the conditions that hold.
func text(st corev1.PodStatus) string {
	out := []string{string(st.Phase)}
	for _, list := range [][]corev1.ContainerStatus{st.InitContainerStatuses, st.ContainerStatuses, st.EphemeralContainerStatuses} {
		for _, c := range list {
			s := c.Name + "="
			switch {
			case c.State.Waiting != nil:
				s += c.State.Waiting.Reason
			case c.State.Running != nil:
				s += "running"
			case c.State.Terminated != nil:
				s += c.State.Terminated.Reason
			}
			if c.LastTerminationState.Terminated != nil {
				s += "<" + c.LastTerminationState.Terminated.Reason
			}
			out = append(out, s)
		}
	}
	for _, c := range st.Conditions {
		if c.Status == corev1.ConditionTrue {
			out = append(out, string(c.Type))
		}
	}
	return strings.Join(out, " ")
}

func TestCompute(t *testing.T) {
	always, never, onFailure := corev1.RestartPolicyAlways, corev1.RestartPolicyNever, corev1.RestartPolicyOnFailure
	for name, c := range map[string]struct {
		s    *scene
		want string
	}{
		"nothing yet":     {scenario(always, nil, "a").with(func(in *Input) { in.Observed = cri.Pod{} }), "Pending a=ContainerCreating Initialized PodScheduled"},
		"volumes missing": {scenario(always, nil, "a").with(func(in *Input) { in.VolumesReady = false }), "Pending a=ContainerCreating Initialized PodScheduled"},
		"sandbox is up":   {scenario(always, nil, "a"), "Pending a=ContainerCreating PodReadyToStartContainers Initialized PodScheduled"},
		"running":         {scenario(always, nil, "a").running("a"), "Running a=running PodReadyToStartContainers Initialized Ready ContainersReady PodScheduled"},
		"running, not ready": {
			scenario(always, nil, "a").running("a").note("a", Note{Started: true}),
			"Running a=running PodReadyToStartContainers Initialized PodScheduled",
		},
		"running, not started": {
			scenario(always, nil, "a").running("a").note("a", Note{Ready: true}),
			"Running a=running PodReadyToStartContainers Initialized PodScheduled",
		},
		"one of two":     {scenario(always, nil, "a", "b").running("a"), "Pending a=running b=ContainerCreating PodReadyToStartContainers Initialized PodScheduled"},
		"no image":       {scenario(always, nil, "a").note("a", waiting("ErrImagePull")), "Pending a=ErrImagePull PodReadyToStartContainers Initialized PodScheduled"},
		"crash loop":     {scenario(always, nil, "a").exited("a", 1).note("a", waiting("CrashLoopBackOff")), "Running a=CrashLoopBackOff<Error PodReadyToStartContainers Initialized PodScheduled"},
		"between starts": {scenario(always, nil, "a").exited("a", 1), "Running a=Error PodReadyToStartContainers Initialized PodScheduled"},
		"started again":  {scenario(always, nil, "a").exited("a", 1).running("a"), "Running a=running<Error PodReadyToStartContainers Initialized Ready ContainersReady PodScheduled"},
		"done, sidecars still end": {
			scenario(never, []string{"s+"}, "a").running("s").exited("a", 0),
			"Running s=running a=Completed PodReadyToStartContainers Initialized PodScheduled",
		},
		"succeeded":            {scenario(never, nil, "a").exited("a", 0).with(ended), "Succeeded a=Completed Initialized PodScheduled"},
		"failed":               {scenario(never, nil, "a", "b").exited("a", 0).exited("b", 3).with(ended), "Failed a=Completed b=Error Initialized PodScheduled"},
		"on failure, ended":    {scenario(onFailure, nil, "a").exited("a", 0).with(ended), "Succeeded a=Completed Initialized PodScheduled"},
		"deleted while it ran": {scenario(always, nil, "a").exited("a", 143).with(ended), "Failed a=Error Initialized PodScheduled"},
		"deleted, lost":        {scenario(always, nil, "a", "b").exited("a", 0).with(ended), "Failed a=Completed b=ContainerStatusUnknown Initialized PodScheduled"},
		"deleted before it began": {
			scenario(always, nil, "a").with(ended).with(func(in *Input) { in.Observed = cri.Pod{} }),
			"Failed a=ContainerCreating Initialized PodScheduled",
		},
		"deleted in a crash loop": {scenario(always, nil, "a").exited("a", 2).note("a", waiting("CrashLoopBackOff")).with(ended), "Failed a=Error Initialized PodScheduled"},

		"init runs":          {scenario(always, []string{"i", "j"}, "a").running("i"), "Pending i=running j=PodInitializing a=PodInitializing PodReadyToStartContainers PodScheduled"},
		"init done":          {scenario(always, []string{"i"}, "a").exited("i", 0), "Pending i=Completed a=PodInitializing PodReadyToStartContainers Initialized PodScheduled"},
		"init failed":        {scenario(always, []string{"i"}, "a").exited("i", 1).note("i", waiting("CrashLoopBackOff")), "Pending i=CrashLoopBackOff<Error a=PodInitializing PodReadyToStartContainers PodScheduled"},
		"init failed, never": {scenario(never, []string{"i"}, "a").exited("i", 1).with(ended), "Failed i=Error a=PodInitializing PodScheduled"},
		"sidecar starting": {
			scenario(always, []string{"s+"}, "a").running("s").note("s", Note{Ready: true}),
			"Pending s=running a=PodInitializing PodReadyToStartContainers PodScheduled",
		},
		"sidecar is up": {
			scenario(always, []string{"s+"}, "a").running("s").running("a"),
			"Running s=running a=running PodReadyToStartContainers Initialized Ready ContainersReady PodScheduled",
		},
		"sidecar isn't ready": {
			scenario(always, []string{"s+"}, "a").running("s").running("a").note("s", Note{Started: true}),
			"Running s=running a=running PodReadyToStartContainers Initialized PodScheduled",
		},

		"refused":              {scenario(always, nil, "a").with(func(in *Input) { in.Observed, in.Failed, in.Ended = cri.Pod{}, true, true }), "Failed Initialized PodScheduled"},
		"final is final":       {scenario(always, nil, "a").running("a").with(func(in *Input) { in.Old = &corev1.PodStatus{Phase: corev1.PodFailed} }), "Failed a=running PodReadyToStartContainers Initialized PodScheduled"},
		"readiness gate":       {scenario(always, nil, "a").running("a").with(gate), "Running a=running PodReadyToStartContainers Initialized ContainersReady PodScheduled"},
		"readiness gate holds": {scenario(always, nil, "a").running("a").with(gate).with(gateHolds), "Running a=running PodReadyToStartContainers Initialized Ready ContainersReady PodScheduled g"},
	} {
		t.Run(name, func(t *testing.T) {
			st := Compute(c.s.in)
			if got := text(st); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if st.ObservedGeneration != 3 || st.StartTime == nil {
				t.Errorf("generation %d, start %v", st.ObservedGeneration, st.StartTime)
			}
			// What was said once and hasn't changed is said again in the same words: else every look would be a write.
			in := c.s.in
			in.Old, in.Now = &st, now.Add(time.Hour)
			if patch, err := Patch("u", &st, new(Compute(in))); err != nil || patch != nil {
				t.Errorf("an hour later: %s %v", patch, err)
			}
		})
	}
}

func ended(in *Input) { in.Ended = true }

func gate(in *Input) {
	in.Pod.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "g"}}
}

func gateHolds(in *Input) {
	in.Old = &corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: "g", Status: corev1.ConditionTrue}}}
}

func TestMessages(t *testing.T) {
	for name, c := range map[string]struct {
		s               *scene
		kind            corev1.PodConditionType
		reason, message string
	}{
		"unready":     {scenario(corev1.RestartPolicyAlways, nil, "a", "b").running("b"), corev1.PodReady, "ContainersNotReady", "containers with unready status: [a]"},
		"incomplete":  {scenario(corev1.RestartPolicyAlways, []string{"i", "j"}, "a"), corev1.PodInitialized, "ContainersNotInitialized", "containers with incomplete status: [i j]"},
		"completed":   {scenario(corev1.RestartPolicyNever, nil, "a").exited("a", 0).with(ended), corev1.ContainersReady, "PodCompleted", ""},
		"failed":      {scenario(corev1.RestartPolicyNever, nil, "a").exited("a", 1).with(ended), corev1.PodReady, "PodFailed", ""},
		"gate absent": {scenario(corev1.RestartPolicyAlways, nil, "a").running("a").with(gate), corev1.PodReady, "ReadinessGatesNotReady", `corresponding condition of pod readiness gate "g" does not exist.`},
	} {
		st := Compute(c.s.in)
		if got := condition(st.Conditions, c.kind); got.Reason != c.reason || got.Message != c.message {
			t.Errorf("%s: %q %q, want %q %q", name, got.Reason, got.Message, c.reason, c.message)
		}
	}
}

func TestDisruption(t *testing.T) {
	s := scenario(corev1.RestartPolicyAlways, nil, "a").exited("a", 137).with(func(in *Input) {
		in.Ended, in.Failed, in.Disrupted, in.Reason, in.Message = true, true, true, "Evicted", "The node was low on resource: memory. "
	})
	s.in.Old = &corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionFalse, Reason: "Other"}}}
	st := Compute(s.in)
	c := condition(st.Conditions, corev1.DisruptionTarget)
	if st.Phase != corev1.PodFailed || c == nil || c.Status != corev1.ConditionTrue || c.Reason != "TerminationByKubelet" || c.Message != st.Message {
		t.Fatalf("phase %s, condition %+v", st.Phase, c)
	}
	b, err := Patch("u", s.in.Old, &st)
	if err != nil || !strings.Contains(string(b), "TerminationByKubelet") {
		t.Errorf("patch %s, %v", b, err)
	}
	// An agent that begins anew has forgotten why, and leaves the condition as it is.
	s.in.Disrupted, s.in.Old = false, &st
	if c := condition(Compute(s.in).Conditions, corev1.DisruptionTarget); c == nil || c.Status != corev1.ConditionTrue {
		t.Errorf("the condition is gone: %+v", c)
	}
}
