package validation

import (
	"fmt"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/util/webhook"
)

// aWebhook is what both kinds of webhook have in common.
type aWebhook struct {
	name        string
	client      *admissionregistrationv1.WebhookClientConfig
	sideEffects *admissionregistrationv1.SideEffectClass
	versions    []string
	timeout     *int32
	failure     *admissionregistrationv1.FailurePolicyType
	match       admissionregistrationv1.MatchResources
	conditions  []admissionregistrationv1.MatchCondition
	reinvoke    *admissionregistrationv1.ReinvocationPolicyType // of mutating webhooks alone
}

func plainRules(rs []admissionregistrationv1.RuleWithOperations) (out []admissionregistrationv1.NamedRuleWithOperations) {
	for _, r := range rs {
		out = append(out, admissionregistrationv1.NamedRuleWithOperations{RuleWithOperations: r})
	}
	return out
}

func validatingWebhooks(c *admissionregistrationv1.ValidatingWebhookConfiguration) field.ErrorList {
	var all []aWebhook
	for i := range c.Webhooks {
		w := &c.Webhooks[i]
		all = append(all, aWebhook{
			w.Name, &w.ClientConfig, w.SideEffects, w.AdmissionReviewVersions, w.TimeoutSeconds, w.FailurePolicy,
			admissionregistrationv1.MatchResources{MatchPolicy: w.MatchPolicy, NamespaceSelector: w.NamespaceSelector, ObjectSelector: w.ObjectSelector, ResourceRules: plainRules(w.Rules)},
			w.MatchConditions, nil,
		})
	}
	return webhooks(all)
}

func mutatingWebhooks(c *admissionregistrationv1.MutatingWebhookConfiguration) field.ErrorList {
	var all []aWebhook
	for i := range c.Webhooks {
		w := &c.Webhooks[i]
		all = append(all, aWebhook{
			w.Name, &w.ClientConfig, w.SideEffects, w.AdmissionReviewVersions, w.TimeoutSeconds, w.FailurePolicy,
			admissionregistrationv1.MatchResources{MatchPolicy: w.MatchPolicy, NamespaceSelector: w.NamespaceSelector, ObjectSelector: w.ObjectSelector, ResourceRules: plainRules(w.Rules)},
			w.MatchConditions, w.ReinvocationPolicy,
		})
	}
	return webhooks(all)
}

func webhooks(all []aWebhook) field.ErrorList {
	l := &list{}
	names := unique[string]{}
	for i, w := range all {
		p := field.NewPath("webhooks").Index(i)
		l.addAll(validation.IsFullyQualifiedName(p.Child("name"), w.name))
		names.check(l, p.Child("name"), w.name, w.name)
		if w.sideEffects == nil {
			l.required(p.Child("sideEffects"), fmt.Sprintf("must specify one of %v", []string{"None", "NoneOnDryRun"}))
		} else {
			oneOf(l, p.Child("sideEffects"), *w.sideEffects, admissionregistrationv1.SideEffectClassNone, admissionregistrationv1.SideEffectClassNoneOnDryRun)
		}
		reviewVersions(l, w.versions, p.Child("admissionReviewVersions"))
		if t := w.timeout; t != nil && (*t < 1 || *t > 30) {
			l.add(field.Invalid(p.Child("timeoutSeconds"), *t, "the timeout value must be between 1 and 30 seconds"))
		}
		if w.reinvoke != nil {
			oneOf(l, p.Child("reinvocationPolicy"), *w.reinvoke, admissionregistrationv1.IfNeededReinvocationPolicy, admissionregistrationv1.NeverReinvocationPolicy)
		}
		webhookClient(l, w.client, p.Child("clientConfig"))
		admissionFailurePolicy(l, w.failure, p)
		matchResources(l, &w.match, "rules", p)
		matchConditions(l, w.conditions, false, p.Child("matchConditions"))
	}
	return l.ErrorList
}

func webhookClient(l *list, c *admissionregistrationv1.WebhookClientConfig, p *field.Path) {
	switch {
	case (c.URL == nil) == (c.Service == nil):
		l.required(p, "exactly one of url or service is required")
	case c.URL != nil:
		l.addAll(webhook.ValidateWebhookURL(p.Child("url"), *c.URL, true))
	default:
		port := int32(443)
		if c.Service.Port != nil {
			port = *c.Service.Port
		}
		l.addAll(webhook.ValidateWebhookService(p.Child("service"), c.Service.Name, c.Service.Namespace, c.Service.Path, port))
	}
}

// reviewVersions are those that a webhook understands; the server speaks v1 and v1beta1.
func reviewVersions(l *list, versions []string, p *field.Path) {
	ours := []string{"v1", "v1beta1"}
	if len(versions) == 0 {
		l.required(p, fmt.Sprintf("must specify one of %s", strings.Join(ours, ", ")))
		return
	}
	seen, known := map[string]bool{}, false
	for i, v := range versions {
		if seen[v] {
			l.add(field.Invalid(p.Index(i), v, "duplicate version"))
			continue
		}
		seen[v] = true
		l.messages(p.Index(i), v, validation.IsDNS1035Label(v))
		known = known || slices.Contains(ours, v)
	}
	if !known {
		l.add(field.Invalid(p, versions, fmt.Sprintf("must include at least one of %s", strings.Join(ours, ", "))))
	}
}

