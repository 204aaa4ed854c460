package daemonset

import (
	"cmp"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/mote-edge/mote/controlplane/controllers/owned"
)

// view is what a decision about a DaemonSet is made on.
type view struct {
	ds    *appsv1.DaemonSet
	hash  string // of the present template
	nodes map[string]place
	pods  map[string][]*corev1.Pod // by node, oldest first, without those that are finished and being deleted
	now   time.Time
}

// place is what the placer says of a node.
type place struct{ run, stay bool }

// plan is what to do.
type plan struct {
	create []string // names of nodes
	remove []*corev1.Pod
	failed []*corev1.Pod // those of remove that had failed: their nodes back off
	ended  []*corev1.Pod // those of remove that had succeeded
	wait   time.Duration // until a failed pod may be replaced, 0 if none waits
}

func (p plan) empty() bool { return len(p.create) == 0 && len(p.remove) == 0 }

// look sorts pods and nodes into a view.
func look(ds *appsv1.DaemonSet, hash string, nodes []*corev1.Node, pods []*corev1.Pod, now time.Time) view {
	v := view{ds: ds, hash: hash, nodes: map[string]place{}, pods: map[string][]*corev1.Pod{}, now: now}
	p := newPlacer(ds)
	for _, n := range nodes {
		run, stay := p.on(n)
		v.nodes[n.Name] = place{run, stay}
	}
	for _, pod := range pods {
		if owned.Finished(pod) && pod.DeletionTimestamp != nil {
			continue // only waits for a finalizer or the kubelet
		}
		if n := nodeOf(pod); n != "" {
			v.pods[n] = append(v.pods[n], pod)
		}
	}
	for _, list := range v.pods {
		slices.SortFunc(list, func(a, b *corev1.Pod) int {
			if d := compareBool(b.Spec.NodeName != "", a.Spec.NodeName != ""); d != 0 {
				return d // those bound to their node first
			}
			return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
		})
	}
	return v
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	default:
		return 1
	}
}

