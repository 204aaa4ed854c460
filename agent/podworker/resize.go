package podworker

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/cri"
	"github.com/mote-edge/mote/agent/criconfig"
)

const (
	// resizeRetry is when a resize that failed is tried again.
	resizeRetry = 10 * time.Second
	// deferredRetry is when one that doesn't fit is looked at again though no pod has left room for it.
	deferredRetry = 3 * time.Minute
)

// resizePlan is what a change of the containers' resources asks for.
type resizePlan struct {
	Update  []string // change while running
	Restart []string // the resize policy asks for a restart
	Pod     bool     // the pod's own bounds change
}

func (p resizePlan) empty() bool { return len(p.Update)+len(p.Restart) == 0 && !p.Pod }

// planResize compares what the pod and its running containers were given with what the pod asks for now. It is pure.
func planResize(pod *corev1.Pod, whole *corev1.ResourceRequirements, given map[string]*corev1.ResourceRequirements) (p resizePlan) {
	p.Pod = whole != nil && pod.Spec.Resources != nil && !equality.Semantic.DeepEqual(whole, pod.Spec.Resources)
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			c := &list[i]
			was := given[c.Name]
			if was == nil || equality.Semantic.DeepEqual(*was, c.Resources) {
				continue
			}
			if restartsForResize(c, was) {
				p.Restart = append(p.Restart, c.Name)
			} else {
				p.Update = append(p.Update, c.Name)
			}
		}
	}
	return p
}

func restartsForResize(c *corev1.Container, was *corev1.ResourceRequirements) bool {
	for _, policy := range c.ResizePolicy {
		name := policy.ResourceName
		r, r2 := was.Requests[name], c.Resources.Requests[name]
		l, l2 := was.Limits[name], c.Resources.Limits[name]
		if policy.RestartPolicy == corev1.RestartContainer && (r.Cmp(r2) != 0 || l.Cmp(l2) != 0) {
			return true
		}
	}
	return false
}

// resizeIfAsked starts the resize that the pod asks for. The worker's lock is held.
func (w *worker) resizeIfAsked(p cri.Pod, now time.Time) {
	if w.ending || w.resizing {
		return
	}
	given := map[string]*corev1.ResourceRequirements{}
	for name, c := range w.containers {
		if c.id != "" && c.sick == "" {
			given[name] = c.given
		}
	}
	plan := planResize(w.pod, w.given, given)
	if plan.empty() {
		w.endedResize()
		return
	}
	if w.starting != "" { // a container that is ready while its start is still being told of, or another one's start
		if w.resizeCondition == nil {
			w.resizeCondition = &corev1.PodCondition{Type: corev1.PodResizeInProgress, Status: corev1.ConditionTrue}
		}
		return
	}
	again := w.resizeOf == w.pod.Generation
	if again && now.Before(w.resizeAt) {
		return
	}
	if again && w.deferred() { // all that wait are asked in turn, the most important first
		if w.resizeCondition.Reason == corev1.PodReasonDeferred {
			w.resizeAt = now.Add(deferredRetry)
			go w.m.retryResizes()
		}
		return
	}
	w.resizing, w.resizeOf = true, w.pod.Generation
	// Whoever sees this generation observed must not take it for done.
	w.resizeCondition = &corev1.PodCondition{Type: corev1.PodResizeInProgress, Status: corev1.ConditionTrue}
	ids := map[string]string{}
	for _, name := range plan.Update {
		ids[name] = w.containers[name].id
	}
	for name, was := range given {
		if plan.Pod && was != nil && !slices.Contains(plan.Restart, name) {
			ids[name] = w.containers[name].id // what it has no limit of its own for, the pod bounds
		}
	}
	go w.resize(w.pod, plan, ids)
}

// endedResize takes the condition away once everything has what it asks for: a container that had to be restarted has
// when it runs again.
func (w *worker) endedResize() {
	for _, c := range w.containers {
		if c.resizing {
			return
		}
	}
	if w.resizeCondition != nil && w.resizeCondition.Type == corev1.PodResizeInProgress {
		w.m.event(w.pod, "", corev1.EventTypeNormal, "ResizeCompleted", resizeMessage("Pod resize completed", w.pod, ""))
	}
	w.resizeCondition = nil
}

// deferred tells whether the node hasn't granted what the pod asks for now: until it does, containers start with what
// they had.
func (w *worker) deferred() bool {
	return w.resizeCondition != nil && w.resizeCondition.Type == corev1.PodResizePending
}

