package podworker

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/mote-edge/mote/agent/cri"
	"github.com/mote-edge/mote/agent/criconfig"
	"github.com/mote-edge/mote/agent/status"
)

// The life of a pod on the node, as step drives it; each arrow is an Action, and every state is derived from facts (what
// the runtime has, what is mounted), never stored:
//
//	desired ─ Prepare (cgroup, volumes) ┐
//	        └ RunSandbox ───────────────┴► Start: init containers one by one (a sidecar only has to be up),
//	                                       then regular ones in order ─► running, with Kill and Start as they fail
//	an end that restarts all ─ Kill all, at once ─► Reset: all are removed ─► Start, from the first init container on
//	deleted, evicted, finished ─► Kill regular ones, then sidecars backwards ─► StopSandbox ─► Release ─► ended

// View is all that step looks at.
type View struct {
	Pod      *corev1.Pod
	Old      *corev1.PodStatus // what the API knows, for counts that the runtime has lost
	Now      time.Time
	Ending   bool // deleted, evicted, refused, out of time, or gone from its source
	Observed cri.Pod
	// Prepared: cgroup and volumes are ready. Held: there may be something of that to release.
	Prepared, Held bool
	// What is under way: preparing, anything about the sandbox, releasing, a Reset; one Start at a time.
	Preparing, SandboxBusy, Releasing, Resetting bool
	Starting                                     string
	Killing                                      map[string]bool // container ID
	Stopped                                      map[string]bool // sandboxes that this agent has had stopped
	// Not before these times: after a failed try.
	PrepareAt, SandboxAt time.Time
	// Settled is when a change of the spec counts: quick edits one after another are one restart.
	Settled    time.Time
	Containers map[string]ContainerView
}

// ContainerView is what the worker knows of one container beside the runtime's picture.
type ContainerView struct {
	Backoff Backoff
	RetryAt time.Time // the last start failed: not before
	Up      bool      // the startup probe and the postStart hook have succeeded
	Sick    string    // why the running one must be killed; empty when it is well
	SickID  string    // the container ID that Sick is about
	Redo    string    // the container ID that was ended because its definition had changed
}

// Verb is what an Action does.
type Verb int8

// The verbs.
const (
	Prepare Verb = iota
	RunSandbox
	StopSandbox
	Start
	Kill
	Release
	Reset
)

func (v Verb) String() string {
	return [...]string{"Prepare", "RunSandbox", "StopSandbox", "Start", "Kill", "Release", "Reset"}[v]
}

// Action is one thing to do now.
type Action struct {
	Verb      Verb
	Container string // Start, Kill
	ID        string // of the container (Kill) or sandbox (StopSandbox; Start: the one to start in)
	Attempt   uint32 // Start, RunSandbox
	Message   string // Kill: why, as the event says it
	After     *cri.Container
	// Made is this very attempt, created and not started: an agent or a runtime died in between.
	Made *cri.Container
	Wait bool // Kill: the preStop hook at once, the stop signal when Decision.Turn says so
	Redo bool // Kill: it is to run again whatever the restart policy, as something else than it was
	// AtOnce: Kill without a grace period.
	AtOnce bool
	// Remove are the containers that a Reset takes away, in this order; Sources, at its end, are those whose end is the reason.
	Remove, Sources []*cri.Container
}

// Decision is what follows from a View.
type Decision struct {
	Actions []Action
	// Turn is the container whose waiting Kill may go on.
	Turn string
	// Waiting has the containers that are held back by their back-off, and until when.
	Waiting map[string]time.Time
	// Wake is when to look again without anything happening; zero means never.
	Wake time.Time
	// Finished: the pod has run to its end by itself; Failed tells how. Ended: nothing of it runs or is held any more.
	Finished, Ended bool
}

func (d *Decision) do(a Action) { d.Actions = append(d.Actions, a) }

func (d *Decision) wake(at time.Time) {
	if d.Wake.IsZero() || at.Before(d.Wake) {
		d.Wake = at
	}
}

