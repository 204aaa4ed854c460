package podworker

import (
	"context"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/cri"
	"github.com/mote-edge/mote/agent/meter"
	"github.com/mote-edge/mote/agent/probe"
	"github.com/mote-edge/mote/agent/status"
)

// worker drives one pod. It has a goroutine only while it decides or while an action is under way. Everything below mu is
// guarded by it; actions run without it and come back through done.
type worker struct {
	seen *corev1.Pod // by the last turn
	m    *Manager
	uid  types.UID

	mu      sync.Mutex
	running bool // a loop goroutine exists
	dirty   bool // look again
	timer   *time.Timer

	pod    *corev1.Pod // desired; for a pod that is gone from its source, the last known or a made-up one
	object *corev1.Pod // as the API server has it: pod itself, or a static pod's mirror; nil when there is none
	static bool
	gone   bool     // no longer in its source: finish, and forget
	next   *Desired // what to begin with after that
	last   *corev1.PodStatus

	ending      bool
	endingSince time.Time
	grace       time.Duration
	verdict     *Verdict // the node ended or refused it
	deleteSent  bool
	cleaned     bool

	prepared, held                    bool
	preparing, sandboxBusy, releasing bool
	removing, resetting               bool
	sandboxConfig                     *runtimeapi.PodSandboxConfig
	prepareAt, sandboxAt, settled     time.Time
	prepareTries, sandboxTries        int
	admitting, fresh                  bool // fresh: admission saw it first
	cancelAdmission                   context.CancelFunc
	starting                          string
	cancelStart                       context.CancelFunc
	killing                           map[string]*kill
	stopped                           map[string]bool // sandboxes
	containers                        map[string]*containerState
	messages                          map[string]string            // container ID → termination message
	given                             *corev1.ResourceRequirements // what the pod as a whole has; nil when it asks for nothing as such
	resizing                          bool
	usersFailed                       atomic.Bool // a failure of this sandbox was counted
	resizeAt                          time.Time
	resizeOf                          int64                // the generation that was last tried
	resizeTold                        int64                // the one whose begin was told; of the resize under way
	resizeCondition                   *corev1.PodCondition // what stands in a resize's way, or that it is under way
}

// Verdict is the node's own end of a pod.
type Verdict struct {
	Reason, Message string
	// Disruption says that the node ended it for its own sake, so that what made the pod doesn't count it as a failure.
	Disruption bool
}

// containerState is what the worker notes of one container, by name.
type containerState struct {
	backoff Backoff
	failure *corev1.ContainerStateWaiting // why the last start failed
	failed  *corev1.ContainerStateWaiting // what failure turns into when its time comes (ErrImagePull → ImagePullBackOff)
	turnAt  time.Time
	retryAt time.Time
	tries   int
	id      string // the container that the rest is about
	hooked  bool   // postStart has succeeded, or there is none
	started bool   // startup probe
	ready   bool
	sick    string
	sickOf  *corev1.Probe // the probe that made it so
	told    uint32        // the attempt whose BackOff event was sent, plus one
	probing bool
	given   *corev1.ResourceRequirements // what it runs with
	asked   *corev1.ResourceRequirements // what the start under way gives it
	redo    string                       // the container ID that was ended because its definition had changed
	// resizing: it is restarted to be given what it asks for.
	resizing bool
}

// kick makes the worker look again.
func (w *worker) kick() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kickLocked()
}

func (w *worker) kickLocked() {
	w.dirty = true
	if !w.running && !w.cleaned {
		w.running = true
		go w.loop()
	}
}

func (w *worker) loop() {
	for {
		w.mu.Lock()
		if !w.dirty || w.cleaned || w.m.ctx.Err() != nil {
			w.running = false
			w.mu.Unlock()
			return
		}
		w.dirty = false
		w.guarded()
		w.mu.Unlock()
	}
}

// guarded is a turn that can't take the node down with it: a mistake of ours about one pod stays that pod's.
func (w *worker) guarded() {
	begin, operation := time.Now(), w.operation()
	defer func() {
		w.m.tally.Since(meter.PodSyncs, begin, operation)
		if r := recover(); r != nil {
			w.m.log.Error("bug: deciding about a pod panicked, trying again later", "pod", ref(w.pod), "panic", r, "stack", string(debug.Stack()))
			w.timer = time.AfterFunc(lastRetry, w.kick)
		}
	}()
	w.turn()
}

