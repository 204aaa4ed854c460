package validation

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Where a pod may and should run.

func selector(l *list, s *metav1.LabelSelector, p *field.Path) {
	l.addAll(metav1validation.ValidateLabelSelector(s, metav1validation.LabelSelectorValidationOptions{}, p))
}

func affinity(l *list, a *corev1.Affinity, p *field.Path) {
	if a == nil {
		return
	}
	if n := a.NodeAffinity; n != nil {
		np := p.Child("nodeAffinity")
		if r := n.RequiredDuringSchedulingIgnoredDuringExecution; r != nil {
			nodeSelector(l, r, np.Child("requiredDuringSchedulingIgnoredDuringExecution"))
		}
		for i, t := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			ip := np.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i)
			weight(l, t.Weight, ip.Child("weight"))
			nodeSelectorTerm(l, &t.Preference, false, ip.Child("preference"))
		}
	}
	terms := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm, p *field.Path) {
		for i := range required {
			podAffinityTerm(l, &required[i], p.Child("requiredDuringSchedulingIgnoredDuringExecution").Index(i))
		}
		for i := range preferred {
			ip := p.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i)
			weight(l, preferred[i].Weight, ip.Child("weight"))
			podAffinityTerm(l, &preferred[i].PodAffinityTerm, ip.Child("podAffinityTerm"))
		}
	}
	if a.PodAffinity != nil {
		terms(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution, p.Child("podAffinity"))
	}
	if a.PodAntiAffinity != nil {
		terms(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution, p.Child("podAntiAffinity"))
	}
}

func weight(l *list, w int32, p *field.Path) {
	if w < 1 || w > 100 {
		l.add(field.Invalid(p, w, "must be in the range 1-100"))
	}
}

// labelKeys checks the keys whose values a pod adds to a selector of its own.
func labelKeys(l *list, keys []string, s *metav1.LabelSelector, p *field.Path) {
	if len(keys) > 0 && s == nil {
		l.add(field.Forbidden(p, "must not be specified when labelSelector is not set"))
		return
	}
	for i, k := range keys {
		l.addAll(metav1validation.ValidateLabelName(k, p.Index(i)))
	}
}

func podAffinityTerm(l *list, t *corev1.PodAffinityTerm, p *field.Path) {
	labelKeys(l, t.MatchLabelKeys, t.LabelSelector, p.Child("matchLabelKeys"))
	labelKeys(l, t.MismatchLabelKeys, t.LabelSelector, p.Child("mismatchLabelKeys"))
	selector(l, t.LabelSelector, p.Child("labelSelector"))
	selector(l, t.NamespaceSelector, p.Child("namespaceSelector"))
	for _, ns := range t.Namespaces {
		l.dnsLabel(p.Child("namespace"), ns)
	}
	if t.TopologyKey == "" {
		l.required(p.Child("topologyKey"), "can not be empty")
	}
	l.qualifiedName(p.Child("topologyKey"), t.TopologyKey)
}

func nodeSelector(l *list, s *corev1.NodeSelector, p *field.Path) {
	if len(s.NodeSelectorTerms) == 0 {
		l.required(p.Child("nodeSelectorTerms"), "must have at least one node selector term")
	}
	for i := range s.NodeSelectorTerms {
		nodeSelectorTerm(l, &s.NodeSelectorTerms[i], true, p.Child("nodeSelectorTerms").Index(i))
	}
}

// nodeSelectorTerm checks a term. In what is only preferred, upstream lets values pass that no label can have.
func nodeSelectorTerm(l *list, t *corev1.NodeSelectorTerm, strict bool, p *field.Path) {
	for i, r := range t.MatchExpressions {
		ip := p.Child("matchExpressions").Index(i)
		nodeRequirement(l, r, ip)
		l.qualifiedName(ip.Child("key"), r.Key)
		for j, v := range r.Values {
			if !strict {
				break
			}
			l.messages(ip.Child("values").Index(j), v, validation.IsValidLabelValue(v))
		}
	}
	for i, r := range t.MatchFields {
		ip := p.Child("matchFields").Index(i)
		if r.Key != metav1.ObjectNameField {
			l.add(field.Invalid(ip.Child("key"), r.Key, "not a valid field selector key"))
		}
		if r.Operator != corev1.NodeSelectorOpIn && r.Operator != corev1.NodeSelectorOpNotIn {
			l.add(field.Invalid(ip.Child("operator"), r.Operator, "not a valid selector operator"))
		}
		if in := r.Operator == corev1.NodeSelectorOpIn || r.Operator == corev1.NodeSelectorOpNotIn; in && len(r.Values) != 1 {
			l.required(ip.Child("values"), "must be only one value when `operator` is 'In' or 'NotIn' for node field selector")
		}
		for j, v := range r.Values {
			l.dnsSubdomain(ip.Child("values").Index(j), v)
		}
	}
}

