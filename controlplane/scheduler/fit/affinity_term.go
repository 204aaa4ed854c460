package fit

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// term is one inter-pod affinity or anti-affinity term, parsed.
type term struct {
	selector    labels.Selector
	namespaces  []string
	nsSelector  labels.Selector // nil: only the named namespaces
	topologyKey string
}

type weightedTerm struct {
	term
	weight int64
}

type nsLabelsFunc = func(namespace string) labels.Set

// selects says whether a pod is one of those the term speaks of.
func (t *term) selects(p *corev1.Pod, nsLabels nsLabelsFunc) bool {
	if !slices.Contains(t.namespaces, p.Namespace) {
		if t.nsSelector == nil {
			return false
		}
		if !t.nsSelector.Empty() && (nsLabels == nil || !t.nsSelector.Matches(nsLabels(p.Namespace))) {
			return false
		}
	}
	return t.selector.Matches(labels.Set(p.Labels))
}

func newTerm(p *corev1.Pod, t *corev1.PodAffinityTerm) (term, error) {
	selector, err := selectorWithKeys(t.LabelSelector, p.Labels, t.MatchLabelKeys, t.MismatchLabelKeys)
	if err != nil {
		return term{}, err
	}
	out := term{selector: selector, namespaces: t.Namespaces, topologyKey: t.TopologyKey}
	if t.NamespaceSelector != nil {
		if out.nsSelector, err = metav1.LabelSelectorAsSelector(t.NamespaceSelector); err != nil {
			return term{}, err
		}
	} else if len(t.Namespaces) == 0 {
		out.namespaces = []string{p.Namespace}
	}
	return out, nil
}

// selectorWithKeys adds matchLabelKeys and mismatchLabelKeys, whose values are those of the pod's own labels. The API
// server merges them into the selector of new pods; adding a requirement twice changes nothing.
func selectorWithKeys(s *metav1.LabelSelector, own map[string]string, match, mismatch []string) (labels.Selector, error) {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return nil, fmt.Errorf("label selector: %w", err)
	}
	add := func(keys []string, op selection.Operator) error {
		for _, key := range keys {
			v, ok := own[key]
			if !ok {
				continue
			}
			r, err := labels.NewRequirement(key, op, []string{v})
			if err != nil {
				return err
			}
			selector = selector.Add(*r)
		}
		return nil
	}
	if err := add(match, selection.In); err != nil {
		return nil, err
	}
	return selector, add(mismatch, selection.NotIn)
}

func (p *Pod) parseAffinity() {
	a := p.Spec.Affinity
	if a == nil {
		return
	}
	if a.PodAffinity != nil {
		p.affinity = p.terms(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
		p.prefer = p.weightedTerms(a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if a.PodAntiAffinity != nil {
		p.antiAffinity = p.terms(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
		p.avoid = p.weightedTerms(a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
}

func (p *Pod) terms(in []corev1.PodAffinityTerm) []term {
	var out []term
	for i := range in {
		t, err := newTerm(p.Pod, &in[i])
		if err != nil {
			p.badAffinity = err
			continue
		}
		out = append(out, t)
	}
	return out
}

func (p *Pod) weightedTerms(in []corev1.WeightedPodAffinityTerm) []weightedTerm {
	var out []weightedTerm
	for i := range in {
		t, err := newTerm(p.Pod, &in[i].PodAffinityTerm)
		if err != nil {
			p.badAffinity = err
			continue
		}
		out = append(out, weightedTerm{term: t, weight: int64(in[i].Weight)})
	}
	return out
}