// operation is what a turn is to the metrics: the first of a pod, the first with a new spec, or another.
func (w *worker) operation() string {
	seen := w.seen
	w.seen = w.pod
	switch {
	case seen == nil:
		return "create"
	case seen != w.pod:
		return "update"
	}
	return "sync"
}

// turn looks once at everything, and starts what is to be done. The lock is held; nothing here blocks.
func (w *worker) turn() {
	now := w.m.now()
	w.lifetime(now)
	if w.admitting {
		return // what follows may only begin with what the pod gets
	}
	p := w.observe()
	w.follow(p)
	w.resizeIfAsked(p, now)
	v := View{
		Pod: w.pod, Old: w.last, Now: now, Ending: w.ending, Observed: p,
		Prepared: w.prepared, Held: w.held, Preparing: w.preparing, SandboxBusy: w.sandboxBusy, Releasing: w.releasing, Resetting: w.resetting,
		Starting: w.starting, PrepareAt: w.prepareAt, SandboxAt: w.sandboxAt, Settled: w.settled, Stopped: w.stopped,
		Killing: make(map[string]bool, len(w.killing)), Containers: make(map[string]ContainerView, len(w.containers)),
	}
	for id := range w.killing {
		v.Killing[id] = true
	}
	for name, c := range w.containers {
		v.Containers[name] = ContainerView{Backoff: c.backoff, RetryAt: c.retryAt, Up: c.hooked && c.started, Sick: c.sick, SickID: c.id, Redo: c.redo}
	}
	d := step(v)
	if (w.ending || d.Finished) && w.endingSince.IsZero() {
		w.beginEnding(now)
	}
	for _, a := range d.Actions {
		w.act(a, p)
	}
	for id, k := range w.killing { // one that ended before its turn came has nothing to wait for
		if c := p.ByID(id); id == d.Turn || c == nil || c.State == cri.Exited {
			k.proceed()
		}
	}
	w.report(p, d, now)
	if d.Ended {
		w.finish(p)
	}
	w.wakeAt(d.Wake, now)
}

// lifetime applies what ends a pod from outside: its deletion, and its deadline.
func (w *worker) lifetime(now time.Time) {
	if w.pod.DeletionTimestamp != nil && !w.static {
		grace := time.Duration(0)
		if s := w.pod.DeletionGracePeriodSeconds; s != nil {
			grace = seconds(*s)
		}
		w.end(grace)
	}
	if limit := w.pod.Spec.ActiveDeadlineSeconds; limit != nil && !w.ending && !w.terminal() && w.last != nil && w.last.StartTime != nil {
		if at := w.last.StartTime.Add(time.Duration(*limit) * time.Second); !now.Before(at) {
			w.condemn(Verdict{Reason: "DeadlineExceeded", Message: "Pod was active on the node longer than the specified deadline"})
			w.m.event(w.pod, "", corev1.EventTypeNormal, "DeadlineExceeded", w.verdict.Message)
		}
	}
}

// condemn ends the pod by the node's own decision.
func (w *worker) condemn(v Verdict) {
	if w.verdict == nil && !w.terminal() {
		w.verdict = &v
	}
	w.end(w.specGrace())
}

func (w *worker) terminal() bool {
	return w.last != nil && (w.last.Phase == corev1.PodSucceeded || w.last.Phase == corev1.PodFailed)
}

// seconds is a number of seconds as the API has it, which may be more than a Duration can hold: decades are as good as that.
func seconds(n int64) time.Duration {
	const decades = 1e9
	return time.Duration(min(max(n, 0), decades)) * time.Second
}

func (w *worker) specGrace() time.Duration {
	if s := w.pod.Spec.TerminationGracePeriodSeconds; s != nil {
		return seconds(max(*s, 1))
	}
	return 30 * time.Second
}

