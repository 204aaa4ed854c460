package core

import (
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mote-edge/mote/controlplane/registry/resource"
)

var podColumns = []resource.Column[*corev1.Pod]{
	resource.Name[*corev1.Pod](),
	{Name: "Ready", Doc: "The aggregate readiness state of this pod for accepting traffic.", Value: func(p *corev1.Pod) any { return summarize(p).ready }},
	{Name: "Status", Doc: "The aggregate status of the containers in this pod.", Value: func(p *corev1.Pod) any { return summarize(p).status }},
	{
		Name: "Restarts", Doc: "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
		Value: func(p *corev1.Pod) any { return summarize(p).restarts },
	},
	resource.Age[*corev1.Pod](),
	{Name: "IP", Wide: true, Value: func(p *corev1.Pod) any {
		if len(p.Status.PodIPs) == 0 {
			return resource.None
		}
		return resource.OrNone(p.Status.PodIPs[0].IP)
	}},
	{Name: "Node", Wide: true, Value: func(p *corev1.Pod) any { return resource.OrNone(p.Spec.NodeName) }},
	{Name: "Nominated Node", Wide: true, Value: func(p *corev1.Pod) any { return resource.OrNone(p.Status.NominatedNodeName) }},
	{Name: "Readiness Gates", Wide: true, Value: readinessGates},
}

func readinessGates(p *corev1.Pod) any {
	if len(p.Spec.ReadinessGates) == 0 {
		return resource.None
	}
	met := 0
	for _, g := range p.Spec.ReadinessGates {
		if hasCondition(p, g.ConditionType) {
			met++
		}
	}
	return fmt.Sprintf("%d/%d", met, len(p.Spec.ReadinessGates))
}

func hasCondition(p *corev1.Pod, t corev1.PodConditionType) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == t {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// podSummary is the one line that people know a pod by.
type podSummary struct{ ready, status, restarts string }

// summarize tells the story of a pod in the words of `kubectl get pods`: the
// phase, unless a container has something more telling to say.
func summarize(p *corev1.Pod) podSummary {
	total := len(p.Spec.Containers)
	sidecar := map[string]bool{}
	for _, c := range p.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			sidecar[c.Name] = true
			total++
		}
	}
	status := string(p.Status.Phase)
	if p.Status.Reason != "" {
		status = p.Status.Reason
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonSchedulingGated {
			status = corev1.PodReasonSchedulingGated
		}
	}

	var init, sidecars, all restartCount
	ready := 0
	initStatus, initializing := "", false
	for i, c := range p.Status.InitContainerStatuses {
		init.add(c)
		if sidecar[c.Name] {
			sidecars.add(c)
		}
		if t := c.State.Terminated; t != nil && t.ExitCode == 0 {
			continue
		}
		if sidecar[c.Name] && c.Started != nil && *c.Started {
			if c.Ready {
				ready++
			}
			continue
		}
		initializing = true
		switch w := c.State.Waiting; {
		case c.State.Terminated != nil:
			initStatus = "Init:" + exitWord(c.State.Terminated)
		case w != nil && w.Reason != "" && w.Reason != "PodInitializing":
			initStatus = "Init:" + w.Reason
		default:
			initStatus = fmt.Sprintf("Init:%d/%d", i, len(p.Spec.InitContainers))
		}
		break // the first that isn't done is the one to name
	}
	all = init
	if initializing {
		status = initStatus
	}

	if !initializing || hasCondition(p, corev1.PodInitialized) {
		// Past the initialization only the sidecars' restarts still matter.
		all = sidecars
		running, failure := false, ""
		for i := len(p.Status.ContainerStatuses) - 1; i >= 0; i-- {
			c := p.Status.ContainerStatuses[i]
			all.add(c)
			switch {
			case c.State.Waiting != nil && c.State.Waiting.Reason != "":
				status = c.State.Waiting.Reason
			case c.State.Terminated != nil:
				status = exitWord(c.State.Terminated)
				if c.State.Terminated.ExitCode != 0 {
					failure = status
				}
			case c.Ready && c.State.Running != nil:
				running = true
				ready++
			}
		}
		// A finished container doesn't speak for those that still run or failed.
		if status == "Completed" {
			switch {
			case running && hasCondition(p, corev1.PodReady):
				status = "Running"
			case failure != "":
				status = failure
			case running:
				status = "NotReady"
			}
		}
	}

	if p.DeletionTimestamp != nil {
		switch {
		case p.Status.Reason == "NodeLost":
			status = "Unknown"
		case p.Status.Phase != corev1.PodFailed && p.Status.Phase != corev1.PodSucceeded:
			status = "Terminating"
		}
	}
	return podSummary{ready: fmt.Sprintf("%d/%d", ready, total), status: status, restarts: all.String()}
}

func exitWord(t *corev1.ContainerStateTerminated) string {
	switch {
	case t.Reason != "":
		return t.Reason
	case t.Signal != 0:
		return fmt.Sprintf("Signal:%d", t.Signal)
	default:
		return fmt.Sprintf("ExitCode:%d", t.ExitCode)
	}
}

// restartCount adds up restarts and remembers the last one.
type restartCount struct {
	n    int
	last metav1.Time
}

func (r *restartCount) add(c corev1.ContainerStatus) {
	r.n += int(c.RestartCount)
	if t := c.LastTerminationState.Terminated; t != nil && r.last.Before(&t.FinishedAt) {
		r.last = t.FinishedAt
	}
}

func (r restartCount) String() string {
	if r.n == 0 || r.last.IsZero() {
		return strconv.Itoa(r.n)
	}
	return fmt.Sprintf("%d (%s ago)", r.n, resource.Since(r.last))
}

// finishedRow marks rows of pods that are done, so that clients may grey them.
func finishedRow(p *corev1.Pod) []metav1.TableRowCondition {
	reason, message := "", ""
	switch p.Status.Phase {
	case corev1.PodSucceeded:
		reason, message = string(corev1.PodSucceeded), "The pod has completed successfully."
	case corev1.PodFailed:
		reason, message = string(corev1.PodFailed), "The pod failed."
	default:
		return nil
	}
	return []metav1.TableRowCondition{{Type: metav1.RowCompleted, Status: metav1.ConditionTrue, Reason: reason, Message: message}}
}
