package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/mote-edge/mote/controlplane/scheduler/fit"
)

// maxNote is the longest message that an event may have.
const maxNote = 1024

// refused parks a pod that no node takes, tells why, and has the victims of its preemption deleted.
func (s *Scheduler) refused(ctx context.Context, it *item, pod *fit.Pod, d decision) {
	if d.nominate != nil {
		s.state.nominate(pod, *d.nominate)
	}
	s.queue.refused(it, d.refusedBy)
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		s.report(ctx, pod, corev1.PodReasonUnschedulable, d.message, d.nominate)
		if given, err := s.claims.Refused(ctx, d.claims); err != nil && ctx.Err() == nil {
			slog.WarnContext(ctx, "an unused allocation could not be given back", "pod", pod.Namespace+"/"+pod.Name, "err", err)
		} else if given {
			return // the pod will be looked at again, with the claim free
		}
		if d.victims != nil {
			s.evict(ctx, pod, d.victims)
		}
	}()
}

// report sets the PodScheduled condition, if that says anything new, and records an event.
func (s *Scheduler) report(ctx context.Context, pod *fit.Pod, reason, message string, nominate *string) {
	s.recorder.Event(pod.Pod, corev1.EventTypeWarning, "FailedScheduling", message[:min(len(message), maxNote)])
	patch := statusPatch(pod.Pod, reason, message, nominate)
	if patch == nil {
		return
	}
	_, err := s.cfg.Client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
		slog.WarnContext(ctx, "the pod's PodScheduled condition could not be written", "pod", pod.Namespace+"/"+pod.Name, "err", err)
	}
}

// statusPatch is nil if the pod's status already says so.
func statusPatch(pod *corev1.Pod, reason, message string, nominate *string) []byte {
	want := corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: reason, Message: message,
		ObservedGeneration: pod.Generation, LastTransitionTime: metav1.Now(),
	}
	same := false
	for _, c := range pod.Status.Conditions {
		if c.Type != corev1.PodScheduled {
			continue
		}
		same = c.Status == want.Status && c.Reason == reason && c.Message == message
		if c.Status == want.Status {
			want.LastTransitionTime = c.LastTransitionTime
		}
	}
	status := map[string]any{}
	if !same {
		status["conditions"] = []corev1.PodCondition{want}
	}
	if nominate != nil && *nominate != pod.Status.NominatedNodeName {
		status["nominatedNodeName"] = *nominate
		if *nominate == "" {
			status["nominatedNodeName"] = nil
		}
	}
	if len(status) == 0 {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	if err != nil {
		panic(err) // plain values always marshal
	}
	return patch
}

// evict deletes the victims, and takes back the nominations that the new one outranks.
func (s *Scheduler) evict(ctx context.Context, pod *fit.Pod, v *fit.Victims) {
	for _, victim := range v.Pods {
		if victim.DeletionTimestamp != nil {
			continue
		}
		pods := s.cfg.Client.CoreV1().Pods(victim.Namespace)
		patch, err := json.Marshal(map[string]any{
			"metadata": map[string]any{"uid": victim.UID},
			"status": map[string]any{"conditions": []corev1.PodCondition{{
				Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler,
				Message:            s.cfg.Name + ": preempting to accommodate a higher priority pod",
				ObservedGeneration: victim.Generation, LastTransitionTime: metav1.Now(),
			}}},
		})
		if err == nil {
			_, err = pods.Patch(ctx, victim.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		}
		if err == nil {
			err = pods.Delete(ctx, victim.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &victim.UID}})
		}
		switch {
		case apierrors.IsNotFound(err):
		case err != nil:
			slog.WarnContext(ctx, "a pod could not be preempted", "pod", victim.Namespace+"/"+victim.Name, "for", pod.Namespace+"/"+pod.Name, "err", err)
			s.state.nominate(pod, "")
			return
		default:
			s.recorder.Event(victim.Pod, corev1.EventTypeNormal, "Preempted", fmt.Sprintf("Preempted by pod %s on node %s", pod.UID, v.Node))
		}
	}
	for _, weaker := range s.state.outrank(pod, v.Node) {
		none := ""
		if patch := statusPatch(weaker.Pod, corev1.PodReasonUnschedulable, conditionMessage(weaker.Pod), &none); patch != nil {
			_, err := s.cfg.Client.CoreV1().Pods(weaker.Namespace).Patch(ctx, weaker.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
			if err != nil && !apierrors.IsNotFound(err) {
				slog.WarnContext(ctx, "a nomination could not be taken back", "pod", weaker.Namespace+"/"+weaker.Name, "err", err)
			}
		}
	}
}

func conditionMessage(p *corev1.Pod) string {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled {
			return c.Message
		}
	}
	return ""
}