// end starts the end of the pod, or brings it forward: a grace period only ever gets shorter.
func (w *worker) end(grace time.Duration) {
	if w.ending && grace >= w.grace {
		return
	}
	w.ending, w.grace = true, grace
	if w.cancelStart != nil {
		w.cancelStart()
	}
	if w.cancelAdmission != nil {
		w.cancelAdmission()
	}
	for _, k := range w.killing { // one that a probe had condemned, too
		k.shorten(w.deadline(w.m.now()))
	}
}

func (w *worker) beginEnding(now time.Time) {
	if w.endingSince = w.m.endingSince(w); w.endingSince.IsZero() {
		w.endingSince = now
		w.m.noteEnding(w, now)
	}
	if !w.ending { // it finished by itself: what is left gets the pod's own grace
		w.grace = w.specGrace()
	}
	for _, c := range w.containers {
		if c.probing { // a pod that ends isn't restarted, but readiness still counts
			w.m.probes.RemoveKind(c.id, probe.Liveness)
			w.m.probes.RemoveKind(c.id, probe.Startup)
		}
	}
}

func (w *worker) deadline(now time.Time) time.Time {
	since := w.endingSince
	if since.IsZero() {
		since = now
	}
	return since.Add(w.grace)
}

// observe is the runtime's picture, with the termination messages read in.
func (w *worker) observe() cri.Pod {
	p := w.m.cache.Get(w.uid)
	if p.Name == "" {
		p.Name, p.Namespace = w.pod.Name, w.pod.Namespace
	}
	for i, c := range p.Containers {
		if c.State != cri.Exited {
			continue
		}
		msg, ok := w.messages[c.ID]
		if !ok {
			msg = terminationMessage(c, w.m.logDir(w.pod))
			w.messages[c.ID] = msg
		}
		if msg != "" {
			with := *c
			if with.Message != "" {
				msg = with.Message + ": " + msg
			}
			with.Message = msg
			p.Containers[i] = &with
		}
	}
	for id := range w.messages {
		if p.ByID(id) == nil {
			delete(w.messages, id)
		}
	}
	return p
}

// follow keeps the notes on containers in step with what runs: probes begin and end here.
func (w *worker) follow(p cri.Pod) {
	for name, c := range w.containers {
		cur := p.Latest(name)
		if c.id != "" && (cur == nil || cur.ID != c.id || cur.State == cri.Exited) {
			w.drop(c)
		}
	}
	for _, cur := range p.Containers {
		if cur.State == cri.Running && p.Latest(cur.Name) == cur {
			w.adopt(cur, p)
		}
	}
}

func (w *worker) drop(c *containerState) {
	if c.probing {
		w.m.probes.Remove(c.id)
	}
	c.id, c.hooked, c.started, c.ready, c.sick, c.sickOf, c.probing = "", false, false, false, "", nil, false
}

// adopt notes a running container that the worker doesn't know yet: one that it has just started, or one that an agent
// before it did. The API's word on the latter's readiness stays until a probe says otherwise.
func (w *worker) adopt(cur *cri.Container, p cri.Pod) {
	spec := findContainer(w.pod, cur.Name)
	c := w.container(cur.Name)
	if spec == nil || c.id == cur.ID || w.hooking(cur) {
		return
	}
	if c.id != "" {
		w.drop(c)
	}
	c.id, c.hooked, c.failure, c.failed, c.resizing = cur.ID, true, nil, nil, false
	if c.given, c.asked = c.asked, nil; c.given == nil { // an agent before this one started it
		w.m.linkLog(w.pod, cur.Name, cur.ID, cur.Attempt) // it may have been killed before it could
		c.given = &spec.Resources
		if old := oldStatus(w.last, cur.Name); old != nil && old.ContainerID == w.m.runtime+"://"+cur.ID && old.Resources != nil {
			c.given = old.Resources
		}
	}
	c.started, c.ready = spec.StartupProbe == nil, spec.ReadinessProbe == nil
	if old := oldStatus(w.last, cur.Name); old != nil && old.ContainerID == w.m.runtime+"://"+cur.ID {
		c.started = c.started || old.Started != nil && *old.Started
		c.ready = c.ready || old.Ready
	}
	w.probe(c, spec, cur, p)
}

