package rbac

import rbacv1 "k8s.io/api/rbac/v1"

// NodeRules are what a node's agent may do; which objects it may do it to, the node authorizer and the NodeRestriction
// admission plugin narrow down.
func NodeRules() []rbacv1.PolicyRule { return nil }
