// Package status works out PodStatus and is the only writer of it. Compute is pure: what the pod asks for, what the
// runtime has and what the worker knows go in; phase, conditions and container statuses come out. Writer sends one
// coalesced patch a pod.
//
// Reads:  the pod, the runtime's picture, the worker's notes.
// Writes: the status subresource of this node's pods, and their final deletion.
package status

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mote-edge/mote/agent/cgroup"
	"github.com/mote-edge/mote/agent/cri"
)

// The waiting reasons that are ours by default; the others come with the failure (ErrImagePull, CrashLoopBackOff, …).
const (
	ContainerCreating = "ContainerCreating"
	PodInitializing   = "PodInitializing"
)

// Note is what the worker knows of a container and the runtime doesn't.
type Note struct {
	// Waiting says why a container that should run doesn't; nil when nothing is in its way.
	Waiting *corev1.ContainerStateWaiting
	// Started and Ready are the verdicts of the startup and readiness probes; true where there is none.
	Started, Ready bool
	// Health is that of its devices.
	Health []corev1.ResourceStatus
	// Given are the resources that the running container has; nil means those of the spec.
	Given *corev1.ResourceRequirements
}

// Input is all that a status comes from.
type Input struct {
	Pod      *corev1.Pod
	Old      *corev1.PodStatus // the last known one: transition times and other writers' conditions come from it
	Observed cri.Pod
	Notes    map[string]Note
	Now      time.Time
	HostIPs  []string
	Runtime  string // the scheme of container IDs: containerd, mote
	// VolumesReady gates PodReadyToStartContainers.
	VolumesReady bool
	// Disrupted says that Reason and Message are the node's own, for its sake, not the pod's.
	Disrupted bool
	// Given is what the pod as a whole has, of those that ask for it; else nil.
	Given *corev1.ResourceRequirements
	// Allocated are the pod's requests as far as the node has granted them.
	Allocated corev1.ResourceList
	// Resize is the condition of a resize that waits or is under way; nil when there is none.
	Resize *corev1.PodCondition
	// Ended means that the pod will not run again and all its containers have stopped: the phase becomes final.
	Ended bool
	// Reason and Message explain a pod that the node itself ended or refused (Evicted, DeadlineExceeded, OutOfcpu), and
	// Failed makes its phase Failed at once.
	Reason, Message string
	Failed          bool
}

