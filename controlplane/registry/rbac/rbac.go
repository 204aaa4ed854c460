// Package rbac holds the resources of rbac.authorization.k8s.io/v1. Nobody may
// give away permissions that they don't have: writes of roles and bindings are
// checked against the rules that the writer has.
//
// Reads: the objects it serves; the authorizer, for the verbs escalate and bind.
// Writes: the objects it serves.
package rbac

import (
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/mote-edge/mote/controlplane/registry/resource"
)

// Storages builds everything of rbac.authorization.k8s.io/v1.
func Storages(c *resource.Config) (resource.Storages, error) {
	to := resource.Storages{}
	if err := resource.AddAll(c, to, &roles, &roleBindings, &clusterRoles, &clusterRoleBindings); err != nil {
		return nil, err
	}
	stores := map[string]*resource.REST{}
	for name := range to {
		stores[name] = to[name].(*resource.REST)
	}
	g := guard{authorizer: c.Authorizer, rules: storeRules{stores}}
	for name, check := range map[string]checkFunc{
		"roles": g.role, "clusterroles": g.role, "rolebindings": g.binding, "clusterrolebindings": g.binding,
	} {
		to[name] = &guarded{REST: stores[name], check: check}
	}
	return to, nil
}

var roles = resource.Descriptor[*rbacv1.Role]{
	GV: rbacv1.SchemeGroupVersion, Plural: "roles", Singular: "role",
	New:            func() *rbacv1.Role { return &rbacv1.Role{} },
	NewList:        func() runtime.Object { return &rbacv1.RoleList{} },
	CreateOnUpdate: true,
	NameRule:       path.ValidatePathSegmentName,
}

var clusterRoles = resource.Descriptor[*rbacv1.ClusterRole]{
	GV: rbacv1.SchemeGroupVersion, Plural: "clusterroles", Singular: "clusterrole", Cluster: true,
	New:            func() *rbacv1.ClusterRole { return &rbacv1.ClusterRole{} },
	NewList:        func() runtime.Object { return &rbacv1.ClusterRoleList{} },
	CreateOnUpdate: true,
	NameRule:       path.ValidatePathSegmentName,
}

var roleBindings = resource.Descriptor[*rbacv1.RoleBinding]{
	GV: rbacv1.SchemeGroupVersion, Plural: "rolebindings", Singular: "rolebinding",
	New:            func() *rbacv1.RoleBinding { return &rbacv1.RoleBinding{} },
	NewList:        func() runtime.Object { return &rbacv1.RoleBindingList{} },
	CreateOnUpdate: true,
	NameRule:       path.ValidatePathSegmentName,
	Columns: bindingColumns(func(b *rbacv1.RoleBinding) (rbacv1.RoleRef, []rbacv1.Subject) {
		return b.RoleRef, b.Subjects
	}),
}

var clusterRoleBindings = resource.Descriptor[*rbacv1.ClusterRoleBinding]{
	GV: rbacv1.SchemeGroupVersion, Plural: "clusterrolebindings", Singular: "clusterrolebinding", Cluster: true,
	New:            func() *rbacv1.ClusterRoleBinding { return &rbacv1.ClusterRoleBinding{} },
	NewList:        func() runtime.Object { return &rbacv1.ClusterRoleBindingList{} },
	CreateOnUpdate: true,
	NameRule:       path.ValidatePathSegmentName,
	Columns: bindingColumns(func(b *rbacv1.ClusterRoleBinding) (rbacv1.RoleRef, []rbacv1.Subject) {
		return b.RoleRef, b.Subjects
	}),
}

func bindingColumns[T resource.Object](of func(T) (rbacv1.RoleRef, []rbacv1.Subject)) []resource.Column[T] {
	subjects := func(kind string) func(T) any {
		return func(o T) any {
			_, all := of(o)
			var names []string
			for _, s := range all {
				switch {
				case s.Kind != kind:
				case kind == rbacv1.ServiceAccountKind && s.Namespace != "":
					names = append(names, s.Namespace+"/"+s.Name)
				default:
					names = append(names, s.Name)
				}
			}
			return strings.Join(names, ", ")
		}
	}
	return []resource.Column[T]{
		resource.Name[T](),
		{Name: "Role", Value: func(o T) any { ref, _ := of(o); return ref.Kind + "/" + ref.Name }},
		resource.Age[T](),
		{Name: "Users", Wide: true, Doc: "Users in the binding", Value: subjects(rbacv1.UserKind)},
		{Name: "Groups", Wide: true, Doc: "Groups in the binding", Value: subjects(rbacv1.GroupKind)},
		{Name: "ServiceAccounts", Wide: true, Doc: "ServiceAccounts in the binding", Value: subjects(rbacv1.ServiceAccountKind)},
	}
}