// step decides what to do next. It is pure.
func step(v View) Decision {
	d := Decision{Waiting: map[string]time.Time{}}
	d.Finished = finished(v)
	if v.Ending || d.Finished {
		end(v, &d)
		return d
	}
	if sources := status.RestartSources(v.Pod, v.Observed); v.Resetting || len(sources) > 0 {
		reset(v, sources, &d)
		return d
	}
	if !v.Prepared && !v.Preparing {
		if v.Now.Before(v.PrepareAt) {
			d.wake(v.PrepareAt)
		} else {
			d.do(Action{Verb: Prepare})
		}
	}
	sb := v.Observed.Sandbox()
	if sb == nil || sb.State != cri.Running {
		renewSandbox(v, sb, &d)
		return d
	}
	w := walk{View: v, sb: sb, d: &d}
	w.killSick()
	if !v.Prepared {
		return d
	}
	w.start()
	return d
}

// renewSandbox makes the first sandbox, or a new one in place of one that died.
func renewSandbox(v View, sb *cri.Sandbox, d *Decision) {
	if v.SandboxBusy || v.Starting != "" {
		return
	}
	if v.Now.Before(v.SandboxAt) {
		d.wake(v.SandboxAt)
		return
	}
	a := Action{Verb: RunSandbox}
	if sb != nil {
		a.Attempt, a.ID = sb.Attempt+1, sb.ID // the dead one is stopped first, which frees its address
	}
	d.do(a)
}

// reset has every container of the pod start over, because of how the sources ended: the others are killed, then all are
// removed, so that what follows is the start of a pod in a sandbox that is there already.
func reset(v View, sources []*cri.Container, d *Decision) {
	if v.Resetting {
		return
	}
	a := Action{Verb: Reset, Sources: sources}
	busy := v.Starting != "" || len(v.Killing) > 0
	for _, c := range v.Observed.Containers {
		switch {
		case isEphemeral(v.Pod, c.Name):
		case c.State == cri.Running:
			busy = true
			if !v.Killing[c.ID] {
				d.do(Action{
					Verb: Kill, Container: c.Name, ID: c.ID, AtOnce: true,
					Message: fmt.Sprintf("Container %s exited with %d, which restarts all containers of the pod", sources[0].Name, sources[0].ExitCode),
				})
			}
		case !slices.Contains(sources, c):
			a.Remove = append(a.Remove, c)
		}
	}
	if busy {
		return
	}
	if v.Now.Before(v.PrepareAt) { // the last try failed
		d.wake(v.PrepareAt)
		return
	}
	d.do(a)
}

func isEphemeral(pod *corev1.Pod, name string) bool {
	return slices.ContainsFunc(pod.Spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool { return c.Name == name })
}

type walk struct {
	View
	sb *cri.Sandbox
	d  *Decision
}

// here returns the newest attempt of a container in the present sandbox.
func (w *walk) here(name string) *cri.Container {
	if c := w.Observed.Latest(name); c != nil && c.SandboxID == w.sb.ID {
		return c
	}
	return nil
}

func (w *walk) killSick() {
	all := func(c *corev1.Container) {
		cur := w.Observed.Latest(c.Name)
		if cur == nil || cur.State != cri.Running || w.Killing[cur.ID] {
			return
		}
		x := w.Containers[c.Name]
		switch {
		case x.Sick != "" && x.SickID == cur.ID:
			w.d.do(Action{Verb: Kill, Container: c.Name, ID: cur.ID, Message: x.Sick})
		case cur.Hash == "" || cur.Hash == criconfig.Hash(c):
		case w.Now.Before(w.Settled):
			w.d.wake(w.Settled)
		default:
			w.d.do(Action{Verb: Kill, Container: c.Name, ID: cur.ID, Redo: true, Message: fmt.Sprintf("Container %s definition changed", c.Name)})
		}
	}
	for i := range w.Pod.Spec.InitContainers {
		all(&w.Pod.Spec.InitContainers[i])
	}
	for i := range w.Pod.Spec.Containers {
		all(&w.Pod.Spec.Containers[i])
	}
}

