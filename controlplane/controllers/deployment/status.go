package deployment

import (
	"fmt"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Reasons of the Progressing and Available conditions.
const (
	reasonUpdated     = "ReplicaSetUpdated"
	reasonCreateError = "ReplicaSetCreateError"
	reasonCreated     = "NewReplicaSetCreated"
	reasonFound       = "FoundNewReplicaSet"
	reasonComplete    = "NewReplicaSetAvailable"
	reasonTimedOut    = "ProgressDeadlineExceeded"
	reasonPaused      = "DeploymentPaused"
	reasonResumed     = "DeploymentResumed"
	reasonAvailable   = "MinimumReplicasAvailable"
	reasonUnavailable = "MinimumReplicasUnavailable"
)

// counted computes the numbers and the Available condition of a Deployment's status.
func counted(d *appsv1.Deployment, s sets, now time.Time) appsv1.DeploymentStatus {
	all := s.all()
	total := sum(all, size)
	st := appsv1.DeploymentStatus{
		ObservedGeneration:  d.Generation,
		Replicas:            sum(all, func(rs *appsv1.ReplicaSet) int32 { return rs.Status.Replicas }),
		ReadyReplicas:       sum(all, func(rs *appsv1.ReplicaSet) int32 { return rs.Status.ReadyReplicas }),
		AvailableReplicas:   sum(all, func(rs *appsv1.ReplicaSet) int32 { return rs.Status.AvailableReplicas }),
		TerminatingReplicas: terminating(all),
		CollisionCount:      d.Status.CollisionCount,
		Conditions:          slices.Clone(d.Status.Conditions),
	}
	if s.current != nil {
		st.UpdatedReplicas = s.current.Status.Replicas
	}
	st.UnavailableReplicas = max(0, total-st.AvailableReplicas)
	_, maxUnavailable := fenceposts(d)
	if st.AvailableReplicas >= wanted(d)-maxUnavailable {
		set(&st, appsv1.DeploymentAvailable, corev1.ConditionTrue, reasonAvailable, "Deployment has minimum availability.", now)
	} else {
		set(&st, appsv1.DeploymentAvailable, corev1.ConditionFalse, reasonUnavailable, "Deployment does not have minimum availability.", now)
	}
	return st
}

// terminating is nil as long as a ReplicaSet that was looked at has not told its number.
func terminating(all []*appsv1.ReplicaSet) *int32 {
	n := int32(0)
	for _, rs := range all {
		switch {
		case rs.Status.TerminatingReplicas != nil:
			n += *rs.Status.TerminatingReplicas
		case rs.Status.ObservedGeneration != 0:
			return nil
		}
	}
	return &n
}

// withProgress adds what a rollout needs to the counted status: the Progressing condition and the failures that the
// ReplicaSets report.
func withProgress(d *appsv1.Deployment, s sets, st appsv1.DeploymentStatus, now time.Time) appsv1.DeploymentStatus {
	if !hasDeadline(d) {
		remove(&st, appsv1.DeploymentProgressing)
	}
	was := condition(&d.Status, appsv1.DeploymentProgressing)
	done := st.Replicas == st.UpdatedReplicas && was != nil && was.Reason == reasonComplete
	if hasDeadline(d) && !done {
		subject := fmt.Sprintf("Deployment %q", d.Name)
		if s.current != nil {
			subject = fmt.Sprintf("ReplicaSet %q", s.current.Name)
		}
		switch {
		case complete(d, &st):
			set(&st, appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonComplete, subject+" has successfully progressed.", now)
		case progressing(&d.Status, &st):
			// Written even if its reason stays: lastUpdateTime is what the deadline counts from.
			c := appsv1.DeploymentCondition{
				Type: appsv1.DeploymentProgressing, Status: corev1.ConditionTrue, Reason: reasonUpdated,
				Message: subject + " is progressing.", LastUpdateTime: metav1.NewTime(now), LastTransitionTime: metav1.NewTime(now),
			}
			if was != nil && was.Status == corev1.ConditionTrue {
				c.LastTransitionTime = was.LastTransitionTime
			}
			remove(&st, appsv1.DeploymentProgressing)
			st.Conditions = append(st.Conditions, c)
		case timedOut(d, &st, now):
			set(&st, appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonTimedOut, subject+" has timed out progressing.", now)
		}
	}
	if f := failure(s); f != nil {
		setCondition(&st, *f)
	} else {
		remove(&st, appsv1.DeploymentReplicaFailure)
	}
	return st
}

// failure is the ReplicaFailure condition of the current ReplicaSet, or else of an old one.
func failure(s sets) *appsv1.DeploymentCondition {
	order := s.old
	if s.current != nil {
		order = append([]*appsv1.ReplicaSet{s.current}, s.old...)
	}
	for _, rs := range order {
		for _, c := range rs.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure {
				return &appsv1.DeploymentCondition{
					Type: appsv1.DeploymentReplicaFailure, Status: c.Status, Reason: c.Reason, Message: c.Message,
					LastTransitionTime: c.LastTransitionTime, LastUpdateTime: c.LastTransitionTime,
				}
			}
		}
	}
	return nil
}

