package replicaset

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/mote-edge/mote/controlplane/controllers/owned"
)

// burst bounds the pods created or deleted for one set before its status is written and it is looked at again.
const burst = 500

// plan is what one look at a set decides to do.
type plan struct {
	create int
	remove []*corev1.Pod
}

// decide compares the wanted number of replicas with the active pods. related are the pods, of this set and of its
// siblings under the same owner, that should be spread over the nodes.
func decide(want int32, active, related []*corev1.Pod, now time.Time) plan {
	switch diff := len(active) - int(want); {
	case diff < 0:
		return plan{create: min(-diff, burst)}
	case diff > 0:
		return plan{remove: owned.Victims(active, related, min(diff, burst), now)}
	default:
		return plan{}
	}
}

// nextStatus computes a set's status from its pods. failure is what went wrong while creating or deleting. recheck is
// the time after which a ready pod becomes available, 0 if none will.
func nextStatus(s *set, active, terminating []*corev1.Pod, failure error, now time.Time) (st appsv1.ReplicaSetStatus, recheck time.Duration) {
	s.status.DeepCopyInto(&st)
	st.ObservedGeneration = s.obj.GetGeneration()
	st.Replicas = int32(len(active))
	st.FullyLabeledReplicas, st.ReadyReplicas, st.AvailableReplicas = 0, 0, 0
	if s.countTerminating {
		n := int32(len(terminating))
		st.TerminatingReplicas = &n
	}
	full := labels.SelectorFromValidatedSet(s.template.Labels)
	for _, p := range active {
		if full.Matches(labels.Set(p.Labels)) {
			st.FullyLabeledReplicas++
		}
		if !owned.Ready(p) {
			continue
		}
		st.ReadyReplicas++
		ok, wait := owned.Available(p, s.minReady, now)
		switch {
		case ok:
			st.AvailableReplicas++
		case wait > 0 && (recheck == 0 || wait < recheck):
			recheck = wait
		}
	}
	st.Conditions = nextConditions(st.Conditions, int(s.replicas)-len(active), failure, now)
	return st, recheck
}

// nextConditions adds, keeps or removes the ReplicaFailure condition. One that is there already keeps its first
// message, as upstream does: the events tell the later ones.
func nextConditions(conds []appsv1.ReplicaSetCondition, missing int, failure error, now time.Time) []appsv1.ReplicaSetCondition {
	at := -1
	for i := range conds {
		if conds[i].Type == appsv1.ReplicaSetReplicaFailure {
			at = i
		}
	}
	switch {
	case failure != nil && at < 0:
		reason := ""
		switch {
		case missing > 0:
			reason = owned.ReasonCreateFailed
		case missing < 0:
			reason = owned.ReasonDeleteFailed
		}
		return append(conds, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue,
			LastTransitionTime: metav1.NewTime(now), Reason: reason, Message: failure.Error(),
		})
	case failure == nil && at >= 0:
		conds = append(conds[:at:at], conds[at+1:]...)
		if len(conds) == 0 {
			return nil
		}
	}
	return conds
}
