package clusterrole

import (
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestAggregate(t *testing.T) {
	rule := func(resource string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{resource}, Verbs: []string{"get"}}
	}
	role := func(name, label string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
		return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{label: "true"}}, Rules: rules}
	}
	view := role("view", "none")
	view.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{
		{MatchLabels: map[string]string{"to-view": "true"}}, {MatchLabels: map[string]string{"to-all": "true"}},
	}}
	all := []*rbacv1.ClusterRole{
		role("z", "to-view", rule("pods"), rule("secrets")), view, role("a", "to-view", rule("nodes"), rule("pods")),
		role("b", "to-edit", rule("leases")), role("c", "to-all", rule("events")),
	}
	got, err := aggregate(view, all)
	if err != nil {
		t.Fatal(err)
	}
	var names string
	for _, r := range got {
		names += r.Resources[0] + " "
	}
	if names != "nodes pods secrets events " {
		t.Errorf("rules for %q", names)
	}
	view.AggregationRule.ClusterRoleSelectors[0].MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "x", Operator: "Nonsense"}}
	if _, err := aggregate(view, all); err == nil {
		t.Error("a selector that can't be parsed is an error")
	}
}