func nodeRequirement(l *list, r corev1.NodeSelectorRequirement, p *field.Path) {
	switch r.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		if len(r.Values) == 0 {
			l.required(p.Child("values"), "must be specified when `operator` is 'In' or 'NotIn'")
		}
	case corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist:
		if len(r.Values) > 0 {
			l.add(field.Forbidden(p.Child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"))
		}
	case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
		if len(r.Values) != 1 {
			l.required(p.Child("values"), "must be specified single value when `operator` is 'Lt' or 'Gt'")
		}
	default:
		l.add(field.Invalid(p.Child("operator"), r.Operator, "not a valid selector operator"))
	}
}

func tolerations(l *list, ts []corev1.Toleration, p *field.Path) {
	for i, t := range ts {
		ip := p.Index(i)
		if t.Key != "" {
			l.qualifiedName(ip.Child("key"), t.Key)
		}
		if t.Key == "" && t.Operator != corev1.TolerationOpExists {
			l.add(field.Invalid(ip.Child("operator"), t.Operator, "operator must be Exists when `key` is empty, which means \"match all values and all keys\""))
		}
		if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
			l.add(field.Invalid(ip.Child("effect"), t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set"))
		}
		switch t.Operator {
		case corev1.TolerationOpEqual, "":
			l.messages(ip.Child("operator"), t.Value, validation.IsValidLabelValue(t.Value))
		case corev1.TolerationOpExists:
			if t.Value != "" {
				l.add(field.Invalid(ip.Child("operator"), t, "value must be empty when `operator` is 'Exists'"))
			}
		default:
			oneOf(l, ip.Child("operator"), t.Operator, corev1.TolerationOpEqual, corev1.TolerationOpExists)
		}
		if t.Effect != "" {
			taintEffect(l, t.Effect, ip.Child("effect"))
		}
	}
}

func taintEffect(l *list, e corev1.TaintEffect, p *field.Path) {
	oneOf(l, p, e, corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)
}

func topologySpread(l *list, cs []corev1.TopologySpreadConstraint, p *field.Path) {
	seen, first := unique[string]{}, map[string]int{}
	for i := range cs {
		c, ip := &cs[i], p.Index(i)
		if c.MaxSkew <= 0 {
			l.add(field.Invalid(ip.Child("maxSkew"), c.MaxSkew, "must be greater than zero"))
		}
		if c.TopologyKey == "" {
			l.required(ip.Child("topologyKey"), "can not be empty")
		}
		oneOf(l, ip.Child("whenUnsatisfiable"), c.WhenUnsatisfiable, corev1.DoNotSchedule, corev1.ScheduleAnyway)
		if what := "{" + c.TopologyKey + ", " + string(c.WhenUnsatisfiable) + "}"; seen[what] {
			l.add(field.Duplicate(p.Index(first[what]).Child("{topologyKey, whenUnsatisfiable}"), what))
		} else {
			seen[what], first[what] = true, i
		}
		if c.MinDomains != nil {
			if *c.MinDomains <= 0 {
				l.add(field.Invalid(ip.Child("minDomains"), *c.MinDomains, "must be greater than zero"))
			}
			if c.WhenUnsatisfiable != corev1.DoNotSchedule {
				l.add(field.Invalid(ip.Child("minDomains"), *c.MinDomains, "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not "+string(c.WhenUnsatisfiable)))
			}
		}
		for name, v := range map[string]*corev1.NodeInclusionPolicy{"nodeAffinityPolicy": c.NodeAffinityPolicy, "nodeTaintsPolicy": c.NodeTaintsPolicy} {
			if v != nil {
				oneOf(l, ip.Child(name), *v, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)
			}
		}
		selector(l, c.LabelSelector, ip.Child("labelSelector"))
		labelKeys(l, c.MatchLabelKeys, c.LabelSelector, ip.Child("matchLabelKeys"))
	}
}

func taints(l *list, ts []corev1.Taint, p *field.Path) {
	seen := map[corev1.TaintEffect]sets.Set[string]{}
	for i, t := range ts {
		ip := p.Index(i)
		l.qualifiedName(ip.Child("key"), t.Key)
		l.messages(ip.Child("value"), t.Value, validation.IsValidLabelValue(t.Value))
		taintEffect(l, t.Effect, ip.Child("effect"))
		if seen[t.Effect].Has(t.Key) {
			e := field.Duplicate(ip, t)
			e.Detail = "taints must be unique by key and effect pair"
			l.add(e)
		}
		if seen[t.Effect] == nil {
			seen[t.Effect] = sets.New[string]()
		}
		seen[t.Effect].Insert(t.Key)
	}
}