// manage puts a pod on every node that should have one and takes away what shouldn't be there. backoff says how long
// a failed pod on a node must stay before it may be replaced.
func manage(v view, backoff func(node string) time.Duration) plan {
	var p plan
	surging := false
	if s, _ := budget(v.ds, 1); isRolling(v.ds) {
		surging = s > 0
	}
	for _, name := range slices.Sorted(maps.Keys(v.nodes)) {
		at, pods := v.nodes[name], v.pods[name]
		switch {
		case at.run && len(pods) == 0:
			p.create = append(p.create, name)
		case at.stay:
			running := p.dropFinished(name, pods, backoff)
			if !surging {
				if len(running) > 1 {
					p.remove = append(p.remove, running[1:]...)
				}
				continue
			}
			if len(running) == 0 && at.run {
				p.create = append(p.create, name)
			}
			p.remove = append(p.remove, excess(v, running)...)
		default:
			for _, pod := range pods {
				if pod.DeletionTimestamp == nil {
					p.remove = append(p.remove, pod)
				}
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(v.pods)) {
		if _, ok := v.nodes[name]; ok {
			continue
		}
		for _, pod := range v.pods[name] { // the node is gone: pods bound to it are the pod collector's, the rest ours
			if pod.Spec.NodeName == "" && pod.DeletionTimestamp == nil {
				p.remove = append(p.remove, pod)
			}
		}
	}
	return p
}

// dropFinished removes failed and succeeded pods, to be replaced, and returns those that run.
func (p *plan) dropFinished(node string, pods []*corev1.Pod, backoff func(string) time.Duration) (running []*corev1.Pod) {
	for _, pod := range pods {
		switch {
		case pod.DeletionTimestamp != nil:
		case pod.Status.Phase == corev1.PodFailed:
			// A kubelet that refuses the pod would refuse the next one as well.
			if wait := backoff(node); wait > 0 {
				if p.wait == 0 || wait < p.wait {
					p.wait = wait
				}
				continue
			}
			p.remove, p.failed = append(p.remove, pod), append(p.failed, pod)
		case pod.Status.Phase == corev1.PodSucceeded:
			p.remove, p.ended = append(p.remove, pod), append(p.ended, pod)
		default:
			running = append(running, pod)
		}
	}
	return running
}

// excess are the pods too many on a node while surging: there may be one of the present template and one older, until
// the new one is available or the old one isn't ready any more.
func excess(v view, running []*corev1.Pod) (drop []*corev1.Pod) {
	var fresh, old *corev1.Pod
	for _, pod := range running {
		slot := &old
		if pod.Labels[hashLabel] == v.hash {
			slot = &fresh
		}
		if *slot == nil {
			*slot = pod
		} else {
			drop = append(drop, pod)
		}
	}
	if fresh != nil && old != nil && (!owned.Ready(old) || v.available(fresh)) {
		drop = append(drop, old)
	}
	return drop
}

func (v view) available(p *corev1.Pod) bool {
	ok, _ := owned.Available(p, v.ds.Spec.MinReadySeconds, v.now)
	return ok
}

// roll moves a rolling update on, when manage finds nothing to do.
func roll(v view) plan {
	wanted := 0
	names := map[string]bool{}
	for name := range v.pods {
		names[name] = true
	}
	for name, at := range v.nodes {
		if at.run {
			wanted++
			names[name] = true
		}
	}
	surge, unavailable := budget(v.ds, wanted)
	order := slices.Sorted(maps.Keys(names))
	if surge == 0 {
		return replace(v, order, unavailable)
	}
	return overlap(v, order, surge, wanted)
}

// replace deletes old pods, those not available at once, the others while the budget lasts; manage makes the new ones.
func replace(v view, order []string, budget int) plan {
	var p plan
	var candidates []*corev1.Pod
	down := 0
	for _, name := range order {
		fresh, old, ok := v.pair(name)
		switch {
		case !ok, fresh == nil && old == nil, fresh != nil && old != nil:
			down++ // manage is at it
		case fresh != nil:
			if !v.available(fresh) {
				down++
			}
		case !v.available(old):
			p.remove = append(p.remove, old)
			down++
		default:
			candidates = append(candidates, old)
		}
	}
	n := min(max(budget-down, 0), len(candidates))
	p.remove = append(p.remove, candidates[:n]...)
	return p
}

// overlap starts new pods beside available old ones, so many at a time, and deletes an old one when its successor is
// available. Nodes that should not have a pod any more lose theirs when enough others are available.
func overlap(v view, order []string, surge, wanted int) plan {
	var p plan
	var candidates []string
	var leaving []*corev1.Pod
	surging, up := 0, 0
	for _, name := range order {
		fresh, old, ok := v.pair(name)
		if !ok {
			surging++
			continue
		}
		if serves := cmpOr(old, fresh); serves != nil && v.available(serves) {
			up++
		}
		switch {
		case old == nil:
		case fresh != nil && v.available(fresh):
			p.remove = append(p.remove, old)
		case fresh != nil:
			surging++
		case !v.nodes[name].run && v.available(old):
			leaving = append(leaving, old)
		case !v.nodes[name].run:
			p.remove = append(p.remove, old)
		case !v.available(old):
			p.create = append(p.create, name)
		default:
			candidates = append(candidates, name)
		}
	}
	p.remove = append(p.remove, leaving[:min(max(up-wanted, 0), len(leaving))]...)
	p.create = append(p.create, candidates[:min(max(surge-surging, 0), len(candidates))]...)
	return p
}

func cmpOr(a, b *corev1.Pod) *corev1.Pod {
	if a != nil {
		return a
	}
	return b
}

// pair returns a node's pods of the present and of an older template; not ok if there are several of one sort.
func (v view) pair(node string) (fresh, old *corev1.Pod, ok bool) {
	for _, pod := range v.pods[node] {
		if pod.DeletionTimestamp != nil {
			continue
		}
		slot := &old
		if pod.Labels[hashLabel] == v.hash {
			slot = &fresh
		}
		if *slot != nil {
			return nil, nil, false
		}
		*slot = pod
	}
	return fresh, old, true
}

// status counts. recheck is the time until a ready pod becomes available, 0 if none will.
func status(v view) (st appsv1.DaemonSetStatus, recheck time.Duration) {
	st = *v.ds.Status.DeepCopy()
	st.DesiredNumberScheduled, st.CurrentNumberScheduled, st.NumberMisscheduled = 0, 0, 0
	st.NumberReady, st.NumberAvailable, st.UpdatedNumberScheduled = 0, 0, 0
	for name, at := range v.nodes {
		pods := v.pods[name]
		if !at.run {
			if len(pods) > 0 {
				st.NumberMisscheduled++
			}
			continue
		}
		st.DesiredNumberScheduled++
		if len(pods) == 0 {
			continue
		}
		st.CurrentNumberScheduled++
		if owned.Ready(pods[0]) {
			st.NumberReady++
		}
		if ok, wait := owned.Available(pods[0], v.ds.Spec.MinReadySeconds, v.now); ok {
			st.NumberAvailable++
		} else if wait > 0 && (recheck == 0 || wait < recheck) {
			recheck = wait
		}
		if pods[0].Labels[hashLabel] == v.hash {
			st.UpdatedNumberScheduled++
		}
	}
	st.NumberUnavailable = st.DesiredNumberScheduled - st.NumberAvailable
	return st, recheck
}
