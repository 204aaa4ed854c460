package statefulset

import (
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/mote-edge/mote/controlplane/controllers/owned"
)

// view is what a decision about a StatefulSet is made on.
type view struct {
	set             *appsv1.StatefulSet
	pods            []*corev1.Pod
	current, update string // names of the revisions being left and being rolled out
	now             time.Time
	// blocked says whether a pod can't be created yet, since a claim of an earlier one is still there.
	blocked func(pod string) bool
}

// plan is what to do, in this order.
type plan struct {
	create []int         // numbers of pods
	claims []*corev1.Pod // pending pods whose claims may be missing
	check  []*corev1.Pod // pods whose label and claims' owners must be right
	remove []*corev1.Pod
	// currentGoes is how many of remove are on the revision being left, for the status.
	currentGoes int32
}

// ordered says whether pods are created and deleted one by one.
func ordered(s *appsv1.StatefulSet) bool {
	return s.Spec.PodManagementPolicy != appsv1.ParallelPodManagement
}

func (v view) available(p *corev1.Pod) bool {
	if p == nil || p.DeletionTimestamp != nil {
		return false
	}
	ok, _ := owned.Available(p, v.set.Spec.MinReadySeconds, v.now)
	return ok
}

func (v view) healthy(p *corev1.Pod) bool {
	return v.available(p) && p.Status.Phase == corev1.PodRunning
}

// sortOut puts the pods into their places, and finds the surplus ones, highest number first.
func (v view) sortOut() (places, surplus []*corev1.Pod) {
	places = make([]*corev1.Pod, replicas(v.set))
	for _, p := range v.pods {
		switch n := ordinalOf(v.set.Name, p.Name); {
		case n < 0:
		case wanted(v.set, n):
			places[n-start(v.set)] = p
		default:
			surplus = append(surplus, p)
		}
	}
	slices.SortFunc(surplus, func(a, b *corev1.Pod) int {
		return ordinalOf(v.set.Name, b.Name) - ordinalOf(v.set.Name, a.Name)
	})
	return places, surplus
}

// decide plans the next step. In an ordered set nothing happens to a pod before all those with lower numbers are
// healthy, and scaling comes before updating.
func decide(v view) plan {
	var p plan
	places, surplus := v.sortOut()
	if !p.fill(v, places) {
		return p
	}
	p.check = append(p.check, surplus...)
	if !p.shrink(v, places, surplus) {
		return p
	}
	if v.set.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType {
		return p
	}
	p.roll(v, places)
	return p
}

// fill creates missing pods and replaces finished ones. It returns whether the rest may go on.
func (p *plan) fill(v view, places []*corev1.Pod) bool {
	for i, pod := range places {
		stop := false
		switch {
		case pod == nil:
			n := start(v.set) + i
			if !v.blocked(podName(v.set.Name, n)) {
				p.create = append(p.create, n)
			}
			stop = true
		case owned.Finished(pod):
			if pod.DeletionTimestamp == nil {
				p.remove = append(p.remove, pod)
			}
			stop = true
		default:
			if pod.Status.Phase == corev1.PodPending {
				p.claims = append(p.claims, pod)
			}
			stop = !v.healthy(pod)
			if !stop || !ordered(v.set) {
				p.check = append(p.check, pod)
			}
		}
		if stop && ordered(v.set) {
			return false
		}
	}
	return true
}

// shrink deletes surplus pods.
func (p *plan) shrink(v view, places, surplus []*corev1.Pod) bool {
	if !ordered(v.set) {
		for _, pod := range surplus {
			if pod.DeletionTimestamp == nil {
				p.remove = append(p.remove, pod)
			}
		}
		return true
	}
	if len(surplus) == 0 {
		return true
	}
	// A sick pod may block the deletion of others, but not its own if it is the first sick one.
	first := v.firstSick(places, surplus)
	pod := surplus[0]
	if pod.DeletionTimestamp == nil && (v.healthy(pod) || pod == first) {
		p.remove = append(p.remove, pod)
	}
	return false
}

