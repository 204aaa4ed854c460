package validation

import (
	"fmt"
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// flowVerbs are the verbs that a rule may name besides "*".
var flowVerbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"}

// Bounds of a priority level's queues: with more, shuffle sharding overflows.
const maxQueues = 10 * 1000 * 1000

func flowSchema(f *flowcontrolv1.FlowSchema) field.ErrorList {
	l := &list{}
	switch {
	case f.Spec.MatchingPrecedence < 1 || f.Spec.MatchingPrecedence > flowcontrolv1.FlowSchemaMaxMatchingPrecedence:
		l.add(field.Invalid(specPath.Child("matchingPrecedence"), f.Spec.MatchingPrecedence, "must be between 1 and 10000"))
	case f.Spec.MatchingPrecedence == 1 && f.Name != flowcontrolv1.FlowSchemaNameExempt:
		l.add(field.Invalid(specPath.Child("matchingPrecedence"), f.Spec.MatchingPrecedence, "only the schema named 'exempt' may have matchingPrecedence 1"))
	}
	if name := f.Spec.PriorityLevelConfiguration.Name; name == "" {
		l.required(specPath.Child("priorityLevelConfiguration").Child("name"), "must reference a priority level")
	} else {
		l.dnsSubdomain(specPath.Child("priorityLevelConfiguration").Child("name"), name)
	}
	if m := f.Spec.DistinguisherMethod; m != nil {
		oneOf(l, specPath.Child("distinguisherMethod", "type"), m.Type, flowcontrolv1.FlowDistinguisherMethodByNamespaceType, flowcontrolv1.FlowDistinguisherMethodByUserType)
	}
	for i, r := range f.Spec.Rules {
		flowRule(l, r, specPath.Child("rules").Index(i))
	}
	return l.ErrorList
}

func flowRule(l *list, r flowcontrolv1.PolicyRulesWithSubjects, p *field.Path) {
	if len(r.Subjects) == 0 {
		l.required(p.Child("subjects"), "subjects must contain at least one value")
	}
	for i, s := range r.Subjects {
		flowSubject(l, s, p.Child("subjects").Index(i))
	}
	if len(r.ResourceRules) == 0 && len(r.NonResourceRules) == 0 {
		l.required(p, "at least one of resourceRules and nonResourceRules has to be non-empty")
	}
	for i, rr := range r.ResourceRules {
		rp := p.Child("resourceRules").Index(i)
		verbs(l, rr.Verbs, rp.Child("verbs"))
		atLeastOne(l, rr.APIGroups, rp.Child("apiGroups"), "resource rules must supply at least one api group")
		atLeastOne(l, rr.Resources, rp.Child("resources"), "resource rules must supply at least one resource")
		if len(rr.Namespaces) == 0 && !rr.ClusterScope {
			l.required(rp.Child("namespaces"), "resource rules that are not cluster scoped must supply at least one namespace")
		}
		if slices.Contains(rr.Namespaces, "*") {
			if len(rr.Namespaces) > 1 {
				l.add(field.Invalid(rp.Child("namespaces"), rr.Namespaces, "may not specify more than one namespace when '*' is specified"))
			}
			continue
		}
		for k, ns := range rr.Namespaces {
			for _, m := range validation.IsDNS1123Label(ns) {
				l.add(field.Invalid(rp.Child("namespaces").Index(k), ns, "each member of this list must be '*' or a DNS-1123 label; "+m))
			}
		}
	}
	for i, nr := range r.NonResourceRules {
		np := p.Child("nonResourceRules").Index(i)
		verbs(l, nr.Verbs, np.Child("verbs"))
		atLeastOne(l, nr.NonResourceURLs, np.Child("nonResourceURLs"), "nonResourceURLs must contain at least one value")
		for k, u := range nr.NonResourceURLs {
			nonResourceURL(l, u, np.Child("nonResourceURLs").Index(k))
		}
	}
}

func nonResourceURL(l *list, u string, p *field.Path) {
	switch {
	case u == "*":
	case u == "":
		l.add(field.Invalid(p, u, "must not be empty"))
	case !strings.HasPrefix(u, "/"):
		l.add(field.Invalid(p, u, "must start with slash"))
	case strings.Contains(u, " "):
		l.add(field.Invalid(p, u, "must not contain white-space"))
	case strings.Contains(u, "//"):
		l.add(field.Invalid(p, u, "must not contain double slash"))
	case strings.ContainsRune(strings.TrimSuffix(u, "/*"), '*'):
		l.add(field.Invalid(p, u, "wildcard can only do suffix matching"))
	}
}

func atLeastOne(l *list, v []string, p *field.Path, why string) {
	if len(v) == 0 {
		l.required(p, why)
	} else if len(v) > 1 && slices.Contains(v, "*") {
		l.add(field.Invalid(p, v, "if '*' is present, must not specify other values"))
	}
}

func verbs(l *list, v []string, p *field.Path) {
	if len(v) == 0 {
		l.required(p, "verbs must contain at least one value")
		return
	}
	if slices.Contains(v, "*") {
		if len(v) > 1 {
			l.add(field.Invalid(p, v, "if '*' is present, must not specify other verbs"))
		}
		return
	}
	for _, x := range v {
		if !slices.Contains(flowVerbs, x) {
			l.add(field.NotSupported(p, v, flowVerbs))
			return
		}
	}
}

func flowSubject(l *list, s flowcontrolv1.Subject, p *field.Path) {
	only := func(kind flowcontrolv1.SubjectKind, name string, set bool) bool {
		switch {
		case s.Kind == kind && !set:
			l.required(p.Child(name), fmt.Sprintf("%s is required when subject kind is '%s'", name, kind))
		case s.Kind != kind && set:
			l.add(field.Forbidden(p.Child(name), fmt.Sprintf("%s is forbidden when subject kind is not '%s'", name, kind)))
		}
		return s.Kind == kind && set
	}
	switch s.Kind {
	case flowcontrolv1.SubjectKindServiceAccount, flowcontrolv1.SubjectKindUser, flowcontrolv1.SubjectKindGroup:
	default:
		oneOf(l, p.Child("kind"), s.Kind, flowcontrolv1.SubjectKindGroup, flowcontrolv1.SubjectKindServiceAccount, flowcontrolv1.SubjectKindUser)
		return
	}
	if only(flowcontrolv1.SubjectKindServiceAccount, "serviceAccount", s.ServiceAccount != nil) {
		switch name := s.ServiceAccount.Name; name {
		case "":
			l.required(p.Child("serviceAccount", "name"), "")
		case "*":
		default:
			l.dnsSubdomain(p.Child("serviceAccount", "name"), name)
		}
		if ns := s.ServiceAccount.Namespace; ns == "" {
			l.required(p.Child("serviceAccount", "namespace"), "must specify namespace for service account")
		} else {
			l.dnsLabel(p.Child("serviceAccount", "namespace"), ns)
		}
	}
	if only(flowcontrolv1.SubjectKindUser, "user", s.User != nil) && s.User.Name == "" {
		l.required(p.Child("user", "name"), "")
	}
	if only(flowcontrolv1.SubjectKindGroup, "group", s.Group != nil) && s.Group.Name == "" {
		l.required(p.Child("group", "name"), "")
	}
}

func priorityLevel(c *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	l := &list{}
	switch c.Spec.Type {
	case flowcontrolv1.PriorityLevelEnablementExempt:
		if c.Spec.Limited != nil {
			l.add(field.Forbidden(specPath.Child("limited"), "must be nil if the type is Exempt"))
		}
	case flowcontrolv1.PriorityLevelEnablementLimited:
		if c.Spec.Limited == nil {
			l.required(specPath.Child("limited"), "must not be empty when type is Limited")
		} else {
			limited(l, c.Spec.Limited, specPath.Child("limited"))
		}
	default:
		oneOf(l, specPath.Child("type"), c.Spec.Type, flowcontrolv1.PriorityLevelEnablementExempt, flowcontrolv1.PriorityLevelEnablementLimited)
	}
	return l.ErrorList
}

func limited(l *list, c *flowcontrolv1.LimitedPriorityLevelConfiguration, p *field.Path) {
	if n := c.NominalConcurrencyShares; n != nil && *n < 0 {
		l.add(field.Invalid(p.Child("nominalConcurrencyShares"), *n, "must be a non-negative integer"))
	}
	if n := c.LendablePercent; n != nil && (*n < 0 || *n > 100) {
		l.add(field.Invalid(p.Child("lendablePercent"), *n, "must be between 0 and 100, inclusive"))
	}
	if n := c.BorrowingLimitPercent; n != nil && *n < 0 {
		l.add(field.Invalid(p.Child("borrowingLimitPercent"), *n, "if specified, must be a non-negative integer"))
	}
	rp := p.Child("limitResponse")
	switch c.LimitResponse.Type {
	case flowcontrolv1.LimitResponseTypeReject:
		if c.LimitResponse.Queuing != nil {
			l.add(field.Forbidden(rp.Child("queuing"), "must be nil if limited.limitResponse.type is not Limited"))
		}
	case flowcontrolv1.LimitResponseTypeQueue:
		if c.LimitResponse.Queuing == nil {
			l.required(rp.Child("queuing"), "")
		} else {
			queuing(l, c.LimitResponse.Queuing, rp.Child("queuing"))
		}
	default:
		oneOf(l, rp.Child("type"), c.LimitResponse.Type, flowcontrolv1.LimitResponseTypeQueue, flowcontrolv1.LimitResponseTypeReject)
	}
}

func queuing(l *list, q *flowcontrolv1.QueuingConfiguration, p *field.Path) {
	if q.QueueLengthLimit <= 0 {
		l.add(field.Invalid(p.Child("queueLengthLimit"), q.QueueLengthLimit, "must be positive"))
	}
	switch {
	case q.Queues <= 0:
		l.add(field.Invalid(p.Child("queues"), q.Queues, "must be positive"))
	case q.Queues > maxQueues:
		l.add(field.Invalid(p.Child("queues"), q.Queues, fmt.Sprintf("must not be greater than %d", maxQueues)))
	}
	switch {
	case q.HandSize <= 0:
		l.add(field.Invalid(p.Child("handSize"), q.HandSize, "must be positive"))
	case q.HandSize > q.Queues:
		l.add(field.Invalid(p.Child("handSize"), q.HandSize, fmt.Sprintf("should not be greater than queues (%d)", q.Queues)))
	}
}