func (w *worker) resize(pod *corev1.Pod, plan resizePlan, ids map[string]string) {
	ctx, cancel := context.WithTimeout(w.m.ctx, callTimeout)
	defer cancel()
	pending := w.m.grantResize(w, pod)
	if pending == nil && w.resizeTold != pod.Generation { // not at every try
		w.resizeTold = pod.Generation
		w.m.event(pod, "", corev1.EventTypeNormal, "ResizeStarted", resizeMessage("Pod resize started", pod, ""))
	}
	done := map[string]bool{}
	var err error
	if pending == nil {
		err = w.shrinks(ctx, pod, ids)
	}
	if pending == nil && err == nil {
		// A cgroup may not get more than its parent has: the pod grows before its containers and shrinks after them. The
		// first of the two fails when it shrinks, which the second one mends.
		_, _ = w.m.cgroups.Ensure(pod)
		for name, id := range ids {
			spec := findContainer(pod, name)
			_, uerr := w.m.cri.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{
				ContainerId: id, Linux: w.m.limits(pod, spec, w.m.cfg.Tuning.Apply(criconfig.Resources(pod, spec, w.m.cfg.MemoryBytes, w.m.cfg.CgroupV2), pod, spec)),
			})
			if uerr != nil {
				err = fmt.Errorf("container %s: %s", name, cri.Message(uerr))
				continue
			}
			done[name] = true
		}
		if _, perr := w.m.cgroups.Ensure(pod); err == nil && len(plan.Restart) == 0 { // one that restarts has its old share until then
			err = perr
		}
	}
	w.done(func() { w.endResize(pod, plan, ids, done, pending, err) })
}

func (w *worker) endResize(pod *corev1.Pod, plan resizePlan, ids map[string]string, done map[string]bool, pending *corev1.PodCondition, err error) {
	w.resizing, w.resizeAt = false, time.Time{}
	for name := range done {
		if c := w.containers[name]; c != nil && c.id == ids[name] {
			c.given = &findContainer(pod, name).Resources
		}
	}
	switch {
	case pending != nil:
		if w.resizeCondition == nil || w.resizeCondition.Reason != pending.Reason {
			w.m.event(pod, "", corev1.EventTypeWarning, "Resize"+pending.Reason, resizeMessage("Pod resize "+pending.Reason, pod, pending.Message))
		}
		w.resizeCondition, w.resizeAt = pending, w.m.now().Add(deferredRetry)
	case err != nil:
		w.resizeCondition = &corev1.PodCondition{Type: corev1.PodResizeInProgress, Status: corev1.ConditionTrue, Reason: corev1.PodReasonError, Message: err.Error()}
		w.resizeAt = w.m.now().Add(resizeRetry)
		w.m.event(pod, "", corev1.EventTypeWarning, "ResizeError", resizeMessage("Pod resize error", pod, err.Error()))
	default:
		for _, name := range plan.Restart {
			if c := w.containers[name]; c != nil && c.id != "" && c.sick == "" {
				c.sick, c.resizing, c.backoff = "Container "+name+" resize requires restart", true, Backoff{}
			}
		}
		if plan.Pod {
			w.given = pod.Spec.Resources
		}
		go w.m.retryResizes() // it may have left room for others
	}
}

// resizeMessage is an event's message with what the pod asks for, in the form that tools know from upstream.
func resizeMessage(text string, pod *corev1.Pod, why string) string {
	type container struct {
		Name      string                      `json:"name"`
		Resources corev1.ResourceRequirements `json:"resources"`
	}
	of := func(list []corev1.Container) []container {
		var out []container
		for i := range list {
			out = append(out, container{list[i].Name, list[i].Resources})
		}
		return out
	}
	b, err := json.Marshal(struct {
		InitContainers []container `json:"initContainers,omitempty"`
		Containers     []container `json:"containers"`
		Generation     int64       `json:"generation"`
		Error          string      `json:"error,omitempty"`
	}{of(pod.Spec.InitContainers), of(pod.Spec.Containers), pod.Generation, why})
	if err != nil {
		return text // quantities always marshal
	}
	return text + ": " + string(b)
}

// refuseResize tells why the node can't give what the pod asks for: never (Infeasible), or not now (Deferred).
func (m *Manager) refuseResize(pod *corev1.Pod) *corev1.PodCondition {
	m.mu.Lock()
	others := make([]*corev1.Pod, 0, len(m.workers))
	for uid, w := range m.workers {
		if o, st := w.snapshot(); uid != pod.UID && o != nil && (st == nil || st.Phase != corev1.PodSucceeded && st.Phase != corev1.PodFailed) {
			others = append(others, o)
		}
	}
	m.mu.Unlock()
	if m.resources != nil {
		if why := m.resources.MayResize(pod); why != "" {
			return &corev1.PodCondition{Type: corev1.PodResizePending, Status: corev1.ConditionTrue, Reason: corev1.PodReasonInfeasible, Message: why}
		}
	}
	reason := corev1.PodReasonInfeasible
	v := admitResources(pod, nil, m.node.Allocatable())
	if v == nil {
		reason = corev1.PodReasonDeferred
		v = admitResources(pod, others, m.node.Allocatable())
	}
	if v == nil {
		return nil
	}
	return &corev1.PodCondition{Type: corev1.PodResizePending, Status: corev1.ConditionTrue, Reason: reason, Message: v.Message}
}
