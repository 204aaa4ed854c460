package podworker

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/mote-edge/mote/agent/cri"
)

// epoch is the tests' now.
var epoch = time.Unix(10_000, 0)

func at(s int) int64 { return epoch.Add(time.Duration(s) * time.Second).UnixNano() }

// world builds views: "name state code" containers in sandbox s1.
type world struct{ View }

func view(pod *corev1.Pod) *world {
	return &world{View{
		Pod: pod, Now: epoch, Prepared: true, Held: true, Killing: map[string]bool{}, Containers: map[string]ContainerView{},
		Observed: cri.Pod{Sandboxes: []*cri.Sandbox{{ID: "s1", State: cri.Running}}},
	}}
}

func (w *world) ctr(name string, state cri.State, change ...func(*cri.Container)) *world {
	c := &cri.Container{ID: fmt.Sprintf("%s-%d", name, len(w.Observed.Containers)), Name: name, SandboxID: "s1", State: state, CreatedAt: at(-100), StartedAt: at(-100)}
	if state == cri.Exited {
		c.FinishedAt = at(-1)
	}
	for _, f := range change {
		f(c)
	}
	w.Observed.Containers = append(w.Observed.Containers, c)
	return w
}

func code(n int32) func(*cri.Container)     { return func(c *cri.Container) { c.ExitCode = n } }
func attempt(n uint32) func(*cri.Container) { return func(c *cri.Container) { c.Attempt = n } }
func in(sandbox string) func(*cri.Container) {
	return func(c *cri.Container) { c.SandboxID = sandbox }
}

func (w *world) with(f func(*View)) *world { f(&w.View); return w }

func (w *world) up(names ...string) *world {
	for _, n := range names {
		w.Containers[n] = ContainerView{Up: true}
	}
	return w
}

func policy(p corev1.RestartPolicy) func(*corev1.Pod) {
	return func(pod *corev1.Pod) { pod.Spec.RestartPolicy = p }
}

func regular(names ...string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		pod.Spec.Containers = nil
		for _, n := range names {
			pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: n, Image: "img:1"})
		}
	}
}

// inits adds init containers; a name ending in + is a sidecar.
func inits(names ...string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		for _, n := range names {
			name, sidecar := strings.CutSuffix(n, "+")
			c := corev1.Container{Name: name, Image: "img:1"}
			if sidecar {
				c.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
			}
			pod.Spec.InitContainers = append(pod.Spec.InitContainers, c)
		}
	}
}

func ephemeral(name string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: name}})
	}
}

// restartsAll gives a container the rule that its exit code 42 restarts the whole pod.
func restartsAll(name string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range list {
				if list[i].Name == name {
					if list[i].RestartPolicy == nil {
						list[i].RestartPolicy = new(corev1.ContainerRestartPolicyNever)
					}
					list[i].RestartPolicyRules = []corev1.ContainerRestartRule{{
						Action:    corev1.ContainerRestartRuleActionRestartAllContainers,
						ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}},
					}}
				}
			}
		}
	}
}

func (d Decision) text() string {
	var out []string
	for _, a := range d.Actions {
		s := a.Verb.String()
		if a.Container != "" {
			s += " " + a.Container
		}
		if a.Attempt > 0 {
			s += fmt.Sprintf(" #%d", a.Attempt)
		}
		if a.Wait {
			s += " in turn"
		}
		if a.Redo {
			s += " anew"
		}
		if a.AtOnce {
			s += " at once"
		}
		for _, c := range slices.Concat(a.Remove, a.Sources) {
			s += " " + c.ID
		}
		out = append(out, s)
	}
	if d.Turn != "" {
		out = append(out, "turn of "+d.Turn)
	}
	for name := range d.Waiting {
		out = append(out, "waiting "+name)
	}
	slices.Sort(out)
	if d.Finished {
		out = append(out, "finished")
	}
	if d.Ended {
		out = append(out, "ended")
	}
	return strings.Join(out, ", ")
}

