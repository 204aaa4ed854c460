package fit

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Victims are the pods to delete so that a more important one fits a node.
type Victims struct {
	Node       string
	Pods       []*Pod // most important first
	violations int    // of disruption budgets
}

// Preempt looks for the node where deleting less important pods costs least. It returns nil if no deletion helps, and
// the reasons by node for the event. Refusals are those of Filter, one a node of the snapshot.
func Preempt(pod *Pod, s *Snapshot, refusals []Refusal, budgets []*policyv1.PodDisruptionBudget) (*Victims, []Refusal) {
	var candidates []*Victims
	why := make([]Refusal, len(s.Nodes))
	for i, n := range s.Nodes {
		switch {
		case refusals[i].Final:
			why[i] = refuseFinally(refusals[i].By, "Preemption is not helpful for scheduling")
		default:
			v, r := victims(pod, s, i, budgets)
			if v != nil {
				v.Node = n.Name
				candidates = append(candidates, v)
			}
			why[i] = r
		}
	}
	if len(candidates) == 0 {
		return nil, why
	}
	return slices.MinFunc(candidates, cheaper), nil
}

// victims removes every less important pod from a copy of the node, and puts back as many as fit: first those whose
// removal would violate a disruption budget, the more important ones before the others.
func victims(pod *Pod, s *Snapshot, i int, budgets []*policyv1.PodDisruptionBudget) (*Victims, Refusal) {
	n := s.Nodes[i].Clone()
	var lower []*Pod
	for _, p := range slices.Clone(n.Pods) {
		if p.Priority < pod.Priority {
			lower = append(lower, p)
			n.Remove(p.UID)
		}
	}
	if len(lower) == 0 {
		return nil, refuse(NodeResources, "No preemption victims found for incoming pod")
	}
	changed := s.With(i, n)
	fits := func() Refusal {
		c, r := NewCycle(pod, changed)
		if r.Refused() {
			return r
		}
		return c.Filter(n)
	}
	if r := fits(); r.Refused() {
		return nil, r
	}
	slices.SortFunc(lower, moreImportant)
	violating, others := splitByBudget(lower, budgets)
	v := &Victims{}
	putBack := func(p *Pod) bool {
		n.Add(p)
		if !fits().Refused() {
			return true
		}
		n.Remove(p.UID)
		v.Pods = append(v.Pods, p)
		return false
	}
	for _, p := range violating {
		if !putBack(p) {
			v.violations++
		}
	}
	for _, p := range others {
		putBack(p)
	}
	slices.SortFunc(v.Pods, moreImportant)
	return v, Refusal{}
}

// moreImportant sorts by priority, then by age: the older pod has done more work.
func moreImportant(a, b *Pod) int {
	return cmp.Or(cmp.Compare(b.Priority, a.Priority), startTime(a).Compare(startTime(b)))
}

func startTime(p *Pod) time.Time {
	if p.Status.StartTime != nil {
		return p.Status.StartTime.Time
	}
	return p.CreationTimestamp.Time
}

// cheaper orders candidates: fewest violated budgets, then the least important most important victim, the smallest
// sum of priorities, the fewest victims, and the youngest of the most important victims.
func cheaper(a, b *Victims) int {
	if len(a.Pods) == 0 || len(b.Pods) == 0 {
		return cmp.Compare(len(a.Pods), len(b.Pods))
	}
	sum := func(v *Victims) (n int64) {
		for _, p := range v.Pods {
			n += int64(p.Priority) + 1<<31 // so that more victims always sum to more
		}
		return n
	}
	oldest := func(v *Victims) time.Time {
		t := startTime(v.Pods[0])
		for _, p := range v.Pods {
			if s := startTime(p); p.Priority == v.Pods[0].Priority && s.Before(t) {
				t = s
			}
		}
		return t
	}
	return cmp.Or(
		cmp.Compare(a.violations, b.violations),
		cmp.Compare(a.Pods[0].Priority, b.Pods[0].Priority),
		cmp.Compare(sum(a), sum(b)),
		cmp.Compare(len(a.Pods), len(b.Pods)),
		oldest(b).Compare(oldest(a)),
	)
}

// splitByBudget separates the pods whose deletion, after those before them, leaves a budget below zero.
func splitByBudget(pods []*Pod, budgets []*policyv1.PodDisruptionBudget) (violating, others []*Pod) {
	allowed := make([]int32, len(budgets))
	selectors := make([]labels.Selector, len(budgets))
	for i, b := range budgets {
		allowed[i] = b.Status.DisruptionsAllowed
		var err error
		if selectors[i], err = metav1.LabelSelectorAsSelector(b.Spec.Selector); err != nil {
			selectors[i] = labels.Nothing()
		}
	}
	for _, p := range pods {
		bad := false
		for i, b := range budgets {
			if b.Namespace != p.Namespace || selectors[i].Empty() || !selectors[i].Matches(labels.Set(p.Labels)) {
				continue
			}
			if _, counted := b.Status.DisruptedPods[p.Name]; counted {
				continue
			}
			allowed[i]--
			bad = bad || allowed[i] < 0
		}
		if bad {
			violating = append(violating, p)
		} else {
			others = append(others, p)
		}
	}
	return violating, others
}

// MayPreempt says whether the pod may make others leave, and if not, why.
func MayPreempt(pod *Pod, nominated *Node) (bool, string) {
	if pod.Spec.PreemptionPolicy != nil && *pod.Spec.PreemptionPolicy == corev1.PreemptNever {
		return false, "not eligible due to preemptionPolicy=Never."
	}
	if nominated != nil {
		for _, p := range nominated.Pods {
			if p.DeletionTimestamp != nil && p.Priority < pod.Priority {
				return false, "not eligible due to a terminating pod on the nominated node."
			}
		}
	}
	return true, ""
}
