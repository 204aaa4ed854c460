package podworker

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/mote-edge/mote/agent/cgroup"
)

// A critical pod that doesn't fit makes room for itself: a node without its DNS or its network is of no use to the pods
// that it has.

// systemCritical is the priority from which a pod is critical.
const systemCritical = 2_000_000_000

const preempted = "Preempted in order to admit critical pod"

// isCritical tells whether the node makes room for a pod: those of the node's own manifests, and those of the system.
func isCritical(pod *corev1.Pod) bool {
	source := pod.Annotations["kubernetes.io/config.source"]
	static := source != "" && source != "api" || pod.Annotations[corev1.MirrorPodAnnotationKey] != ""
	return static || pod.Spec.Priority != nil && *pod.Spec.Priority >= systemCritical
}

// mayPreempt tells whether a critical pod takes another one's place.
func mayPreempt(pod, other *corev1.Pod) bool {
	if !isCritical(other) {
		return true
	}
	return pod.Spec.Priority != nil && other.Spec.Priority != nil && *pod.Spec.Priority > *other.Spec.Priority
}

// amounts are units by resource; pods count as one.
type amounts map[corev1.ResourceName]int64

func amountsOf(pod *corev1.Pod) amounts {
	out := amounts{corev1.ResourcePods: 1}
	for name, q := range resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{}) {
		out[name] = amount(name, q)
	}
	return out
}

// without is what is still missing when some pods are gone.
func (a amounts) without(pods ...*corev1.Pod) amounts {
	out := amounts{}
	for name, n := range a {
		for _, p := range pods {
			n -= amountsOf(p)[name]
		}
		if n > 0 {
			out[name] = n
		}
	}
	return out
}

// distance is how far a pod's end is from what is missing: the sum of the squares of what would still be.
func (a amounts) distance(pod *corev1.Pod) float64 {
	has, d := amountsOf(pod), 0.0
	for name, n := range a {
		if left := float64(n-has[name]) / float64(n); left > 0 {
			d += left * left
		}
	}
	return d
}

// missing is what a pod needs beyond what is left beside the others.
func missing(pod *corev1.Pod, others []*corev1.Pod, allocatable corev1.ResourceList, maxPods int) amounts {
	out := amountsOf(pod)
	for name := range out {
		have := int64(maxPods)
		if name != corev1.ResourcePods {
			q, ok := allocatable[name]
			if have = amount(name, q); !ok {
				delete(out, name)
				continue
			}
		} else if maxPods == 0 {
			delete(out, name)
			continue
		}
		for _, o := range others {
			have -= amountsOf(o)[name]
		}
		out[name] -= have
	}
	return out.without()
}

// victims are the pods whose end lets a critical pod in: as few as possible of the guaranteed ones, then of the burstable
// ones, then of the others. None if no end of pods does. It is pure.
func victims(pod *corev1.Pod, others []*corev1.Pod, allocatable corev1.ResourceList, maxPods int) []*corev1.Pod {
	if !isCritical(pod) {
		return nil
	}
	short := missing(pod, others, allocatable, maxPods)
	classes := map[corev1.PodQOSClass][]*corev1.Pod{}
	var all []*corev1.Pod
	for _, o := range others {
		if mayPreempt(pod, o) {
			classes[cgroup.QOSClass(o)] = append(classes[cgroup.QOSClass(o)], o)
			all = append(all, o)
		}
	}
	if len(short) == 0 || len(short.without(all...)) > 0 {
		return nil
	}
	best, burst := classes[corev1.PodQOSBestEffort], classes[corev1.PodQOSBurstable]
	guaranteed := nearest(classes[corev1.PodQOSGuaranteed], short.without(slices.Concat(best, burst)...))
	burstable := nearest(burst, short.without(slices.Concat(best, guaranteed)...))
	rest := nearest(best, short.without(slices.Concat(burstable, guaranteed)...))
	return slices.Concat(rest, burstable, guaranteed)
}

// nearest takes, one by one, the pod that is nearest to what is missing; the smaller one of two.
func nearest(pods []*corev1.Pod, short amounts) []*corev1.Pod {
	pods = slices.Clone(pods)
	var out []*corev1.Pod
	for len(short) > 0 && len(pods) > 0 {
		next := slices.MinFunc(pods, func(a, b *corev1.Pod) int {
			x, y := amountsOf(a), amountsOf(b)
			return cmp.Or(cmp.Compare(short.distance(a), short.distance(b)), cmp.Compare(x[corev1.ResourceMemory], y[corev1.ResourceMemory]), cmp.Compare(x[corev1.ResourceCPU], y[corev1.ResourceCPU]))
		})
		out, short = append(out, next), short.without(next)
		pods = slices.DeleteFunc(pods, func(p *corev1.Pod) bool { return p == next })
	}
	return out
}

// makeRoom ends what a critical pod that was refused takes the place of, and returns the pods that stay. The manager's lock
// is held.
func (m *Manager) makeRoom(pod *corev1.Pod, others []*corev1.Pod, refused *Verdict) []*corev1.Pod {
	if !strings.HasPrefix(refused.Reason, "OutOf") {
		return others
	}
	gone := victims(pod, others, m.node.Allocatable(), m.cfg.MaxPods)
	for _, v := range gone {
		w := m.workers[v.UID]
		m.event(v, "", corev1.EventTypeWarning, "Preempting", preempted)
		w.mu.Lock()
		w.condemn(Verdict{Reason: "Preempting", Message: preempted, Disruption: true})
		w.kickLocked()
		w.mu.Unlock()
		m.preemptions[strings.TrimPrefix(refused.Reason, "OutOf")]++
	}
	return slices.DeleteFunc(others, func(o *corev1.Pod) bool { return slices.Contains(gone, o) })
}

// Preemptions counts the pods that made room for critical ones, by what was short.
func (m *Manager) Preemptions() map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.preemptions)
}

// Rejections counts the pods that the node didn't take, by reason.
func (m *Manager) Rejections() map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.rejections)
}
