// Package rbac decides by roles and role bindings, and tells which rules a user has.
//
// Reads:  Roles, ClusterRoles, RoleBindings and ClusterRoleBindings, from informers.
// Writes: nothing.
package rbac

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	listers "k8s.io/client-go/listers/rbac/v1"
)

// Objects is where roles and bindings come from.
type Objects interface {
	Role(namespace, name string) (*rbacv1.Role, error)
	ClusterRole(name string) (*rbacv1.ClusterRole, error)
	RoleBindings(namespace string) ([]*rbacv1.RoleBinding, error)
	ClusterRoleBindings() ([]*rbacv1.ClusterRoleBinding, error)
}

// Resolver answers from Objects. It is an authorizer.Authorizer and an authorizer.RuleResolver.
type Resolver struct{ objects Objects }

var (
	_ authorizer.Authorizer   = (*Resolver)(nil)
	_ authorizer.RuleResolver = (*Resolver)(nil)
)

// New returns a resolver.
func New(o Objects) *Resolver { return &Resolver{objects: o} }

// FromInformers returns the objects that shared informers hold. It makes the factory start them.
func FromInformers(f informers.SharedInformerFactory) Objects {
	v := f.Rbac().V1()
	return &cached{v.Roles().Lister(), v.ClusterRoles().Lister(), v.RoleBindings().Lister(), v.ClusterRoleBindings().Lister()}
}

type cached struct {
	roles               listers.RoleLister
	clusterRoles        listers.ClusterRoleLister
	bindings            listers.RoleBindingLister
	clusterRoleBindings listers.ClusterRoleBindingLister
}

func (c *cached) Role(namespace, name string) (*rbacv1.Role, error) {
	return c.roles.Roles(namespace).Get(name)
}

func (c *cached) ClusterRole(name string) (*rbacv1.ClusterRole, error) {
	return c.clusterRoles.Get(name)
}

func (c *cached) RoleBindings(namespace string) ([]*rbacv1.RoleBinding, error) {
	return c.bindings.RoleBindings(namespace).List(labels.Everything())
}

func (c *cached) ClusterRoleBindings() ([]*rbacv1.ClusterRoleBinding, error) {
	return c.clusterRoleBindings.List(labels.Everything())
}

// visit calls yield for each rule that applies to u in the namespace (and, with "", cluster-wide alone) until it
// returns false. where tells a denied or allowed user which binding it was. Roles that don't exist are reported at the end.
func (r *Resolver) visit(u user.Info, namespace string, yield func(where string, rule *rbacv1.PolicyRule) bool) error {
	var missing []error
	bindings, err := r.objects.ClusterRoleBindings()
	if err != nil {
		return fmt.Errorf("list ClusterRoleBindings: %w", err)
	}
	for _, b := range bindings {
		if !applies(b.Subjects, u, "") {
			continue
		}
		rules, err := r.rules(b.RoleRef, "")
		if err != nil {
			missing = append(missing, err)
			continue
		}
		for i := range rules {
			if !yield("ClusterRoleBinding "+quote(b.Name), &rules[i]) {
				return nil
			}
		}
	}
	if namespace == "" {
		return errors.Join(missing...)
	}
	inNamespace, err := r.objects.RoleBindings(namespace)
	if err != nil {
		return fmt.Errorf("list RoleBindings: %w", err)
	}
	for _, b := range inNamespace {
		if !applies(b.Subjects, u, namespace) {
			continue
		}
		rules, err := r.rules(b.RoleRef, namespace)
		if err != nil {
			missing = append(missing, err)
			continue
		}
		for i := range rules {
			if !yield("RoleBinding "+quote(b.Name+"/"+namespace), &rules[i]) {
				return nil
			}
		}
	}
	return errors.Join(missing...)
}

func quote(s string) string { return `"` + s + `"` }

func (r *Resolver) rules(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	switch ref.Kind {
	case "Role":
		role, err := r.objects.Role(namespace, ref.Name)
		if err != nil {
			return nil, err
		}
		return role.Rules, nil
	case "ClusterRole":
		role, err := r.objects.ClusterRole(ref.Name)
		if err != nil {
			return nil, err
		}
		return role.Rules, nil
	}
	return nil, fmt.Errorf("unsupported role reference kind: %q", ref.Kind)
}

// applies tells whether one of the subjects is the user. Service accounts of a RoleBinding may leave their namespace out.
func applies(subjects []rbacv1.Subject, u user.Info, namespace string) bool {
	for i := range subjects {
		s := &subjects[i]
		switch s.Kind {
		case rbacv1.UserKind:
			if s.Name == u.GetName() {
				return true
			}
		case rbacv1.GroupKind:
			if slices.Contains(u.GetGroups(), s.Name) {
				return true
			}
		case rbacv1.ServiceAccountKind:
			ns := s.Namespace
			if ns == "" {
				ns = namespace
			}
			if ns != "" && serviceaccount.MatchesUsername(ns, s.Name, u.GetName()) {
				return true
			}
		}
	}
	return false
}

// Authorize allows what a rule allows and has no opinion on the rest.
func (r *Resolver) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	var reason string
	err := r.visit(a.GetUser(), a.GetNamespace(), func(where string, rule *rbacv1.PolicyRule) bool {
		if !Allows(rule, a) {
			return true
		}
		reason = "RBAC: allowed by " + where + " to " + a.GetUser().GetName()
		return false
	})
	if reason != "" {
		return authorizer.DecisionAllow, reason, nil
	}
	if err != nil && !apierrors.IsNotFound(errors.Unwrap(err)) {
		reason = "RBAC: " + strings.ReplaceAll(err.Error(), "\n", ", ")
	}
	return authorizer.DecisionNoOpinion, reason, nil
}

// ConditionsAwareAuthorize is Authorize: RBAC's rules have no conditions.
func (r *Resolver) ConditionsAwareAuthorize(ctx context.Context, a authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(r.Authorize(ctx, a))
}

// EvaluateConditions refuses: there are none.
func (r *Resolver) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", authorizer.ErrorConditionEvaluationNotSupported
}

// RulesFor lists the rules of a user, for SelfSubjectRulesReview.
func (r *Resolver) RulesFor(_ context.Context, u user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	var resources []authorizer.ResourceRuleInfo
	var paths []authorizer.NonResourceRuleInfo
	err := r.visit(u, namespace, func(_ string, rule *rbacv1.PolicyRule) bool {
		if len(rule.Resources) > 0 {
			resources = append(resources, &authorizer.DefaultResourceRuleInfo{
				Verbs: rule.Verbs, APIGroups: rule.APIGroups, Resources: rule.Resources, ResourceNames: rule.ResourceNames,
			})
		}
		if len(rule.NonResourceURLs) > 0 {
			paths = append(paths, &authorizer.DefaultNonResourceRuleInfo{Verbs: rule.Verbs, NonResourceURLs: rule.NonResourceURLs})
		}
		return true
	})
	return resources, paths, err != nil, err
}