// hooking tells whether a running container is still in its start: it has a postStart hook that hasn't ended.
func (w *worker) hooking(cur *cri.Container) bool {
	if w.starting != cur.Name || cur.State != cri.Running {
		return false
	}
	spec := findContainer(w.pod, cur.Name)
	return spec != nil && spec.Lifecycle != nil && spec.Lifecycle.PostStart != nil
}

// shown is what the status tells of the runtime's picture: a container whose postStart hook hasn't ended isn't running
// yet, as the API defines it.
func (w *worker) shown(p cri.Pod) cri.Pod {
	if slices.ContainsFunc(p.Containers, w.hooking) {
		p.Containers = slices.DeleteFunc(slices.Clone(p.Containers), w.hooking)
	}
	return p
}

func (w *worker) probe(c *containerState, spec *corev1.Container, cur *cri.Container, p cri.Pod) {
	if !probe.Has(spec) || w.ending {
		return
	}
	ip := ""
	if sb := p.Sandbox(); w.pod.Spec.HostNetwork {
		ip = first(w.m.node.HostIPs())
	} else if sb != nil {
		ip = first(sb.IPs)
	}
	c.probing = true
	w.m.probes.Add(probe.Target{
		UID: w.uid, ContainerID: cur.ID, StartedAt: time.Unix(0, cur.StartedAt), Pod: w.pod, Container: spec, PodIP: ip, Started: c.started,
	})
}

func (w *worker) container(name string) *containerState {
	c := w.containers[name]
	if c == nil {
		c = &containerState{}
		w.containers[name] = c
	}
	return c
}

// verdictOf takes a probe's result in.
func (w *worker) verdictOf(r probe.Result) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.containers[r.Container]
	if c == nil || c.id != r.ContainerID {
		return
	}
	if !r.Failed && r.Message != "" {
		w.m.event(w.pod, r.Container, corev1.EventTypeWarning, "ProbeWarning", r.Kind.String()+" probe warning: "+r.Message)
	}
	if r.Failed {
		word := " probe failed: "
		if r.Errored {
			word = " probe errored and resulted in failure state: "
		}
		w.m.event(w.pod, r.Container, corev1.EventTypeWarning, "Unhealthy", r.Kind.String()+word+r.Message)
	}
	switch r.Kind {
	case probe.Readiness:
		if r.Verdict != probe.Unknown {
			c.ready = r.Verdict == probe.Success
		}
	case probe.Startup:
		switch r.Verdict {
		case probe.Success:
			c.started = true
		case probe.Failure:
			w.fallSick(c, r)
		}
	case probe.Liveness:
		if r.Verdict == probe.Failure {
			w.fallSick(c, r)
		}
	}
	if r.Verdict != probe.Unknown {
		w.kickLocked()
	}
}

func (w *worker) fallSick(c *containerState, r probe.Result) {
	c.sick = w.sickness(r)
	if spec := findContainer(w.pod, r.Container); spec != nil {
		if c.sickOf = spec.LivenessProbe; r.Kind == probe.Startup {
			c.sickOf = spec.StartupProbe
		}
	}
}

// sickness is why a container is killed, as the event says it.
func (w *worker) sickness(r probe.Result) string {
	msg := "Container " + r.Container + " failed " + strings.ToLower(r.Kind.String()) + " probe"
	if c := findContainer(w.pod, r.Container); c != nil && restarts(w.pod, c, 137) {
		msg += ", will be restarted"
	}
	return msg
}

