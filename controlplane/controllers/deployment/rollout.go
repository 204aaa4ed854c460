package deployment

import (
	"math"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/mote-edge/mote/controlplane/controllers/owned"
)

// step gives a ReplicaSet a new size, which may be its present one: then only the annotations are brought up to date.
type step struct {
	rs *appsv1.ReplicaSet
	to int32
}

// isScaling says whether the Deployment's size was changed since its ReplicaSets were last sized for it.
func isScaling(d *appsv1.Deployment, s sets) bool {
	for _, rs := range active(s.all()) {
		if n, ok := number(rs, desiredAnnotation); ok && n != wanted(d) {
			return true
		}
	}
	return false
}

// proportional answers a change of the Deployment's size, while it is paused or in the middle of a rollout: every
// ReplicaSet grows or shrinks by its share, so that a bad new template does not get all the new pods.
func proportional(d *appsv1.Deployment, s sets) []step {
	want := wanted(d)
	all := s.all()
	if len(all) == 0 {
		return nil
	}
	live := active(all)
	switch {
	case len(live) == 1:
		return []step{{live[0], want}}
	case len(live) == 0 && s.current != nil:
		return []step{{s.current, want}}
	case len(live) == 0:
		return []step{{s.old[len(s.old)-1], want}}
	case saturated(d, s.current):
		var steps []step
		for _, rs := range active(s.old) {
			steps = append(steps, step{rs, 0})
		}
		return steps
	case !isRolling(d):
		return nil
	}

	surge, _ := fenceposts(d)
	allowed := int32(0)
	if want > 0 {
		allowed = want + surge
	}
	toAdd := allowed - sum(live, size)
	slices.SortStableFunc(live, func(a, b *appsv1.ReplicaSet) int { // the largest first: it gets what rounding leaves
		if d := int(size(b)) - int(size(a)); d != 0 {
			return d
		}
		if toAdd > 0 {
			return compareAge(b, a)
		}
		return compareAge(a, b)
	})
	steps := make([]step, len(live))
	added := int32(0)
	for i, rs := range live {
		share := int32(0)
		if toAdd != added {
			share = shareOf(d, rs, want+surge)
			if toAdd > 0 {
				share = min(share, toAdd-added)
			} else {
				share = max(share, toAdd-added)
			}
		}
		steps[i] = step{rs, size(rs) + share}
		added += share
	}
	steps[0].to = max(0, steps[0].to+toAdd-added)
	return steps
}

// shareOf is the change of one ReplicaSet in proportion to its share of the pods before the Deployment was scaled.
func shareOf(d *appsv1.Deployment, rs *appsv1.ReplicaSet, maxNow int32) int32 {
	if wanted(d) == 0 {
		return -size(rs)
	}
	maxBefore, ok := number(rs, maxAnnotation)
	if !ok || maxBefore == 0 {
		maxBefore = d.Status.Replicas // the annotation was removed or spoilt: the nearest guess
	}
	if maxBefore == 0 {
		return 0
	}
	return int32(math.Round(float64(size(rs))*float64(maxNow)/float64(maxBefore))) - size(rs)
}

// saturated says whether a ReplicaSet runs, available, all the pods that the Deployment wants.
func saturated(d *appsv1.Deployment, rs *appsv1.ReplicaSet) bool {
	if rs == nil {
		return false
	}
	want := wanted(d)
	n, ok := number(rs, desiredAnnotation)
	return ok && n == want && size(rs) == want && rs.Status.AvailableReplicas == want
}

// newSize is the size the current ReplicaSet may have now, given what the others take of the surge.
func newSize(d *appsv1.Deployment, total, present int32) int32 {
	want := wanted(d)
	if !isRolling(d) {
		return want
	}
	surge, _ := fenceposts(d)
	room := want + surge - total
	if room <= 0 {
		return present
	}
	return present + min(room, want-present)
}

// roll is the next move of a rolling update: first the current ReplicaSet as far up as the surge allows, and if it
// can't move, the old ones as far down as availability allows.
func roll(d *appsv1.Deployment, s sets) []step {
	want, have := wanted(d), size(s.current)
	switch {
	case have > want:
		return []step{{s.current, want}}
	case have < want:
		if to := newSize(d, sum(s.all(), size), have); to != have {
			return []step{{s.current, to}}
		}
	}
	return rollDown(d, s)
}

// rollDown shrinks old ReplicaSets, oldest first. Unavailable pods go first, since losing them costs nothing, but pods
// of the current ReplicaSet that are not available yet are held against the budget: they may never be.
func rollDown(d *appsv1.Deployment, s sets) []step {
	old := active(s.old)
	_, maxUnavailable := fenceposts(d)
	minAvailable := wanted(d) - maxUnavailable
	budget := sum(s.all(), size) - minAvailable - (size(s.current) - s.current.Status.AvailableReplicas)
	if len(old) == 0 || budget <= 0 {
		return nil
	}
	to := make([]int32, len(old))
	for i, rs := range old {
		n := max(0, min(budget, size(rs)-rs.Status.AvailableReplicas))
		to[i] = size(rs) - n
		budget -= n
	}
	spare := sum(s.all(), func(rs *appsv1.ReplicaSet) int32 { return rs.Status.AvailableReplicas }) - minAvailable
	for i := range old {
		n := max(0, min(spare, to[i]))
		to[i] -= n
		spare -= n
	}
	var steps []step
	for i, rs := range old {
		if to[i] != size(rs) {
			steps = append(steps, step{rs, to[i]})
		}
	}
	return steps
}

// stopOld empties the old ReplicaSets before a Recreate.
func stopOld(s sets) []step {
	var steps []step
	for _, rs := range active(s.old) {
		steps = append(steps, step{rs, 0})
	}
	return steps
}

// oldRunning says whether pods of another template than the present one may still run. pods are those of old sets.
func oldRunning(s sets, pods []*corev1.Pod) bool {
	for _, rs := range s.old {
		if rs.Status.Replicas > 0 {
			return true
		}
	}
	for _, p := range pods {
		if !owned.Finished(p) {
			return true
		}
	}
	return false
}

// expired picks the old ReplicaSets beyond the history limit, lowest revision first. One that has pods, or may have,
// stays, and counts against the limit.
func expired(d *appsv1.Deployment, old []*appsv1.ReplicaSet) []*appsv1.ReplicaSet {
	limit := d.Spec.RevisionHistoryLimit
	if limit == nil || *limit == math.MaxInt32 {
		return nil
	}
	alive := slices.DeleteFunc(slices.Clone(old), func(rs *appsv1.ReplicaSet) bool { return rs.DeletionTimestamp != nil })
	excess := len(alive) - int(*limit)
	if excess <= 0 {
		return nil
	}
	slices.SortStableFunc(alive, func(a, b *appsv1.ReplicaSet) int {
		if d := revisionOf(a) - revisionOf(b); d != 0 {
			return int(d)
		}
		return compareAge(a, b)
	})
	return slices.DeleteFunc(alive[:excess], func(rs *appsv1.ReplicaSet) bool {
		return rs.Status.Replicas != 0 || size(rs) != 0 || rs.Generation > rs.Status.ObservedGeneration
	})
}