func (v view) firstSick(places, surplus []*corev1.Pod) *corev1.Pod {
	for _, pod := range places {
		if !v.available(pod) {
			return pod
		}
	}
	for _, pod := range slices.Backward(surplus) {
		if !v.available(pod) {
			return pod
		}
	}
	return nil
}

// roll deletes pods of other revisions, highest number first, so that fill makes them anew, no more than may be
// unavailable. Those below the partition stay.
func (p *plan) roll(v view, places []*corev1.Pod) {
	partition, budget := rolling(v.set)
	down, sick := 0, 0
	for _, pod := range places {
		if v.available(pod) {
			continue
		}
		down++
		if !ordered(v.set) && pod != nil && pod.DeletionTimestamp == nil && revisionOf(pod) != v.update {
			sick++
		}
	}
	if down >= budget && sick == 0 {
		return
	}
	drop := func(pod *corev1.Pod) {
		p.remove = append(p.remove, pod)
		if revisionOf(pod) == v.current {
			p.currentGoes++
		}
	}
	left := budget - down
	for i := len(places) - 1; i >= partition; i-- {
		pod := places[i]
		if pod == nil || pod.DeletionTimestamp != nil || revisionOf(pod) == v.update || slices.Contains(p.remove, pod) {
			continue
		}
		switch {
		case !ordered(v.set) && !v.available(pod): // costs nothing
			drop(pod)
		case left > 0:
			drop(pod)
			left--
		}
	}
}

// rolling returns the partition and how many pods may be unavailable.
func rolling(s *appsv1.StatefulSet) (partition, unavailable int) {
	unavailable = 1
	r := s.Spec.UpdateStrategy.RollingUpdate
	if r == nil {
		return 0, unavailable
	}
	if r.Partition != nil {
		partition = int(*r.Partition)
	}
	if r.MaxUnavailable != nil {
		n, err := intstr.GetScaledValueFromIntOrPercent(r.MaxUnavailable, replicas(s), false)
		if err == nil {
			unavailable = max(1, n)
		}
	}
	return partition, unavailable
}

// onCurrent says whether a new pod of a number is made from the revision being left: those below the partition are.
func onCurrent(s *appsv1.StatefulSet, ordinal int) bool {
	if s.Spec.UpdateStrategy.Type != appsv1.RollingUpdateStatefulSetStrategyType {
		return false
	}
	r := s.Spec.UpdateStrategy.RollingUpdate
	if r == nil {
		return ordinal < start(s)+int(s.Status.CurrentReplicas)
	}
	return r.Partition != nil && ordinal < start(s)+int(*r.Partition)
}

// status counts pods. recheck is the time until a ready pod becomes available, 0 if none will.
func status(v view, goes int32) (st appsv1.StatefulSetStatus, recheck time.Duration) {
	st = *v.set.Status.DeepCopy()
	st.ObservedGeneration = v.set.Generation
	st.CurrentRevision, st.UpdateRevision = v.current, v.update
	st.Replicas, st.ReadyReplicas, st.AvailableReplicas, st.CurrentReplicas, st.UpdatedReplicas = 0, 0, 0, 0, 0
	if st.CollisionCount == nil {
		st.CollisionCount = new(int32)
	}
	for _, p := range v.pods {
		if ordinalOf(v.set.Name, p.Name) < 0 {
			continue
		}
		st.Replicas++
		if p.Status.Phase == corev1.PodRunning && owned.Ready(p) {
			st.ReadyReplicas++
			if ok, wait := owned.Available(p, v.set.Spec.MinReadySeconds, v.now); ok {
				st.AvailableReplicas++
			} else if wait > 0 && (recheck == 0 || wait < recheck) {
				recheck = wait
			}
		}
		if p.DeletionTimestamp != nil {
			continue
		}
		if revisionOf(p) == v.current {
			st.CurrentReplicas++
		}
		if revisionOf(p) == v.update {
			st.UpdatedReplicas++
		}
	}
	st.CurrentReplicas -= goes
	if n := int32(replicas(v.set)); st.UpdatedReplicas == n && st.ReadyReplicas == n && st.Replicas == n {
		st.CurrentReplicas, st.CurrentRevision = n, v.update
	}
	return st, recheck
}