func TestStep(t *testing.T) {
	never, onFailure := policy(corev1.RestartPolicyNever), policy(corev1.RestartPolicyOnFailure)
	for name, c := range map[string]struct {
		v    *world
		want string
	}{
		"a new pod: volumes and sandbox together": {view(testPod("a")).with(func(v *View) {
			v.Prepared, v.Held, v.Observed = false, false, cri.Pod{}
		}), "Prepare, RunSandbox"},
		"both under way": {view(testPod("a")).with(func(v *View) {
			v.Prepared, v.Preparing, v.SandboxBusy, v.Observed = false, true, true, cri.Pod{}
		}), ""},
		"sandbox is up, volumes aren't": {view(testPod("a")).with(func(v *View) { v.Prepared, v.Preparing = false, true }), ""},
		"mount failed: not before its time": {view(testPod("a")).with(func(v *View) {
			v.Prepared, v.PrepareAt = false, epoch.Add(time.Second)
		}), ""},
		"sandbox failed: not before its time": {view(testPod("a")).with(func(v *View) {
			v.Observed, v.SandboxAt = cri.Pod{}, epoch.Add(time.Second)
		}), ""},
		"all ready: start":              {view(testPod("a")), "Start main"},
		"one start at a time":           {view(testPod("a", regular("x", "y"))), "Start x"},
		"the next one's turn":           {view(testPod("a", regular("x", "y"))).ctr("x", cri.Running), "Start y"},
		"a start under way":             {view(testPod("a", regular("x", "y"))).with(func(v *View) { v.Starting = "x" }), ""},
		"a failed start lets others on": {view(testPod("a", regular("x", "y"))).with(func(v *View) { v.Containers["x"] = ContainerView{RetryAt: epoch.Add(time.Second)} }), "Start y"},
		"running: nothing to do":        {view(testPod("a")).ctr("main", cri.Running), ""},

		"exited, always: at once the first time": {view(testPod("a")).ctr("main", cri.Exited), "Start main #1"},
		"exited, always: in back-off": {view(testPod("a")).ctr("main", cri.Exited, attempt(3)).with(func(v *View) {
			v.Containers["main"] = ContainerView{Backoff: Backoff{Delay: 10 * time.Second, Since: epoch.Add(-5 * time.Second)}}
		}), "waiting main"},
		"exited, always: back-off is over": {view(testPod("a")).ctr("main", cri.Exited, attempt(3), func(c *cri.Container) { c.FinishedAt = at(-11) }).with(func(v *View) {
			v.Containers["main"] = ContainerView{Backoff: Backoff{Delay: 10 * time.Second, Since: epoch.Add(-30 * time.Second)}}
		}), "Start main #4"},
		"created and never started: this attempt yet": {view(testPod("a", never)).ctr("main", cri.Created), "Start main"},
		"a second attempt created and never started":  {view(testPod("a")).ctr("main", cri.Exited, code(1)).ctr("main", cri.Created, attempt(1)), "Start main #1"},
		"exited 0, on failure: finished":              {view(testPod("a", onFailure)).ctr("main", cri.Exited), "StopSandbox, finished"},
		"exited 1, on failure: again":                 {view(testPod("a", onFailure)).ctr("main", cri.Exited, code(1)), "Start main #1"},
		"exited 1, never: finished":                   {view(testPod("a", never)).ctr("main", cri.Exited, code(1)), "StopSandbox, finished"},
		"one of two ended, never":                     {view(testPod("a", never, regular("x", "y"))).ctr("x", cri.Exited).ctr("y", cri.Running), ""},
		"finished and stopped: release": {view(testPod("a", never)).ctr("main", cri.Exited).with(func(v *View) {
			v.Observed.Sandboxes[0].State, v.Stopped = cri.Exited, map[string]bool{"s1": true}
		}), "Release, finished"},
		"finished and released": {view(testPod("a", never)).ctr("main", cri.Exited).with(func(v *View) {
			v.Observed.Sandboxes[0].State, v.Held, v.Stopped = cri.Exited, false, map[string]bool{"s1": true}
		}), "finished, ended"},
		"final phase: never again": {view(testPod("a")).with(func(v *View) {
			v.Observed, v.Held, v.Old = cri.Pod{}, false, &corev1.PodStatus{Phase: corev1.PodSucceeded}
		}), "finished, ended"},
		"container rules come before the policy": {view(testPod("a", never, func(p *corev1.Pod) {
			p.Spec.Containers[0].RestartPolicyRules = []corev1.ContainerRestartRule{{
				Action: corev1.ContainerRestartRuleActionRestart, ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}},
			}}
		})).ctr("main", cri.Exited, code(42)), "Start main #1"},
		"the container's own policy": {view(testPod("a", func(p *corev1.Pod) {
			p.Spec.Containers[0].RestartPolicy = new(corev1.ContainerRestartPolicyNever)
		})).ctr("main", cri.Exited, code(1)), "StopSandbox, finished"},

		"init: the first one":                      {view(testPod("a", inits("i1", "i2"))), "Start i1"},
		"init: wait for it":                        {view(testPod("a", inits("i1", "i2"))).ctr("i1", cri.Running), ""},
		"init: the second one":                     {view(testPod("a", inits("i1", "i2"))).ctr("i1", cri.Exited), "Start i2"},
		"init: all done":                           {view(testPod("a", inits("i1", "i2"))).ctr("i1", cri.Exited).ctr("i2", cri.Exited), "Start main"},
		"init failed, always: again":               {view(testPod("a", inits("i1"))).ctr("i1", cri.Exited, code(1)), "Start i1 #1"},
		"init failed, never: the pod is over":      {view(testPod("a", never, inits("i1"))).ctr("i1", cri.Exited, code(1)), "StopSandbox, finished"},
		"init done long ago and collected":         {view(testPod("a", inits("i1"))).ctr("main", cri.Running), ""},
		"sidecar: start":                           {view(testPod("a", inits("s+", "i"))), "Start s"},
		"sidecar: not up yet":                      {view(testPod("a", inits("s+", "i"))).ctr("s", cri.Running), ""},
		"sidecar: up, on to the next":              {view(testPod("a", inits("s+", "i"))).ctr("s", cri.Running).up("s"), "Start i"},
		"sidecar died while an init runs":          {view(testPod("a", inits("s+", "i"))).ctr("s", cri.Exited).ctr("i", cri.Running), "Start s #1"},
		"sidecar died, regular ones run":           {view(testPod("a", never, inits("s+"))).ctr("s", cri.Exited).ctr("main", cri.Running), "Start s #1"},
		"sidecar in back-off doesn't hold regular": {view(testPod("a", inits("s+"), regular("x", "y"))).ctr("s", cri.Exited).ctr("x", cri.Running).with(func(v *View) { v.Containers["s"] = ContainerView{Backoff: Backoff{Delay: time.Minute, Since: epoch}} }), "Start y, waiting s"},
		"sidecars end after regular ones": {
			view(testPod("a", never, inits("s1+", "s2+"))).ctr("s1", cri.Running).ctr("s2", cri.Running).ctr("main", cri.Exited),
			"Kill s1 in turn, Kill s2 in turn, turn of s2-1, finished",
		},
		"sidecars end backwards": {
			view(testPod("a", never, inits("s1+", "s2+"))).ctr("s1", cri.Running).ctr("s2", cri.Exited).ctr("main", cri.Exited),
			"Kill s1 in turn, turn of s1-0, finished",
		},

		"ephemeral: beside the rest":  {view(testPod("a", ephemeral("dbg"))).ctr("main", cri.Running), "Start dbg"},
		"ephemeral: never again":      {view(testPod("a", ephemeral("dbg"))).ctr("main", cri.Running).ctr("dbg", cri.Exited), ""},
		"ephemeral: before the start": {view(testPod("a", ephemeral("dbg"), inits("i"))), "Start dbg"},

		"sandbox died: a new one, the old one stopped first": {view(testPod("a")).ctr("main", cri.Exited, code(137)).with(func(v *View) {
			v.Observed.Sandboxes[0].State = cri.Exited
		}), "RunSandbox #1"},
		"new sandbox: init containers run again": {
			view(testPod("a", inits("i"))).ctr("i", cri.Exited, in("s0")).ctr("main", cri.Exited, in("s0"), code(137)),
			"Start i #1",
		},
		"new sandbox: what had succeeded stays so": {
			view(testPod("a", onFailure, regular("x", "y"))).ctr("x", cri.Exited, in("s0")).ctr("y", cri.Exited, in("s0"), code(137)),
			"Start y #1",
		},
		"sandbox died, never: the pod is over, its network goes": {view(testPod("a", never)).ctr("main", cri.Exited, code(137)).with(func(v *View) {
			v.Observed.Sandboxes[0].State = cri.Exited
		}), "StopSandbox, finished"},
		"counts go on when the runtime forgot": {view(testPod("a")).with(func(v *View) {
			v.Old = &corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "main", ContainerID: "x://y", RestartCount: 4}}}
		}), "Start main #5"},

		"liveness failed": {view(testPod("a")).ctr("main", cri.Running).with(func(v *View) {
			v.Containers["main"] = ContainerView{Sick: "failed liveness probe", SickID: "main-0"}
		}), "Kill main"},
		"liveness failed, kill under way": {view(testPod("a")).ctr("main", cri.Running).with(func(v *View) {
			v.Containers["main"], v.Killing["main-0"] = ContainerView{Sick: "failed liveness probe", SickID: "main-0"}, true
		}), ""},
		"a sickness of an earlier container": {view(testPod("a")).ctr("main", cri.Running).with(func(v *View) {
			v.Containers["main"] = ContainerView{Sick: "failed liveness probe", SickID: "other"}
		}), ""},
		"image changed": {view(testPod("a")).ctr("main", cri.Running, func(c *cri.Container) { c.Hash = "old" }), "Kill main anew"},
		"ended for a changed image: whatever the policy": {view(testPod("a", never)).ctr("main", cri.Exited, code(137)).with(func(v *View) {
			v.Containers["main"] = ContainerView{Redo: "main-0"}
		}), "Start main #1"},
		"ended by itself after an earlier change": {view(testPod("a", never)).ctr("main", cri.Exited, code(137)).with(func(v *View) {
			v.Containers["main"] = ContainerView{Redo: "other"}
		}), "StopSandbox, finished"},

		"an end that restarts all: the others are killed": {view(testPod("a", never, inits("i", "s+"), regular("x", "y"), ephemeral("e"), restartsAll("x"))).
			ctr("i", cri.Exited).ctr("s", cri.Running).ctr("x", cri.Exited, code(42)).ctr("y", cri.Running).ctr("e", cri.Running), "Kill s at once, Kill y at once"},
		"... those being killed are waited for": {view(testPod("a", never, regular("x", "y"), restartsAll("x"))).ctr("x", cri.Exited, code(42)).
			ctr("y", cri.Running).with(func(v *View) { v.Killing["y-1"] = true }), ""},
		"... and a start under way": {view(testPod("a", never, regular("x", "y"), restartsAll("x"))).ctr("x", cri.Exited, code(42)).
			with(func(v *View) { v.Starting = "y" }), ""},
		"... then all go, the reason last": {view(testPod("a", never, inits("i"), regular("x", "y"), ephemeral("e"), restartsAll("x"))).
			ctr("x", cri.Exited, code(42)).ctr("i", cri.Exited).ctr("y", cri.Exited, code(137)).ctr("e", cri.Exited), "Reset i-1 y-2 x-0"},
		"... also in a sandbox that died": {view(testPod("a", never, regular("x", "y"), restartsAll("x"))).ctr("x", cri.Exited, code(42)).
			ctr("y", cri.Exited, code(255)).with(func(v *View) { v.Observed.Sandboxes[0].State = cri.Exited }), "Reset y-1 x-0"},
		"... while they go": {view(testPod("a", never, regular("x", "y"), restartsAll("x"))).with(func(v *View) { v.Resetting = true }), ""},
		"... then from the beginning, counting on": {view(testPod("a", never, inits("i"), regular("x"), restartsAll("x"))).with(func(v *View) {
			v.Old = &corev1.PodStatus{
				Conditions:            []corev1.PodCondition{{Type: corev1.AllContainersRestarting, Status: corev1.ConditionTrue}},
				InitContainerStatuses: []corev1.ContainerStatus{{Name: "i", ContainerID: "fake://i", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}},
				ContainerStatuses:     []corev1.ContainerStatus{{Name: "x", ContainerID: "fake://x", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 42}}}},
			}
		}), "Start i #1"},
		"... with the counts that its status has by then": {view(testPod("a", never, regular("x", "y"), restartsAll("x"))).with(func(v *View) {
			v.Old = &corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "x", RestartCount: 3, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{}}}}}
		}), "Start x #3"},
		"another code restarts nothing": {view(testPod("a", never, regular("x", "y"), restartsAll("x"))).ctr("x", cri.Exited, code(1)).ctr("y", cri.Running), ""},
		"a deleted pod restarts nothing": {view(testPod("a", never, regular("x", "y"), restartsAll("x"))).ctr("x", cri.Exited, code(42)).ctr("y", cri.Running).
			with(func(v *View) { v.Ending = true }), "Kill y"},

		"deleted: all at once": {view(testPod("a", regular("x", "y"), ephemeral("e"))).ctr("x", cri.Running).ctr("y", cri.Running).ctr("e", cri.Running).
			with(func(v *View) { v.Ending = true }), "Kill e, Kill x, Kill y"},
		"deleted: sidecars wait for the rest": {view(testPod("a", inits("s+"))).ctr("s", cri.Running).ctr("main", cri.Running).with(func(v *View) {
			v.Ending, v.Killing["main-1"] = true, true
		}), "Kill s in turn"}, // its preStop hook runs at once
		"deleted while starting: wait for the start to give up": {view(testPod("a")).with(func(v *View) { v.Ending, v.Starting = true, "main" }), ""},
		"deleted while mounting: wait":                          {view(testPod("a")).with(func(v *View) { v.Ending, v.Preparing = true, true }), ""},
		"deleted, all ended: sandbox":                           {view(testPod("a")).ctr("main", cri.Exited).with(func(v *View) { v.Ending = true }), "StopSandbox"},
		"deleted before anything began": {view(testPod("a")).with(func(v *View) {
			v.Ending, v.Held, v.Observed = true, false, cri.Pod{}
		}), "ended"},
		"deleted in a crash loop": {view(testPod("a")).ctr("main", cri.Exited, code(1)).with(func(v *View) {
			v.Ending, v.Containers["main"] = true, ContainerView{Backoff: Backoff{Delay: time.Minute, Since: epoch}}
		}), "StopSandbox"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := step(c.v.View).text(); got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

// A decision that waits for time to pass says until when.
func TestStepWakes(t *testing.T) {
	v := view(testPod("a")).ctr("main", cri.Exited).with(func(v *View) {
		v.Containers["main"] = ContainerView{Backoff: Backoff{Delay: 40 * time.Second, Since: epoch.Add(-time.Minute)}}
	})
	if d := step(v.View); !d.Wake.Equal(epoch.Add(39*time.Second)) || !d.Waiting["main"].Equal(d.Wake) {
		t.Errorf("wakes at %v, want 40 s after the end a second ago", d.Wake.Sub(epoch))
	}
	if d := step(view(testPod("a")).ctr("main", cri.Running).View); !d.Wake.IsZero() {
		t.Error("a healthy pod wakes its worker for nothing")
	}
}

func TestBackoff(t *testing.T) {
	var b Backoff
	now := epoch
	var delays []time.Duration
	for range 7 {
		finished := now
		until := b.Until(finished)
		delays = append(delays, until.Sub(finished))
		now = until
		b = b.Next(finished, now)
		now = now.Add(time.Second) // it runs for a second
	}
	want := []time.Duration{0, 10, 20, 40, 80, 160, 300}
	for i := range want {
		if want[i] *= time.Second; delays[i] != want[i] {
			t.Errorf("delays %v, want %v", delays, want)
			break
		}
	}
	calm := b.Since.Add(2*maxDelay + time.Second)
	if !b.Until(calm).Equal(calm) || b.Next(calm, calm).Delay != firstDelay {
		t.Error("a container that ran for ten minutes still waits")
	}
}
