package rbac

import (
	"context"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// memory is an Objects over a Policy.
type memory struct{ *Policy }

func (m memory) Role(namespace, name string) (*rbacv1.Role, error) {
	for _, r := range m.Roles {
		if r.Namespace == namespace && r.Name == name {
			return r, nil
		}
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "roles"}, name)
}

func (m memory) ClusterRole(name string) (*rbacv1.ClusterRole, error) {
	for _, r := range m.ClusterRoles {
		if r.Name == name {
			return r, nil
		}
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "clusterroles"}, name)
}

func (m memory) RoleBindings(namespace string) (in []*rbacv1.RoleBinding, _ error) {
	for _, b := range m.Policy.RoleBindings {
		if b.Namespace == namespace {
			in = append(in, b)
		}
	}
	return in, nil
}

func (m memory) ClusterRoleBindings() ([]*rbacv1.ClusterRoleBinding, error) {
	return m.Policy.ClusterRoleBindings, nil
}

func TestDefaultPolicyDecides(t *testing.T) {
	p, err := Default()
	if err != nil {
		t.Fatal(err)
	}
	r := New(memory{p})
	someone := func(name string, groups ...string) user.Info { return &user.DefaultInfo{Name: name, Groups: groups} }
	for _, tc := range []struct {
		name string
		a    authorizer.AttributesRecord
		want bool
	}{
		{"master", authorizer.AttributesRecord{User: someone("a", "system:masters"), Verb: "delete", Resource: "nodes", ResourceRequest: true}, true},
		{"master path", authorizer.AttributesRecord{User: someone("a", "system:masters"), Verb: "get", Path: "/anything"}, true},
		{"nobody lists", authorizer.AttributesRecord{User: someone("a", "system:authenticated"), Verb: "list", Resource: "pods", ResourceRequest: true}, false},
		{"anyone discovers", authorizer.AttributesRecord{User: someone("a", "system:authenticated"), Verb: "get", Path: "/apis/apps/v1"}, true},
		{"anonymous version", authorizer.AttributesRecord{User: someone("system:anonymous", "system:unauthenticated"), Verb: "get", Path: "/version"}, true},
		{"anonymous apis", authorizer.AttributesRecord{User: someone("system:anonymous", "system:unauthenticated"), Verb: "get", Path: "/apis"}, false},
		{"scheduler's own lease", authorizer.AttributesRecord{User: someone("system:kube-scheduler"), Verb: "update", APIGroup: "coordination.k8s.io", Resource: "leases", Name: "kube-scheduler", ResourceRequest: true}, true},
		{"another lease", authorizer.AttributesRecord{User: someone("system:kube-scheduler"), Verb: "update", APIGroup: "coordination.k8s.io", Resource: "leases", Name: "x", ResourceRequest: true}, false},
		{"lease in its namespace", authorizer.AttributesRecord{User: someone("system:kube-scheduler"), Verb: "update", Namespace: "kube-system", APIGroup: "coordination.k8s.io", Resource: "leases", Name: "x", ResourceRequest: true}, true},
		{"joining node", authorizer.AttributesRecord{User: someone("system:bootstrap:abcdef", "system:bootstrappers:mote:node"), Verb: "create", APIGroup: "certificates.k8s.io", Resource: "certificatesigningrequests", ResourceRequest: true}, true},
		{"service account", authorizer.AttributesRecord{User: someone("system:serviceaccount:kube-system:kube-dns"), Verb: "watch", Resource: "services", ResourceRequest: true}, true},
		{"namesake elsewhere", authorizer.AttributesRecord{User: someone("system:serviceaccount:default:kube-dns"), Verb: "watch", Resource: "services", ResourceRequest: true}, false},
	} {
		d, reason, err := r.Authorize(context.Background(), tc.a)
		if (d == authorizer.DecisionAllow) != tc.want || err != nil {
			t.Errorf("%s: %v (%s, %v)", tc.name, d, reason, err)
		}
	}
}

func TestAllowsResource(t *testing.T) {
	for _, tc := range []struct {
		list          string
		resource, sub string
		want          bool
	}{
		{"pods", "pods", "", true},
		{"pods", "pods", "log", false},
		{"pods/log", "pods", "log", true},
		{"pods/log", "pods", "", false},
		{"*", "pods", "log", true},
		{"*/scale", "deployments", "scale", true},
		{"*/scale", "deployments", "", false},
		{"pods/*", "pods", "log", false}, // upstream has no such wildcard either
	} {
		if got := allowsResource([]string{tc.list}, tc.resource, tc.sub); got != tc.want {
			t.Errorf("%s on %s/%s: %v", tc.list, tc.resource, tc.sub, got)
		}
	}
}

func TestMissingRoleIsToldNotFatal(t *testing.T) {
	r := New(memory{&Policy{ClusterRoleBindings: []*rbacv1.ClusterRoleBinding{
		{RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "gone"}, Subjects: []rbacv1.Subject{{Kind: "User", Name: "a"}}},
	}}})
	d, reason, err := r.Authorize(context.Background(), authorizer.AttributesRecord{User: &user.DefaultInfo{Name: "a"}, Verb: "get", Path: "/"})
	if d != authorizer.DecisionNoOpinion || err != nil || reason == "" {
		t.Errorf("%v %q %v: want no opinion with a reason", d, reason, err)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, text := range []string{"roll x", "  get core pods", "bind a b robot:c", "bind a"} {
		if _, err := parse(text); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}

func TestNodeRules(t *testing.T) {
	rules, err := NodeRules()
	if err != nil || len(rules) < 20 {
		t.Errorf("%d rules, %v", len(rules), err)
	}
}
