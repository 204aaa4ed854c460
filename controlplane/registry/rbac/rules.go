package rbac

import (
	"context"
	"errors"
	"fmt"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"

	"github.com/mote-edge/mote/controlplane/registry/resource"
)

// storeRules resolves the rules of users and roles for the escalation checks, from the stores that serve them: whoever has
// just made a role may bind it at once, which the authorizer's watches may not have heard of.
type storeRules struct{ stores map[string]*resource.REST }

// RoleRules returns the rules of a role; a role that doesn't exist is a NotFound API error.
func (s storeRules) RoleRules(ctx context.Context, ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	switch ref.Kind {
	case "Role":
		obj, err := s.stores["roles"].Get(genericapirequest.WithNamespace(ctx, namespace), ref.Name, &metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		return obj.(*rbacv1.Role).Rules, nil
	case "ClusterRole":
		obj, err := s.stores["clusterroles"].Get(genericapirequest.WithNamespace(ctx, ""), ref.Name, &metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		return obj.(*rbacv1.ClusterRole).Rules, nil
	}
	return nil, fmt.Errorf("unsupported role reference kind: %q", ref.Kind)
}

// RulesFor returns every rule that u has in namespace ("" for the cluster scope alone). With an error it returns what it
// could find.
func (s storeRules) RulesFor(ctx context.Context, u user.Info, namespace string) ([]rbacv1.PolicyRule, error) {
	var rules []rbacv1.PolicyRule
	var errs []error
	add := func(ref rbacv1.RoleRef, subjects []rbacv1.Subject, ns string) {
		if !slices.ContainsFunc(subjects, func(s rbacv1.Subject) bool { return SubjectIs(s, u, ns) }) {
			return
		}
		more, err := s.RoleRules(ctx, ref, ns)
		if err != nil {
			errs = append(errs, err)
			return
		}
		rules = append(rules, more...)
	}
	cached := &metainternalversion.ListOptions{ResourceVersion: "0"}
	obj, err := s.stores["clusterrolebindings"].List(genericapirequest.WithNamespace(ctx, ""), cached)
	if err != nil {
		errs = append(errs, err)
	} else {
		for _, b := range obj.(*rbacv1.ClusterRoleBindingList).Items {
			add(b.RoleRef, b.Subjects, "")
		}
	}
	if namespace != "" {
		obj, err := s.stores["rolebindings"].List(genericapirequest.WithNamespace(ctx, namespace), cached)
		if err != nil {
			errs = append(errs, err)
		} else {
			for _, b := range obj.(*rbacv1.RoleBindingList).Items {
				add(b.RoleRef, b.Subjects, namespace)
			}
		}
	}
	return rules, errors.Join(errs...)
}

// SubjectIs says whether a binding's subject means u. A service account without
// a namespace is one of the binding's own.
func SubjectIs(s rbacv1.Subject, u user.Info, bindingNamespace string) bool {
	switch s.Kind {
	case rbacv1.UserKind:
		return u.GetName() == s.Name
	case rbacv1.GroupKind:
		return slices.Contains(u.GetGroups(), s.Name)
	case rbacv1.ServiceAccountKind:
		ns := s.Namespace
		if ns == "" {
			ns = bindingNamespace
		}
		return ns != "" && serviceaccount.MatchesUsername(ns, s.Name, u.GetName())
	}
	return false
}
