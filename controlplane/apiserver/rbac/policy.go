package rbac

import (
	_ "embed"
	"fmt"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

//go:embed policy.txt
var defaultPolicy string

// Policy is a set of roles and bindings.
type Policy struct {
	ClusterRoles        []*rbacv1.ClusterRole
	Roles               []*rbacv1.Role
	ClusterRoleBindings []*rbacv1.ClusterRoleBinding
	RoleBindings        []*rbacv1.RoleBinding
}

// Default returns what every cluster begins with. Each call builds it anew: it is needed once, at start.
func Default() (*Policy, error) { return parse(defaultPolicy) }

// NodeRules are what a node's agent may do; which objects it may do it to, the node authorizer and the NodeRestriction
// admission plugin narrow down.
func NodeRules() ([]rbacv1.PolicyRule, error) {
	p, err := Default()
	if err != nil {
		return nil, err
	}
	for _, r := range p.ClusterRoles {
		if r.Name == "system:node" {
			return r.Rules, nil
		}
	}
	return nil, fmt.Errorf("the default policy has no role system:node")
}

const aggregateLabel = "rbac.authorization.k8s.io/aggregate-to-"

var verbWords = map[string][]string{
	"read":       {"get", "list", "watch"},
	"readupdate": {"get", "list", "watch", "update", "patch"},
	"write":      {"create", "update", "patch", "delete", "deletecollection"},
	"readwrite":  {"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"},
}

func parse(text string) (*Policy, error) {
	p := &Policy{}
	var rules *[]rbacv1.PolicyRule
	n := 0
	for line := range strings.Lines(text) {
		n++
		words := strings.Fields(line)
		switch {
		case len(words) == 0 || strings.HasPrefix(words[0], "#"):
			continue
		case line[0] == ' ' && rules != nil && len(words) >= 2:
			*rules = append(*rules, parseRule(words))
		case words[0] == "role" && len(words) >= 2:
			rules = p.addRole(words[1], words[2:])
		case words[0] == "bind" && len(words) >= 3:
			if err := p.addBinding(words[1], words[2], words[3:]); err != nil {
				return nil, fmt.Errorf("policy line %d: %w", n, err)
			}
		default:
			return nil, fmt.Errorf("policy line %d: %q is neither role, rule nor bind", n, strings.TrimSpace(line))
		}
	}
	return p, nil
}

// metadata marks an object as one of the defaults: the server adds what is missing from it at every start, unless an
// administrator sets the annotation to false.
func metadata(name string) metav1.ObjectMeta {
	m := metav1.ObjectMeta{
		Labels:      map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"},
		Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"},
	}
	var namespaced bool
	if m.Namespace, m.Name, namespaced = strings.Cut(name, "/"); !namespaced {
		m.Name, m.Namespace = name, ""
	}
	return m
}

func (p *Policy) addRole(name string, options []string) *[]rbacv1.PolicyRule {
	m := metadata(name)
	if m.Namespace != "" {
		r := &rbacv1.Role{ObjectMeta: m}
		p.Roles = append(p.Roles, r)
		return &r.Rules
	}
	r := &rbacv1.ClusterRole{ObjectMeta: m}
	for _, o := range options {
		label := aggregateLabel + o[1:]
		if o[0] == '+' {
			r.Labels[label] = "true"
			continue
		}
		r.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{label: "true"}}}}
	}
	p.ClusterRoles = append(p.ClusterRoles, r)
	return &r.Rules
}

func parseRule(words []string) rbacv1.PolicyRule {
	verbs, ok := verbWords[words[0]]
	if !ok {
		verbs = strings.Split(words[0], ",")
	}
	if paths, ok := strings.CutPrefix(words[1], "@"); ok {
		return rbacv1.PolicyRule{Verbs: verbs, NonResourceURLs: strings.Split(paths, ",")}
	}
	r := rbacv1.PolicyRule{Verbs: verbs, APIGroups: strings.Split(words[1], ",")}
	for i, g := range r.APIGroups {
		if g == "core" {
			r.APIGroups[i] = ""
		}
	}
	if len(words) > 2 {
		r.Resources = strings.Split(words[2], ",")
	}
	if len(words) > 3 {
		r.ResourceNames = strings.Split(words[3], ",")
	}
	return r
}

func (p *Policy) addBinding(name, role string, words []string) error {
	m := metadata(name)
	var subjects []rbacv1.Subject
	for _, w := range words {
		kind, who, _ := strings.Cut(w, ":")
		switch kind {
		case "user":
			subjects = append(subjects, rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: who})
		case "group":
			subjects = append(subjects, rbacv1.Subject{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: who})
		case "sa":
			ns, sa, _ := strings.Cut(who, "/")
			subjects = append(subjects, rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: ns, Name: sa})
		default:
			return fmt.Errorf("subject %q is neither user:, group: nor sa:", w)
		}
	}
	if m.Namespace != "" {
		p.RoleBindings = append(p.RoleBindings, &rbacv1.RoleBinding{
			ObjectMeta: m, Subjects: subjects, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role},
		})
		return nil
	}
	p.ClusterRoleBindings = append(p.ClusterRoleBindings, &rbacv1.ClusterRoleBinding{
		ObjectMeta: m, Subjects: subjects, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
	})
	return nil
}