// report works the status out and hands it to the writer.
func (w *worker) report(p cri.Pod, d Decision, now time.Time) {
	notes := make(map[string]status.Note, len(w.containers)+len(d.Waiting))
	for name, c := range w.containers {
		if c.failed != nil && !now.Before(c.turnAt) {
			c.failure, c.failed = c.failed, nil
		}
		notes[name] = status.Note{Waiting: c.failure, Started: c.hooked && c.started, Ready: c.hooked && c.ready, Given: c.given, Health: w.m.health(w.pod, name)}
	}
	for name := range d.Waiting {
		n := notes[name]
		delay := w.container(name).backoff.Delay
		n.Waiting = &corev1.ContainerStateWaiting{
			Reason:  "CrashLoopBackOff",
			Message: "back-off " + delay.String() + " restarting failed container=" + name + " pod=" + ref(w.pod),
		}
		notes[name] = n
		if cur, c := p.Latest(name), w.container(name); cur != nil && c.told != cur.Attempt+1 {
			c.told = cur.Attempt + 1
			w.m.event(w.pod, name, corev1.EventTypeWarning, "BackOff", "Back-off restarting failed container "+name+" in pod "+ref(w.pod))
		}
	}
	in := status.Input{
		Pod: w.pod, Old: w.last, Observed: w.shown(p), Notes: notes, Now: now, HostIPs: w.m.node.HostIPs(), Runtime: w.m.runtime,
		VolumesReady: w.prepared || volumesWereReady(p), Ended: d.Ended, Resize: w.resizeCondition,
	}
	in.Old = w.old()
	in.Allocated = resourcehelper.PodRequests(w.counted(), resourcehelper.PodResourcesOptions{})
	if w.pod.Spec.Resources != nil {
		if in.Given = w.given; in.Given == nil {
			in.Given = w.pod.Spec.Resources
		}
	}
	if w.verdict != nil {
		in.Reason, in.Message, in.Failed = w.verdict.Reason, w.verdict.Message, d.Ended || p.Sandbox() == nil
		in.Disrupted = w.verdict.Disruption
	} else if w.last != nil {
		in.Reason, in.Message = w.last.Reason, w.last.Message
	}
	st := status.Compute(in)
	w.last = &st
	if w.object != nil && !w.gone {
		w.m.statuses.Set(w.object, &st)
	}
}

// volumesWereReady tells whether the sandbox has a container: it wasn't made before the pod's volumes were. After a
// restart of the agent they are looked at again, which must not make the pod look as if it were beginning anew.
func volumesWereReady(p cri.Pod) bool {
	sb := p.Sandbox()
	return sb != nil && slices.ContainsFunc(p.Containers, func(c *cri.Container) bool { return c.SandboxID == sb.ID })
}

// old is the last status, with the conditions of other writers as the API server has them now.
func (w *worker) old() *corev1.PodStatus {
	if w.object == nil || w.last == nil {
		return w.last
	}
	old := *w.last
	old.Conditions = status.Others(w.object.Status.Conditions, w.last.Conditions)
	return &old
}

// finish is what follows when nothing of the pod is left on the node but dead containers and logs: a deleted pod's object
// goes, and once that is gone, the rest.
func (w *worker) finish(p cri.Pod) {
	if w.gone && w.next != nil && w.next.Pod.Spec.RestartPolicy == corev1.RestartPolicyAlways {
		w.revive()
		return
	}
	if w.gone {
		w.remove(p)
		return
	}
	if w.pod.DeletionTimestamp != nil && w.object != nil && !w.deleteSent {
		w.deleteSent = true
		w.m.statuses.Remove(w.object)
	}
}

// revive begins anew with a pod that left and came back while it was being ended (a manifest that was put back): its
// containers count on.
func (w *worker) revive() {
	d := *w.next
	w.next, w.gone, w.ending, w.endingSince, w.grace, w.verdict = nil, false, false, time.Time{}, 0, nil
	w.pod, w.static, w.object, w.last = d.Pod, d.Static, d.Pod, &corev1.PodStatus{}
	if d.Static {
		w.object = d.Mirror
	}
	w.m.forgetEnding(w)
	w.dirty = true
}

// wakeAt arms the timer for the next thing that happens by itself.
func (w *worker) wakeAt(at, now time.Time) {
	sooner := func(t time.Time) {
		if t.After(now) && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	if !w.resizing {
		sooner(w.resizeAt)
	}
	for _, c := range w.containers {
		if c.failed != nil {
			sooner(c.turnAt)
		}
	}
	if limit := w.pod.Spec.ActiveDeadlineSeconds; limit != nil && !w.ending && w.last != nil && w.last.StartTime != nil && !w.terminal() {
		sooner(w.last.StartTime.Add(time.Duration(*limit) * time.Second))
	}
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
	if !at.IsZero() {
		w.timer = time.AfterFunc(max(at.Sub(now), 0), w.kick)
	}
}

func first(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}

// ref is how messages name a pod: name_namespace(uid).
func ref(pod *corev1.Pod) string { return pod.Name + "_" + pod.Namespace + "(" + string(pod.UID) + ")" }
