package bootstrap

import (
	"context"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/auth/rbac/validation"

	"github.com/mote-edge/mote/controlplane/apiserver/rbac"
)

// policy makes the default roles and bindings, and adds to those that exist what a newer version has more, unless their
// annotation says no.
func (b *Bootstrap) policy(ctx context.Context) error {
	want, err := rbac.Default()
	if err != nil {
		return err
	}
	api := b.cfg.Client.RbacV1()
	clusterRoles, err := api.ClusterRoles().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	clusterBindings, err := api.ClusterRoleBindings().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	roles, err := api.Roles(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	bindings, err := api.RoleBindings(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	var tasks []func(context.Context) error
	for _, w := range want.ClusterRoles {
		tasks = append(tasks, ensure(w, clusterRoles.Items, api.ClusterRoles(), func(have *rbacv1.ClusterRole) bool {
			changed := addRules(&have.Rules, w.Rules)
			if w.AggregationRule != nil && !equality.Semantic.DeepEqual(have.AggregationRule, w.AggregationRule) {
				have.AggregationRule, changed = w.AggregationRule, true
			}
			return addMissing(&have.Labels, w.Labels) || changed
		}))
	}
	for _, w := range want.ClusterRoleBindings {
		tasks = append(tasks, ensure(w, clusterBindings.Items, api.ClusterRoleBindings(), func(have *rbacv1.ClusterRoleBinding) bool {
			return have.RoleRef == w.RoleRef && addSubjects(&have.Subjects, w.Subjects)
		}))
	}
	for _, w := range want.Roles {
		tasks = append(tasks, ensure(w, roles.Items, api.Roles(w.Namespace), func(have *rbacv1.Role) bool { return addRules(&have.Rules, w.Rules) }))
	}
	for _, w := range want.RoleBindings {
		tasks = append(tasks, ensure(w, bindings.Items, api.RoleBindings(w.Namespace), func(have *rbacv1.RoleBinding) bool {
			return have.RoleRef == w.RoleRef && addSubjects(&have.Subjects, w.Subjects)
		}))
	}
	return all(ctx, tasks)
}

// object is a pointer to a role or binding.
type object[T any] interface {
	*T
	metav1.Object
	DeepCopy() *T
}

// writer is the part of a typed client that ensure needs.
type writer[T any] interface {
	Create(ctx context.Context, obj *T, opts metav1.CreateOptions) (*T, error)
	Update(ctx context.Context, obj *T, opts metav1.UpdateOptions) (*T, error)
}

// ensure creates want, or lets amend add to the one there is.
func ensure[T any, P object[T]](want P, have []T, api writer[T], amend func(P) bool) func(context.Context) error {
	i := slices.IndexFunc(have, func(o T) bool { return P(&o).GetName() == want.GetName() })
	if i < 0 {
		return func(ctx context.Context) error {
			_, err := api.Create(ctx, want, metav1.CreateOptions{})
			return exists(err)
		}
	}
	o := P(&have[i])
	if o.GetAnnotations()[rbacv1.AutoUpdateAnnotationKey] == "false" || !amend(o) {
		return func(context.Context) error { return nil }
	}
	return func(ctx context.Context) error {
		_, err := api.Update(ctx, o, metav1.UpdateOptions{})
		return err
	}
}

func addRules(have *[]rbacv1.PolicyRule, want []rbacv1.PolicyRule) bool {
	_, missing := validation.Covers(*have, want)
	*have = append(*have, missing...)
	return len(missing) > 0
}

func addSubjects(have *[]rbacv1.Subject, want []rbacv1.Subject) (changed bool) {
	for _, s := range want {
		if !slices.Contains(*have, s) {
			*have, changed = append(*have, s), true
		}
	}
	return changed
}

func addMissing(have *map[string]string, want map[string]string) (changed bool) {
	for k, v := range want {
		if (*have)[k] != v {
			if *have == nil {
				*have = map[string]string{}
			}
			(*have)[k], changed = v, true
		}
	}
	return changed
}
