package job

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/mote-edge/mote/controlplane/controllers/owned"
)

// burst bounds the pods created or deleted in one go.
const burst = 500

// plan is what to do about a Job that goes on.
type plan struct {
	remove  []*corev1.Pod
	create  int
	indexes []int         // of the pods to create, if the Job is indexed
	wait    time.Duration // until more pods may be created
}

// manage decides which pods to create or delete.
func manage(v view, o outlook) plan {
	j := v.job
	have := len(o.active)
	if suspended(j) {
		return plan{remove: o.active}
	}
	want := parallelism(j)
	if j.Spec.Completions == nil {
		if o.succeeded > 0 { // a work queue: after the first success no more pods are started
			want = have
		}
	} else {
		want = max(0, min(completions(j)-int(o.succeeded), want))
	}
	if remove := surplus(v, o.active, max(0, have-want)); len(remove) > 0 {
		return plan{remove: remove[:min(len(remove), burst)]}
	}
	missing := want - have
	if replacesFailedOnly(j) {
		missing -= int(o.terminating)
	}
	if missing <= 0 {
		return plan{}
	}
	if !perIndex(j) {
		if wait := o.failures.wait(v.now); wait > 0 {
			return plan{wait: wait}
		}
	}
	missing = min(missing, burst)
	if !indexed(j) {
		return plan{create: missing}
	}
	return createIndexes(v, o, missing)
}

// createIndexes picks the lowest indexes that have neither succeeded nor failed and have no pod.
func createIndexes(v view, o outlook, n int) plan {
	taken := o.done.merge(o.failedIdx).merge(indexesOf(o.active))
	if replacesFailedOnly(v.job) {
		var dying []*corev1.Pod
		for _, p := range v.pods {
			if owned.Terminating(p) {
				dying = append(dying, p)
			}
		}
		taken = taken.merge(indexesOf(dying))
	}
	var p plan
	for _, i := range taken.missing(n, completions(v.job)) {
		wait := time.Duration(0)
		if last := o.replaceable[i]; last != nil {
			wait = failures{count: int(attempts(last)) + 1, last: finishedAt(last)}.wait(v.now)
		}
		switch {
		case wait == 0:
			p.indexes = append(p.indexes, i)
		case p.wait == 0 || wait < p.wait:
			p.wait = wait
		}
	}
	p.create = len(p.indexes)
	return p
}

// surplus are pods to delete: of an indexed Job all those that double an index, or have one beyond the end, and then
// as many more as asked for, those whose loss hurts least.
func surplus(v view, active []*corev1.Pod, atLeast int) []*corev1.Pod {
	left := active
	var remove []*corev1.Pod
	if indexed(v.job) {
		left = nil
		byIndex := map[int][]*corev1.Pod{}
		for _, p := range active {
			if i := indexOf(p); inRange(v.job, i) {
				byIndex[i] = append(byIndex[i], p)
			} else {
				remove = append(remove, p)
			}
		}
		for _, same := range byIndex {
			drop := owned.Victims(same, nil, len(same)-1, v.now)
			remove = append(remove, drop...)
			for _, p := range same {
				if !slices.Contains(drop, p) {
					left = append(left, p)
				}
			}
		}
	}
	if n := atLeast - len(remove); n > 0 {
		remove = append(remove, owned.Victims(left, nil, n, v.now)...)
	}
	return remove
}