// start finds the one container whose turn it is.
func (w *walk) start() {
	for i := range w.Pod.Spec.EphemeralContainers {
		name := w.Pod.Spec.EphemeralContainers[i].Name
		if w.Observed.Latest(name) == nil && !w.ranBefore(name) {
			w.tryStart(name, nil)
		}
	}
	begun := false // any regular container has started in this sandbox: the init phase is over for good
	for i := range w.Pod.Spec.Containers {
		begun = begun || w.here(w.Pod.Spec.Containers[i].Name) != nil
	}
	for i := range w.Pod.Spec.InitContainers {
		if !w.init(&w.Pod.Spec.InitContainers[i], begun) {
			return
		}
	}
	for i := range w.Pod.Spec.Containers {
		c := &w.Pod.Spec.Containers[i]
		cur := w.Observed.Latest(c.Name)
		switch {
		case cur == nil:
			if !w.ranBefore(c.Name) || restarts(w.Pod, c, w.lastCode(c.Name)) {
				w.tryStart(c.Name, nil)
			}
		case cur.State == cri.Running && cur.SandboxID == w.sb.ID:
		case cur.State == cri.Running: // a stray in a dead sandbox
			if !w.Killing[cur.ID] {
				w.d.do(Action{Verb: Kill, Container: c.Name, ID: cur.ID, Message: "Pod sandbox changed, it will be killed and re-created."})
			}
		case cur.State == cri.Created || w.redone(cur) || restarts(w.Pod, c, cur.ExitCode):
			w.tryStart(c.Name, cur)
		}
	}
}

// redone tells whether a container that has ended was ended because its definition had changed.
func (v *View) redone(cur *cri.Container) bool { return v.Containers[cur.Name].Redo == cur.ID }

// init handles one init container and tells whether the next one's turn has come.
func (w *walk) init(c *corev1.Container, begun bool) bool {
	cur := w.here(c.Name)
	if isSidecar(c) {
		switch {
		case cur == nil || cur.State != cri.Running:
			if cur == nil {
				cur = w.Observed.Latest(c.Name)
			}
			w.tryStart(c.Name, cur)
			return begun
		default:
			return begun || w.Containers[c.Name].Up
		}
	}
	switch {
	case begun:
		return true
	case cur == nil:
		w.tryStart(c.Name, nil)
		return false
	case cur.State == cri.Exited && cur.ExitCode == 0:
		return true
	case cur.State == cri.Running:
		return false
	default: // failed: step ends the pod where it may not run again
		w.tryStart(c.Name, cur)
		return false
	}
}

// tryStart starts a container unless another one's start is under way or something holds it back. last is the attempt
// that ended, or nil.
func (w *walk) tryStart(name string, last *cri.Container) {
	x := w.Containers[name]
	if w.Starting == name || last != nil && w.Killing[last.ID] {
		return
	}
	a := Action{Verb: Start, Container: name, ID: w.sb.ID, Attempt: w.attempt(name), After: last}
	if last != nil && last.State == cri.Created { // nothing ran, nothing is repeated
		a.Attempt, a.After, a.Made = last.Attempt, nil, last
		last = nil
	}
	if last != nil {
		if until := x.Backoff.Until(ended(last)); w.Now.Before(until) {
			w.d.Waiting[name] = until
			w.d.wake(until)
			return
		}
	}
	if w.Now.Before(x.RetryAt) {
		w.d.wake(x.RetryAt)
		return
	}
	if w.Starting != "" {
		return
	}
	w.Starting = name // the turn is taken, for this decision too
	w.d.do(a)
}

func ended(c *cri.Container) time.Time {
	if c.FinishedAt > 0 {
		return time.Unix(0, c.FinishedAt)
	}
	return time.Unix(0, c.CreatedAt)
}

// attempt counts on from the runtime's newest attempt, or from what the API remembers of one that the runtime lost.
func (w *walk) attempt(name string) uint32 {
	if c := w.Observed.Latest(name); c != nil {
		return c.Attempt + 1
	}
	s := oldStatus(w.Old, name)
	switch {
	case s == nil:
		return 0
	case s.ContainerID == "": // it waits for this very attempt
		return uint32(s.RestartCount)
	}
	return uint32(s.RestartCount) + 1
}

