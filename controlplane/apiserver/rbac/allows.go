package rbac

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// Allows tells whether a rule lets a request through.
func Allows(rule *rbacv1.PolicyRule, a authorizer.Attributes) bool {
	if !has(rule.Verbs, rbacv1.VerbAll, a.GetVerb()) {
		return false
	}
	if !a.IsResourceRequest() {
		return allowsPath(rule.NonResourceURLs, a.GetPath())
	}
	return has(rule.APIGroups, rbacv1.APIGroupAll, a.GetAPIGroup()) &&
		allowsResource(rule.Resources, a.GetResource(), a.GetSubresource()) &&
		(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, a.GetName()))
}

func has(list []string, all, v string) bool {
	return slices.Contains(list, all) || slices.Contains(list, v)
}

// allowsResource knows "*", "pods", "pods/log" and "*/scale".
func allowsResource(list []string, resource, subresource string) bool {
	for _, r := range list {
		if r == rbacv1.ResourceAll {
			return true
		}
		name, sub, _ := strings.Cut(r, "/")
		if sub == subresource && (name == resource || name == "*" && sub != "") {
			return true
		}
	}
	return false
}

// allowsPath knows "/metrics", "*" and "/healthz/*".
func allowsPath(list []string, path string) bool {
	for _, p := range list {
		if p == rbacv1.NonResourceAll || p == path {
			return true
		}
		if prefix, ok := strings.CutSuffix(p, "*"); ok && strings.HasPrefix(path, prefix) {
			return true
		}
	}
	return false
}
