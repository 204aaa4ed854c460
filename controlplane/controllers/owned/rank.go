package owned

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Victims picks the n pods whose loss hurts least: unassigned before assigned, pending before running, not ready
// before ready, a lower controller.kubernetes.io/pod-deletion-cost first, then pods that share their node with many
// others of the same purpose (related), those ready for a short time, those that restarted most, and the youngest.
// Ages are compared by order of magnitude, so that among pods of about the same age the choice is spread.
func Victims(pods, related []*corev1.Pod, n int, now time.Time) []*corev1.Pod {
	if n >= len(pods) {
		return pods
	}
	if n <= 0 {
		return nil
	}
	onNode := map[string]int{}
	for _, p := range related {
		if Active(p) {
			onNode[p.Spec.NodeName]++
		}
	}
	sorted := slices.Clone(pods)
	slices.SortStableFunc(sorted, func(a, b *corev1.Pod) int { return compareLoss(a, b, onNode, now) })
	return sorted[:n]
}

// compareLoss is negative when losing a hurts less than losing b.
func compareLoss(a, b *corev1.Pod, onNode map[string]int, now time.Time) int {
	if d := compareBool(a.Spec.NodeName != "", b.Spec.NodeName != ""); d != 0 {
		return d
	}
	if d := cmp.Compare(phaseRank(a), phaseRank(b)); d != 0 {
		return d
	}
	readyA, readyB := Ready(a), Ready(b)
	if d := compareBool(readyA, readyB); d != 0 {
		return d
	}
	if d := cmp.Compare(deletionCost(a), deletionCost(b)); d != 0 {
		return d
	}
	if d := cmp.Compare(onNode[b.Spec.NodeName], onNode[a.Spec.NodeName]); d != 0 {
		return d
	}
	if readyA && readyB {
		if d := compareAge(readySince(a), readySince(b), now); d != 0 {
			return d
		}
	}
	mainA, sideA := restarts(a)
	mainB, sideB := restarts(b)
	if d := cmp.Compare(mainB, mainA); d != 0 {
		return d
	}
	if d := cmp.Compare(sideB, sideA); d != 0 {
		return d
	}
	if d := compareAge(a.CreationTimestamp.Time, b.CreationTimestamp.Time, now); d != 0 {
		return d
	}
	return cmp.Compare(a.UID, b.UID)
}

// compareAge is negative when a is younger by an order of magnitude (base 2). A missing time counts as the youngest.
func compareAge(a, b, now time.Time) int {
	if a.IsZero() || b.IsZero() {
		return compareBool(!a.IsZero(), !b.IsZero())
	}
	return cmp.Compare(magnitude(now.Sub(a)), magnitude(now.Sub(b)))
}

func magnitude(d time.Duration) int {
	if d <= 0 {
		return -1
	}
	return int(math.Log2(float64(d)))
}

func phaseRank(p *corev1.Pod) int {
	switch p.Status.Phase {
	case corev1.PodRunning:
		return 2
	case corev1.PodUnknown:
		return 1
	default:
		return 0
	}
}

func deletionCost(p *corev1.Pod) int32 {
	// The API server refuses an annotation that is no 32-bit integer, so a bad one counts as none.
	n, err := strconv.ParseInt(p.Annotations[corev1.PodDeletionCost], 10, 32)
	if err != nil {
		return 0
	}
	return int32(n)
}

// restarts are the highest counts among the ordinary containers and among the sidecars.
func restarts(p *corev1.Pod) (main, sidecar int32) {
	for i := range p.Status.ContainerStatuses {
		main = max(main, p.Status.ContainerStatuses[i].RestartCount)
	}
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways {
			continue
		}
		for j := range p.Status.InitContainerStatuses {
			if p.Status.InitContainerStatuses[j].Name == c.Name {
				sidecar = max(sidecar, p.Status.InitContainerStatuses[j].RestartCount)
			}
		}
	}
	return main, sidecar
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