// Compute returns the pod's status.
func Compute(in Input) corev1.PodStatus {
	pod, old := in.Pod, in.Old
	if old == nil {
		old = &corev1.PodStatus{}
	}
	st := corev1.PodStatus{
		ObservedGeneration: pod.Generation, Reason: in.Reason, Message: in.Message, QOSClass: cgroup.QOSClass(pod),
		NominatedNodeName: old.NominatedNodeName, StartTime: old.StartTime,
		ResourceClaimStatuses: old.ResourceClaimStatuses, Resize: old.Resize,
	}
	if st.StartTime == nil {
		t := metav1.NewTime(in.Now).Rfc3339Copy()
		st.StartTime = &t
	}
	addresses(&st, in, old)
	if (in.Failed || old.Phase == corev1.PodFailed) && len(in.Observed.Sandboxes)+len(in.Observed.Containers) == 0 && len(old.ContainerStatuses) == 0 {
		st.Phase = corev1.PodFailed // refused: it has no containers to speak of
		st.Conditions = conditions(in, &st, old)
		return st
	}
	st.Resources, st.AllocatedResources = in.Given, in.Allocated
	st.InitContainerStatuses = containers(in, old.InitContainerStatuses, pod.Spec.InitContainers)
	st.ContainerStatuses = containers(in, old.ContainerStatuses, pod.Spec.Containers)
	for i := range pod.Spec.EphemeralContainers {
		c := (*corev1.Container)(&pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		st.EphemeralContainerStatuses = append(st.EphemeralContainerStatuses, container(in, find(old.EphemeralContainerStatuses, c.Name), c, kindEphemeral))
	}
	if in.Ended {
		terminate(in, &st)
	}
	st.Phase = Phase(pod, &st, in.Ended)
	if old.Phase == corev1.PodFailed || old.Phase == corev1.PodSucceeded {
		st.Phase = old.Phase // never back out of a final phase
	}
	if in.Failed {
		st.Phase = corev1.PodFailed
	}
	st.Conditions = conditions(in, &st, old)
	return st
}

func addresses(st *corev1.PodStatus, in Input, old *corev1.PodStatus) {
	if len(in.HostIPs) > 0 {
		st.HostIP = in.HostIPs[0]
		for _, ip := range in.HostIPs {
			st.HostIPs = append(st.HostIPs, corev1.HostIP{IP: ip})
		}
	}
	ips := in.HostIPs
	sb := in.Observed.Sandbox()
	if !in.Pod.Spec.HostNetwork {
		ips = nil
		if sb != nil {
			ips = sb.IPs
		}
	} else if sb == nil {
		ips = nil
	}
	if len(ips) == 0 { // a finished pod keeps the address that it had
		st.PodIP, st.PodIPs = old.PodIP, old.PodIPs
		return
	}
	st.PodIP = ips[0]
	for _, ip := range ips {
		st.PodIPs = append(st.PodIPs, corev1.PodIP{IP: ip})
	}
}

type kind int

const (
	kindRegular kind = iota
	kindInit
	kindSidecar
	kindEphemeral
)

// IsSidecar tells whether an init container is a restartable one.
func IsSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

func containers(in Input, old []corev1.ContainerStatus, specs []corev1.Container) []corev1.ContainerStatus {
	if len(specs) == 0 {
		return nil
	}
	out := make([]corev1.ContainerStatus, 0, len(specs))
	init := len(in.Pod.Spec.InitContainers) > 0 && &specs[0] == &in.Pod.Spec.InitContainers[0]
	for i := range specs {
		k := kindRegular
		if init {
			if k = kindInit; IsSidecar(&specs[i]) {
				k = kindSidecar
			}
		}
		out = append(out, container(in, find(old, specs[i].Name), &specs[i], k))
	}
	return out
}

func find(list []corev1.ContainerStatus, name string) *corev1.ContainerStatus {
	i := slices.IndexFunc(list, func(s corev1.ContainerStatus) bool { return s.Name == name })
	if i < 0 {
		return nil
	}
	return &list[i]
}

func container(in Input, old *corev1.ContainerStatus, c *corev1.Container, k kind) corev1.ContainerStatus {
	st := corev1.ContainerStatus{Name: c.Name, Image: c.Image, Started: new(bool)}
	note := in.Notes[c.Name]
	waiting := note.Waiting
	if waiting == nil {
		waiting = &corev1.ContainerStateWaiting{Reason: ContainerCreating}
		if len(in.Pod.Spec.InitContainers) > 0 && k != kindEphemeral {
			waiting = &corev1.ContainerStateWaiting{Reason: PodInitializing}
		}
	}
	cur := in.Observed.Latest(c.Name)
	if cur == nil {
		if old != nil && old.State.Waiting == nil && k != kindEphemeral && !in.Ended && (AllRestarting(in.Old) || len(RestartSources(in.Pod, in.Observed)) > 0) {
			return removed(old, c, st)
		}
		if old != nil && old.State.Terminated != nil { // ended, and collected since
			return *old
		}
		if old != nil {
			st.RestartCount, st.LastTerminationState = old.RestartCount, old.LastTerminationState
			if note.Waiting == nil && old.State.Waiting != nil { // what was in its way is, until it has started
				waiting = old.State.Waiting
			}
		}
		st.State.Waiting = waiting
		return st
	}
	if cur.Image != "" { // the spec's may be newer than the one that runs
		st.Image = cur.Image
	}
	st.ContainerID, st.ImageID, st.RestartCount = in.Runtime+"://"+cur.ID, cur.ImageRef, int32(cur.Attempt)
	if cur.User.GetLinux() != nil {
		l := cur.User.GetLinux()
		st.User = &corev1.ContainerUser{Linux: &corev1.LinuxContainerUser{UID: l.GetUid(), GID: l.GetGid(), SupplementalGroups: l.GetSupplementalGroups()}}
	}
	st.VolumeMounts, st.AllocatedResourcesStatus = mounts(c), note.Health
	if prev := previous(in.Observed, cur); prev != nil {
		st.LastTerminationState.Terminated = terminated(in, prev)
	} else if old != nil {
		switch { // the attempt before is collected, or the same one: what was said of it stays true
		case old.ContainerID == st.ContainerID:
			st.LastTerminationState = old.LastTerminationState
		case old.State.Terminated != nil && cur.Attempt > 0:
			st.LastTerminationState = old.State
		case old.State.Waiting != nil && cur.Attempt > 0:
			st.LastTerminationState = old.LastTerminationState
		}
	}
	if waits := in.Resize != nil && in.Resize.Type == corev1.PodResizePending; cur.State == cri.Running || waits {
		st.Resources = note.Given
	}
	if st.Resources == nil { // what it gets when it runs
		st.Resources = &c.Resources
	}
	st.AllocatedResources = st.Resources.Requests
	switch cur.State {
	case cri.Running:
		st.State.Running = &corev1.ContainerStateRunning{StartedAt: timeOf(cur.StartedAt)}
		*st.Started = note.Started
		st.Ready = note.Ready && note.Started && (k == kindRegular || k == kindSidecar)
	case cri.Exited:
		end := terminated(in, cur)
		if note.Waiting != nil && !in.Ended { // it is to run again, and something keeps it from that
			st.State.Waiting, st.LastTerminationState = note.Waiting, corev1.ContainerState{Terminated: end}
		} else {
			st.State.Terminated = end
			st.Ready = k == kindInit && cur.ExitCode == 0
		}
	default:
		st.State.Waiting = waiting
	}
	return st
}

// previous returns the exited attempt before cur, or nil.
func previous(p cri.Pod, cur *cri.Container) *cri.Container {
	for _, c := range slices.Backward(p.Containers) {
		if c.Name == cur.Name && c.ID != cur.ID && c.State == cri.Exited && c.CreatedAt <= cur.CreatedAt {
			return c
		}
	}
	return nil
}

func terminated(in Input, c *cri.Container) *corev1.ContainerStateTerminated {
	t := &corev1.ContainerStateTerminated{
		ExitCode: c.ExitCode, Reason: c.Reason, Message: c.Message, StartedAt: timeOf(c.StartedAt), FinishedAt: timeOf(c.FinishedAt),
		ContainerID: in.Runtime + "://" + c.ID,
	}
	if t.Reason == "" {
		if t.Reason = "Error"; c.ExitCode == 0 {
			t.Reason = "Completed"
		}
	}
	return t
}

func timeOf(ns int64) metav1.Time {
	if ns <= 0 {
		return metav1.Time{}
	}
	return metav1.NewTime(time.Unix(ns/int64(time.Second), 0)) // the API has seconds: equal values must compare equal
}

func mounts(c *corev1.Container) []corev1.VolumeMountStatus {
	var out []corev1.VolumeMountStatus
	for _, m := range c.VolumeMounts {
		s := corev1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			mode := corev1.RecursiveReadOnlyDisabled
			if m.RecursiveReadOnly != nil && *m.RecursiveReadOnly != corev1.RecursiveReadOnlyDisabled { // a runtime that can't would have refused
				mode = corev1.RecursiveReadOnlyEnabled
			}
			s.RecursiveReadOnly = &mode
		}
		out = append(out, s)
	}
	return out
}

// terminate gives an ended pod's containers a final state: one that had started and that nobody can find any more
// counts as killed; one that never started stays waiting, as upstream has it.
func terminate(in Input, st *corev1.PodStatus) {
	started := slices.ContainsFunc(st.ContainerStatuses, func(c corev1.ContainerStatus) bool { return c.ContainerID != "" })
	for _, list := range [][]corev1.ContainerStatus{st.InitContainerStatuses, st.ContainerStatuses, st.EphemeralContainerStatuses} {
		for i := range list {
			c := &list[i]
			c.Ready, c.Started = c.Ready && c.State.Terminated != nil, new(bool)
			if c.State.Terminated != nil {
				continue
			}
			if c.LastTerminationState.Terminated != nil && c.State.Running == nil {
				c.State, c.LastTerminationState = c.LastTerminationState, corev1.ContainerState{}
			} else if started || c.ContainerID != "" {
				c.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
					Reason: "ContainerStatusUnknown", Message: "The container could not be located when the pod was terminated", ExitCode: 137,
				}}
			}
		}
	}
}
