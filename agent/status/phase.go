package status

import (
	corev1 "k8s.io/api/core/v1"
)

// Phase sums the pod up:
//
//	Pending ─ all containers have started once ─► Running ─ all ended for good ─► Succeeded | Failed
//
// ended makes the phase final whatever the restart policy says (the pod was deleted, evicted, or ran out of time).
func Phase(pod *corev1.Pod, st *corev1.PodStatus, ended bool) corev1.PodPhase {
	never := pod.Spec.RestartPolicy == corev1.RestartPolicyNever
	var pending, initFailed, sidecars int
	for i := range pod.Spec.InitContainers {
		s := find(st.InitContainerStatuses, pod.Spec.InitContainers[i].Name)
		if IsSidecar(&pod.Spec.InitContainers[i]) {
			switch {
			case s == nil || s.State.Waiting != nil && s.LastTerminationState.Terminated == nil:
				pending++
			case s.State.Running != nil:
				sidecars++
				if s.Started != nil && !*s.Started {
					pending++
				}
			}
			continue
		}
		switch {
		case s == nil || s.State.Running != nil:
			pending++
		case s.State.Terminated != nil:
			if s.State.Terminated.ExitCode != 0 {
				pending++
				if never || ended {
					initFailed++
				}
			}
		case s.State.Waiting != nil && s.LastTerminationState.Terminated != nil && s.LastTerminationState.Terminated.ExitCode == 0:
			// it ended well before and is collected: done
		default:
			pending++
		}
	}
	var running, waiting, stopped, succeeded int
	for i := range pod.Spec.Containers {
		s := find(st.ContainerStatuses, pod.Spec.Containers[i].Name)
		switch {
		case s == nil:
			waiting++
		case s.State.Running != nil:
			running++
		case s.State.Terminated != nil:
			stopped++
			if s.State.Terminated.ExitCode == 0 {
				succeeded++
			}
		case s.LastTerminationState.Terminated != nil:
			stopped++
		default:
			waiting++
		}
	}
	begun := running+stopped > 0
	switch {
	case initFailed > 0:
		return corev1.PodFailed
	case ended:
		if waiting == 0 && stopped == succeeded && running == 0 {
			return corev1.PodSucceeded
		}
		return corev1.PodFailed
	case pending > 0 && !begun, waiting > 0:
		return corev1.PodPending
	case running > 0:
		return corev1.PodRunning
	case stopped == 0:
		return corev1.PodPending
	}
	// All have stopped. The phase stays Running while something of the pod still runs or will run again; the worker
	// says when it has ended.
	return corev1.PodRunning
}