func admissionFailurePolicy(l *list, f *admissionregistrationv1.FailurePolicyType, p *field.Path) {
	if f != nil {
		oneOf(l, p.Child("failurePolicy"), *f, admissionregistrationv1.Fail, admissionregistrationv1.Ignore)
	}
}

// matchResources checks what a webhook or policy is about. Webhooks call the rules "rules".
func matchResources(l *list, m *admissionregistrationv1.MatchResources, rules string, p *field.Path) {
	if m.MatchPolicy != nil {
		oneOf(l, p.Child("matchPolicy"), *m.MatchPolicy, admissionregistrationv1.Equivalent, admissionregistrationv1.Exact)
	}
	if m.NamespaceSelector != nil {
		selector(l, m.NamespaceSelector, p.Child("namespaceSelector"))
	}
	if m.ObjectSelector != nil {
		selector(l, m.ObjectSelector, p.Child("objectSelector"))
	}
	for i := range m.ResourceRules {
		operations(l, &m.ResourceRules[i], p.Child(rules).Index(i))
	}
	for i := range m.ExcludeResourceRules {
		operations(l, &m.ExcludeResourceRules[i], p.Child("excludeResourceRules").Index(i))
	}
}

func operations(l *list, r *admissionregistrationv1.NamedRuleWithOperations, p *field.Path) {
	if len(r.Operations) == 0 {
		l.required(p.Child("operations"), "")
	} else if len(r.Operations) > 1 && slices.Contains(r.Operations, admissionregistrationv1.OperationAll) {
		l.add(field.Invalid(p.Child("operations"), r.Operations, "if '*' is present, must not specify other operations"))
	}
	for i, op := range r.Operations {
		oneOf(l, p.Child("operations").Index(i), op, admissionregistrationv1.OperationAll, admissionregistrationv1.Connect, admissionregistrationv1.Create, admissionregistrationv1.Delete, admissionregistrationv1.Update)
	}
	wild := func(name string, v []string, what string) {
		if len(v) == 0 {
			l.required(p.Child(name), "")
		} else if len(v) > 1 && slices.Contains(v, "*") {
			l.add(field.Invalid(p.Child(name), v, fmt.Sprintf("if '*' is present, must not specify other %s", what)))
		}
	}
	wild("apiGroups", r.APIGroups, "API groups")
	wild("apiVersions", r.APIVersions, "API versions")
	for i, v := range r.APIVersions {
		if v == "" {
			l.required(p.Child("apiVersions").Index(i), "")
		}
	}
	ruleResources(l, r.Resources, p.Child("resources"))
	if r.Scope != nil {
		oneOf(l, p.Child("scope"), *r.Scope, admissionregistrationv1.AllScopes, admissionregistrationv1.ClusterScope, admissionregistrationv1.NamespacedScope)
	}
}

// ruleResources may be "*/*", "resource/*", "*/subresource", "*", "resource" and "resource/subresource"; what a wildcard
// covers must not be named again.
func ruleResources(l *list, resources []string, p *field.Path) {
	if len(resources) == 0 {
		l.required(p, "")
	}
	// A wildcard that stands before what it covers makes that superfluous.
	everything, whole, sub := false, map[string]bool{}, map[string]bool{}
	for i, v := range resources {
		res, rest, cut := strings.Cut(v, "/")
		ip := p.Index(i)
		switch {
		case v == "":
			l.required(ip, "")
		case v == "*/*":
			everything = true
		case cut && whole[res]:
			l.add(field.Invalid(ip, v, fmt.Sprintf("if '%s/*' is present, must not specify %s", res, v)))
		case cut && sub[rest]:
			l.add(field.Invalid(ip, v, fmt.Sprintf("if '*/%s' is present, must not specify %s", rest, v)))
		case cut && rest == "*":
			whole[res] = true
		case cut && res == "*":
			sub[rest] = true
		}
	}
	plain := 0
	for _, v := range resources {
		if !strings.Contains(v, "/") {
			plain++
		}
	}
	if len(resources) > 1 && everything {
		l.add(field.Invalid(p, resources, "if '*/*' is present, must not specify other resources"))
	}
	if plain > 1 && slices.Contains(resources, "*") {
		l.add(field.Invalid(p, resources, "if '*' is present, must not specify other resources without subresources"))
	}
}

func matchConditions(l *list, all []admissionregistrationv1.MatchCondition, params bool, p *field.Path) {
	if len(all) > 64 {
		l.add(field.TooMany(p, len(all), 64))
	}
	seen := unique[string]{}
	for i, c := range all {
		ip := p.Index(i)
		if c.Name == "" {
			l.required(ip.Child("name"), "")
		} else {
			l.qualifiedName(ip.Child("name"), c.Name)
			seen.check(l, ip.Child("name"), c.Name, c.Name)
		}
		newExpressions(params).check(l, condition{c.Expression, boolean}, "", ip.Child("expression"))
	}
}
