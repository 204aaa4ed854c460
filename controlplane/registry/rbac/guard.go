package rbac

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/component-helpers/auth/rbac/validation"

	"github.com/mote-edge/mote/controlplane/registry/resource"
)

// checkFunc says whether the request's user may write obj over old (nil or
// empty for a create).
type checkFunc func(ctx context.Context, obj, old runtime.Object) error

// guarded runs a check before writes. The API server's own identity and members
// of system:masters may do anything anyway, so they skip it.
type guarded struct {
	*resource.REST
	check checkFunc
}

func (r *guarded) Create(ctx context.Context, obj runtime.Object, createValidation rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	if !privileged(ctx) {
		if err := r.check(ctx, obj, nil); err != nil {
			return nil, err
		}
	}
	return r.REST.Create(ctx, obj, createValidation, options)
}

func (r *guarded) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, createValidation rest.ValidateObjectFunc,
	updateValidation rest.ValidateObjectUpdateFunc, forceAllowCreate bool, options *metav1.UpdateOptions,
) (runtime.Object, bool, error) {
	if !privileged(ctx) {
		info = rest.WrapUpdatedObjectInfo(info, func(ctx context.Context, obj, old runtime.Object) (runtime.Object, error) {
			if collectorOnly(obj, old) {
				return obj, nil
			}
			return obj, r.check(ctx, obj, old)
		})
	}
	return r.REST.Update(ctx, name, info, createValidation, updateValidation, forceAllowCreate, options)
}

func privileged(ctx context.Context) bool {
	u, ok := genericapirequest.UserFrom(ctx)
	return ok && slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup)
}

// collectorOnly is true of updates that change no more than what the garbage
// collector needs to change for a delete.
func collectorOnly(obj, old runtime.Object) bool {
	if old == nil {
		return false
	}
	c := obj.DeepCopyObject()
	m, err := meta.Accessor(c)
	if err != nil {
		return false
	}
	was, err := meta.Accessor(old)
	if err != nil {
		return false
	}
	m.SetOwnerReferences(was.GetOwnerReferences())
	m.SetFinalizers(was.GetFinalizers())
	m.SetManagedFields(was.GetManagedFields())
	o := old.DeepCopyObject()
	// Decoded requests carry their kind, stored objects don't.
	o.GetObjectKind().SetGroupVersionKind(c.GetObjectKind().GroupVersionKind())
	return apiequality.Semantic.DeepEqual(c, o)
}

type guard struct {
	authorizer authorizer.UnconditionalAuthorizer
	rules      storeRules
}

var everything = []rbacv1.PolicyRule{
	{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}},
	{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}},
}

func (g guard) role(ctx context.Context, obj, old runtime.Object) error {
	info, ok := genericapirequest.RequestInfoFrom(ctx)
	if ok && info.IsResourceRequest && g.allowed(ctx, "escalate", info.Resource, info.Name, info.Namespace) {
		return nil
	}
	var rules []rbacv1.PolicyRule
	var name, plural string
	aggregates := false
	switch r := obj.(type) {
	case *rbacv1.Role:
		rules, name, plural = r.Rules, r.Name, roles.Plural
	case *rbacv1.ClusterRole:
		rules, name, plural = r.Rules, r.Name, clusterRoles.Plural
		was, _ := old.(*rbacv1.ClusterRole)
		aggregates = hasAggregation(r) || hasAggregation(was)
	}
	gr := rbacv1.Resource(plural)
	if err := g.covered(ctx, rules); err != nil {
		return apierrors.NewForbidden(gr, name, err)
	}
	// An aggregation rule gathers anything, so it takes everything to set one.
	if aggregates && g.covered(ctx, everything) != nil {
		return apierrors.NewForbidden(gr, name, errors.New("must have cluster-admin privileges to use the aggregationRule"))
	}
	return nil
}

func hasAggregation(r *rbacv1.ClusterRole) bool {
	return r != nil && r.AggregationRule != nil && len(r.AggregationRule.ClusterRoleSelectors) > 0
}

func (g guard) binding(ctx context.Context, obj, _ runtime.Object) error {
	var ref rbacv1.RoleRef
	var name, namespace, plural string
	switch b := obj.(type) {
	case *rbacv1.RoleBinding:
		// The object may not have its namespace yet; the request has.
		ns, ok := genericapirequest.NamespaceFrom(ctx)
		if !ok {
			return apierrors.NewBadRequest("namespace is required")
		}
		ref, name, namespace, plural = b.RoleRef, b.Name, ns, roleBindings.Plural
	case *rbacv1.ClusterRoleBinding:
		ref, name, plural = b.RoleRef, b.Name, clusterRoleBindings.Plural
	}
	switch ref.Kind {
	case "Role":
		if g.allowed(ctx, "bind", roles.Plural, ref.Name, namespace) {
			return nil
		}
	case "ClusterRole":
		if g.allowed(ctx, "bind", clusterRoles.Plural, ref.Name, namespace) {
			return nil
		}
	}
	rules, err := g.rules.RoleRules(ctx, ref, namespace)
	if err != nil {
		return err
	}
	if err := g.covered(ctx, rules); err != nil {
		return apierrors.NewForbidden(rbacv1.Resource(plural), name, err)
	}
	return nil
}

func (g guard) allowed(ctx context.Context, verb, plural, name, namespace string) bool {
	u, ok := genericapirequest.UserFrom(ctx)
	if !ok || g.authorizer == nil {
		return false
	}
	decision, _, err := g.authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User: u, Verb: verb, APIGroup: rbacv1.GroupName, APIVersion: "*",
		Resource: plural, Name: name, Namespace: namespace, ResourceRequest: true,
	})
	return err == nil && decision == authorizer.DecisionAllow
}

// covered is nil when the request's user has every one of rules already.
func (g guard) covered(ctx context.Context, rules []rbacv1.PolicyRule) error {
	u, ok := genericapirequest.UserFrom(ctx)
	if !ok {
		return errors.New("no user on context")
	}
	namespace, _ := genericapirequest.NamespaceFrom(ctx)
	have, resolveErr := g.rules.RulesFor(ctx, u, namespace)
	ok, missing := validation.Covers(have, rules)
	if ok {
		return nil
	}
	lines := make([]string, len(missing))
	for i, r := range missing {
		lines[i] = describeRule(r)
	}
	sort.Strings(lines)
	err := fmt.Errorf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s",
		u.GetName(), u.GetGroups(), strings.Join(slices.Compact(lines), "\n"))
	if resolveErr != nil {
		err = fmt.Errorf("%w; resolution errors: %w", err, resolveErr)
	}
	return err
}

func describeRule(r rbacv1.PolicyRule) string {
	var parts []string
	for _, p := range []struct {
		name   string
		values []string
	}{
		{"APIGroups", r.APIGroups},
		{"Resources", r.Resources},
		{"NonResourceURLs", r.NonResourceURLs},
		{"ResourceNames", r.ResourceNames},
		{"Verbs", r.Verbs},
	} {
		if len(p.values) > 0 {
			parts = append(parts, fmt.Sprintf("%s:%q", p.name, p.values))
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

var _ rest.StandardStorage = (*guarded)(nil)
