package registry_test

import (
	"context"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// as returns a client for another user.
func as(t *testing.T, user string) kubernetes.Interface {
	t.Helper()
	s, err := server()
	if err != nil {
		t.Fatal(err)
	}
	c := rest.CopyConfig(s.Loopback())
	c.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: []string{"system:authenticated"}}
	client, err := kubernetes.NewForConfig(c)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func role(name string, rules ...rbacv1.PolicyRule) *rbacv1.Role {
	return &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}
}

func rule(group, resource string, verbs ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{resource}, Verbs: verbs}
}

func binding(name, role, user string) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: user}},
	}
}

// Nobody gives away what they don't have: RBAC's privilege escalation prevention.
func TestNoEscalation(t *testing.T) {
	admin, ns := namespace(t)
	ctx := t.Context()
	all := []string{"get", "list", "create", "update", "delete"}
	for _, r := range []*rbacv1.Role{
		role("editor", rule("", "configmaps", "get"), rule(rbacv1.GroupName, "roles", all...), rule(rbacv1.GroupName, "rolebindings", all...)),
		role("strong", rule("", "secrets", "get")),
	} {
		if _, err := admin.RbacV1().Roles(ns).Create(ctx, r, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := admin.RbacV1().RoleBindings(ns).Create(ctx, binding("editor", "editor", "eve"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eve := as(t, "eve")
	// The authorizer learns of the binding from a watch.
	err := wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, 5*time.Second, true, func(ctx context.Context) (bool, error) {
		_, err := eve.CoreV1().ConfigMaps(ns).Get(ctx, "x", metav1.GetOptions{})
		return apierrors.IsNotFound(err), nil
	})
	if err != nil {
		t.Fatal("the binding has no effect")
	}
	if _, err := eve.RbacV1().Roles(ns).Create(ctx, role("mine", rule("", "configmaps", "get")), metav1.CreateOptions{}); err != nil {
		t.Errorf("a role with no more than she has: %v", err)
	}
	_, err = eve.RbacV1().Roles(ns).Create(ctx, role("more", rule("", "secrets", "get")), metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "attempting to grant RBAC permissions not currently held") ||
		!strings.Contains(err.Error(), `{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}`) {
		t.Errorf("a role with more: %v", err)
	}
	mine, err := eve.RbacV1().Roles(ns).Get(ctx, "mine", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	mine.Rules = append(mine.Rules, rule("", "pods", "*"))
	if _, err := eve.RbacV1().Roles(ns).Update(ctx, mine, metav1.UpdateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("more by an update: %v", err)
	}
	if _, err := eve.RbacV1().RoleBindings(ns).Create(ctx, binding("b", "strong", "eve"), metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a binding to a stronger role: %v", err)
	}
	if _, err := eve.RbacV1().RoleBindings(ns).Create(ctx, binding("c", "mine", "mallory"), metav1.CreateOptions{}); err != nil {
		t.Errorf("a binding to a role that she holds: %v", err)
	}
	// What the garbage collector does is never an escalation.
	strong, err := admin.RbacV1().Roles(ns).Get(ctx, "strong", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	strong.Finalizers = []string{"example.com/f"}
	if _, err := eve.RbacV1().Roles(ns).Update(ctx, strong, metav1.UpdateOptions{}); err != nil {
		t.Errorf("a finalizer alone: %v", err)
	}
}