// pausedCondition notes that a Deployment was paused or resumed, so that the time in between is not held against the
// deadline. A deadline that was missed before stays on record.
func pausedCondition(d *appsv1.Deployment, st *appsv1.DeploymentStatus, now time.Time) {
	if !hasDeadline(d) {
		return
	}
	was := condition(st, appsv1.DeploymentProgressing)
	if was != nil && was.Reason == reasonTimedOut {
		return
	}
	noted := was != nil && was.Reason == reasonPaused
	switch {
	case d.Spec.Paused && !noted:
		set(st, appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonPaused, "Deployment is paused", now)
	case !d.Spec.Paused && noted:
		set(st, appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonResumed, "Deployment is resumed", now)
	}
}

// complete: all the wanted pods are of the current template and available, and no others run.
func complete(d *appsv1.Deployment, st *appsv1.DeploymentStatus) bool {
	want := wanted(d)
	return st.UpdatedReplicas == want && st.Replicas == want && st.AvailableReplicas == want &&
		st.ObservedGeneration >= d.Generation
}

// progressing: more updated, ready or available pods than before, or fewer old ones.
func progressing(was, is *appsv1.DeploymentStatus) bool {
	return is.UpdatedReplicas > was.UpdatedReplicas ||
		is.Replicas-is.UpdatedReplicas < was.Replicas-was.UpdatedReplicas ||
		is.ReadyReplicas > was.ReadyReplicas || is.AvailableReplicas > was.AvailableReplicas
}

func timedOut(d *appsv1.Deployment, st *appsv1.DeploymentStatus, now time.Time) bool {
	c := condition(st, appsv1.DeploymentProgressing)
	if c == nil || c.Reason == reasonComplete {
		return false
	}
	return c.Reason == reasonTimedOut || now.After(c.LastUpdateTime.Add(deadline(d)))
}

// untilDeadline is when a rollout that makes no progress has to be looked at again; ok is false if it needn't.
func untilDeadline(d *appsv1.Deployment, st *appsv1.DeploymentStatus, now time.Time) (wait time.Duration, ok bool) {
	c := condition(st, appsv1.DeploymentProgressing)
	if d.Spec.Paused || !hasDeadline(d) || c == nil || complete(d, st) ||
		c.Reason == reasonTimedOut || c.Reason == reasonComplete {
		return 0, false
	}
	// A second more, since the API keeps whole seconds.
	return max(0, c.LastUpdateTime.Add(deadline(d)).Sub(now)) + time.Second, true
}

func hasDeadline(d *appsv1.Deployment) bool {
	return d.Spec.ProgressDeadlineSeconds != nil && *d.Spec.ProgressDeadlineSeconds != math.MaxInt32
}

func deadline(d *appsv1.Deployment) time.Duration {
	return time.Duration(*d.Spec.ProgressDeadlineSeconds) * time.Second
}

func condition(st *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range st.Conditions {
		if st.Conditions[i].Type == t {
			return &st.Conditions[i]
		}
	}
	return nil
}

func set(st *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType, s corev1.ConditionStatus, reason, msg string, now time.Time) {
	setCondition(st, appsv1.DeploymentCondition{
		Type: t, Status: s, Reason: reason, Message: msg,
		LastUpdateTime: metav1.NewTime(now), LastTransitionTime: metav1.NewTime(now),
	})
}

// setCondition replaces a condition if its status or reason changed; a changed message alone is no news.
func setCondition(st *appsv1.DeploymentStatus, c appsv1.DeploymentCondition) {
	if was := condition(st, c.Type); was != nil && was.Status == c.Status {
		if was.Reason == c.Reason {
			return
		}
		c.LastTransitionTime = was.LastTransitionTime
	}
	remove(st, c.Type)
	st.Conditions = append(st.Conditions, c)
}

func remove(st *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType) {
	kept := make([]appsv1.DeploymentCondition, 0, len(st.Conditions)+1)
	for _, c := range st.Conditions {
		if c.Type != t {
			kept = append(kept, c)
		}
	}
	st.Conditions = kept
}