func (w *walk) ranBefore(name string) bool {
	s := oldStatus(w.Old, name)
	return s != nil && s.State.Terminated != nil && (!status.AllRestarting(w.Old) || isEphemeral(w.Pod, name))
}

func (w *walk) lastCode(name string) int32 { return oldStatus(w.Old, name).State.Terminated.ExitCode }

func oldStatus(st *corev1.PodStatus, name string) *corev1.ContainerStatus {
	if st == nil {
		return nil
	}
	for _, list := range [][]corev1.ContainerStatus{st.ContainerStatuses, st.InitContainerStatuses, st.EphemeralContainerStatuses} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// finished tells whether the pod has run to its end by itself: every regular container has ended and none runs again,
// or an init container has failed for good.
func finished(v View) bool {
	if v.Old != nil && (v.Old.Phase == corev1.PodSucceeded || v.Old.Phase == corev1.PodFailed) {
		return true
	}
	sb := v.Observed.Sandbox()
	for i := range v.Pod.Spec.InitContainers {
		c := &v.Pod.Spec.InitContainers[i]
		if cur := v.Observed.Latest(c.Name); !isSidecar(c) && cur != nil && cur.State == cri.Exited && cur.ExitCode != 0 &&
			sb != nil && cur.SandboxID == sb.ID && !v.redone(cur) && !restarts(v.Pod, c, cur.ExitCode) {
			return true
		}
	}
	for i := range v.Pod.Spec.Containers {
		c := &v.Pod.Spec.Containers[i]
		code, has := int32(0), false
		if cur := v.Observed.Latest(c.Name); cur != nil {
			code, has = cur.ExitCode, cur.State == cri.Exited && !v.redone(cur)
		} else if s := oldStatus(v.Old, c.Name); s != nil && s.State.Terminated != nil && !status.AllRestarting(v.Old) {
			code, has = s.State.Terminated.ExitCode, true
		}
		if !has || v.Starting == c.Name || restarts(v.Pod, c, code) {
			return false
		}
	}
	return true
}

// end takes the pod down: regular containers, then sidecars from the last to the first, then the sandbox, then what it
// stood on.
func end(v View, d *Decision) {
	sidecars := map[string]int{}
	for i := range v.Pod.Spec.InitContainers {
		if c := &v.Pod.Spec.InitContainers[i]; isSidecar(c) {
			sidecars[c.Name] = i
		}
	}
	// Every preStop hook runs at once; the stop signals come to the regular containers first, then to the sidecars, the
	// last one first.
	last, lastID := -1, ""
	others := false
	for _, c := range v.Observed.Containers {
		if c.State != cri.Running {
			continue
		}
		i, sidecar := sidecars[c.Name]
		if !v.Killing[c.ID] {
			d.do(Action{Verb: Kill, Container: c.Name, ID: c.ID, Wait: sidecar, Message: "Stopping container " + c.Name})
		}
		others = others || !sidecar
		if sidecar && i > last {
			last, lastID = i, c.ID
		}
	}
	if others || v.Starting != "" {
		return
	}
	if last >= 0 {
		d.Turn = lastID
		return
	}
	if v.SandboxBusy || v.Preparing || v.Releasing || len(v.Killing) > 0 {
		return
	}
	for _, sb := range v.Observed.Sandboxes {
		// One that isn't ready may still have its network: it died, or its stop was cut short.
		if sb.State == cri.Running || !v.Stopped[sb.ID] {
			if v.Now.Before(v.SandboxAt) {
				d.wake(v.SandboxAt)
				return
			}
			d.do(Action{Verb: StopSandbox, ID: sb.ID})
			return
		}
	}
	if v.Held {
		if v.Now.Before(v.PrepareAt) {
			d.wake(v.PrepareAt)
			return
		}
		d.do(Action{Verb: Release})
		return
	}
	d.Ended = true
}
