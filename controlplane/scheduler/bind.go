package scheduler

import (
	"context"
	"fmt"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mote-edge/mote/controlplane/scheduler/fit"
)

// bind sends the decision to the API server. The pod stays assumed until its watch event confirms it.
func (s *Scheduler) bind(ctx context.Context, it *item, pod *fit.Pod, d decision) {
	err := s.volumes.bind(ctx, d.node, d.volumes)
	if err == nil {
		err = s.claims.Bind(ctx, d.claims, d.node)
	}
	if err == nil && s.claims.Pending(d.claims, d.node) {
		s.recorder.Eventf(pod.Pod, corev1.EventTypeNormal, "BindingConditionsPending", "waiting for binding conditions for device on node %s", d.node)
		<-s.bindings // that may take minutes, which others don't wait for
		err = s.claims.Await(ctx, d.claims, d.node)
		s.bindings <- struct{}{}
	}
	if err == nil {
		err = s.cfg.Client.CoreV1().Pods(pod.Namespace).Bind(ctx, &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
			Target:     corev1.ObjectReference{Kind: "Node", Name: d.node},
		}, metav1.CreateOptions{})
	}
	switch {
	case err == nil:
		s.recorder.Eventf(pod.Pod, corev1.EventTypeNormal, "Scheduled", "Successfully assigned %s/%s to %s", pod.Namespace, pod.Name, d.node)
		return
	case ctx.Err() != nil:
		return
	}
	s.state.forget(pod.UID)
	s.claims.Unreserve(ctx, d.claims)
	s.queue.happened(afterPodLeft) // the place that was taken for it is free again
	if apierrors.IsNotFound(err) {
		if _, getErr := s.cfg.Client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{}); apierrors.IsNotFound(getErr) {
			s.queue.remove(pod.UID)
			return
		}
	}
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		s.queue.failed(it) // the pod will be deleted any moment
		return
	}
	slog.WarnContext(ctx, "binding failed", "pod", pod.Namespace+"/"+pod.Name, "node", d.node, "err", err)
	s.report(ctx, pod, corev1.PodReasonSchedulerError, fmt.Sprintf("binding rejected: %v", err), nil)
	s.queue.failed(it)
}
