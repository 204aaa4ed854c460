// Package nodeauthz lets a node's agent read the secrets, configuration and volumes of the pods that are bound to it,
// and nothing of other nodes'. What a node may do to whole kinds of objects is in a fixed list of rules; which objects it
// may touch is looked up among its own pods, at most a few hundred, so that no graph of references need be kept.
//
// Reads:  Pods by node, PersistentVolumeClaims, PersistentVolumes and VolumeAttachments, through Objects.
// Writes: nothing.
package nodeauthz

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/mote-edge/mote/controlplane/apiserver/rbac"
)

// Objects is what is looked up. Not found is an error.
type Objects interface {
	// PodsOf lists the pods bound to a node: at once from a cache, or with fresh set, as the datastore has them.
	PodsOf(ctx context.Context, node string, fresh bool) ([]*corev1.Pod, error)
	Volume(ctx context.Context, name string) (*corev1.PersistentVolume, error)
	Attachment(ctx context.Context, name string) (*storagev1.VolumeAttachment, error)
}

// Authorizer decides for members of system:nodes and has no opinion on others.
type Authorizer struct {
	objects Objects
	rules   []rbacv1.PolicyRule
}

// New returns an authorizer. The rules are those of the role system:node.
func New(o Objects, rules []rbacv1.PolicyRule) *Authorizer {
	return &Authorizer{objects: o, rules: rules}
}

const (
	nodesGroup = "system:nodes"
	userPrefix = "system:node:"
)

// NodeName tells which node a user is.
func NodeName(u user.Info) (node string, isNode bool) {
	if u == nil || !slices.Contains(u.GetGroups(), nodesGroup) {
		return "", false
	}
	return strings.CutPrefix(u.GetName(), userPrefix)
}

const (
	allow = authorizer.DecisionAllow
	none  = authorizer.DecisionNoOpinion
)

// Authorize implements authorizer.UnconditionalAuthorizer.
func (z *Authorizer) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	node, ok := NodeName(a.GetUser())
	if !ok {
		return none, "", nil
	}
	if node == "" {
		return none, fmt.Sprintf("unknown node for user %q", a.GetUser().GetName()), nil
	}
	if a.IsResourceRequest() {
		if check := checks[key{a.GetAPIGroup(), a.GetResource()}]; check != nil {
			reason, err := check(ctx, z, node, a)
			if err != nil {
				return none, err.Error(), nil
			}
			if reason != "" {
				return none, reason, nil
			}
			return allow, "", nil
		}
	}
	for i := range z.rules {
		if rbac.Allows(&z.rules[i], a) {
			return allow, "", nil
		}
	}
	return none, "", nil
}

type key struct{ group, resource string }

// check returns why a request is refused, or nothing.
type check func(ctx context.Context, z *Authorizer, node string, a authorizer.Attributes) (string, error)

var checks = map[key]check{
	{"", "secrets"}:                                       reads(usesSecret),
	{"", "configmaps"}:                                    reads(usesConfigMap),
	{"", "persistentvolumeclaims"}:                        checkClaim,
	{"", "persistentvolumes"}:                             checkVolume,
	{"", "serviceaccounts"}:                               checkServiceAccount,
	{"", "pods"}:                                          checkPods,
	{"", "nodes"}:                                         checkNodes,
	{"storage.k8s.io", "volumeattachments"}:               checkAttachment,
	{"storage.k8s.io", "csinodes"}:                        checkCSINode,
	{"coordination.k8s.io", "leases"}:                     checkLease,
	{"resource.k8s.io", "resourceslices"}:                 checkSlices,
	{"resource.k8s.io", "resourceclaims"}:                 reads(usesResourceClaim),
	{"certificates.k8s.io", "certificatesigningrequests"}: checkCSR,
	{"certificates.k8s.io", "podcertificaterequests"}:     checkPodCertificate,
}

// anyPod tells whether one of the node's pods satisfies f. The cache may lag behind a pod that was just bound, so a no
// is asked for again from the datastore.
func (z *Authorizer) anyPod(ctx context.Context, node string, f func(*corev1.Pod) bool) (bool, error) {
	for _, fresh := range []bool{false, true} {
		pods, err := z.objects.PodsOf(ctx, node, fresh)
		if err != nil {
			return false, fmt.Errorf("list the pods of node %s: %w", node, err)
		}
		if slices.ContainsFunc(pods, f) {
			return true, nil
		}
	}
	return false, nil
}

func noRelation(node, kind, namespace, name string) string {
	if namespace != "" {
		name = namespace + "/" + name
	}
	return fmt.Sprintf("no relationship found between node '%s' and this object: %s %s", node, kind, name)
}

// reads allows get, list and watch of one named object that one of the node's pods refers to.
func reads(uses func(p *corev1.Pod, name string) bool) check {
	return func(ctx context.Context, z *Authorizer, node string, a authorizer.Attributes) (string, error) {
		switch {
		case !slices.Contains([]string{"get", "list", "watch"}, a.GetVerb()):
			return "can only read resources of this type", nil
		case a.GetSubresource() != "":
			return "cannot read subresource", nil
		case a.GetName() == "":
			return "can only read namespaced object of this type by name", nil
		}
		ok, err := z.anyPod(ctx, node, func(p *corev1.Pod) bool { return p.Namespace == a.GetNamespace() && uses(p, a.GetName()) })
		if err != nil || ok {
			return "", err
		}
		return noRelation(node, a.GetResource(), a.GetNamespace(), a.GetName()), nil
	}
}

var errUnconditional = errors.New("the node authorizer has no conditions")

// ConditionsAwareAuthorize is Authorize.
func (z *Authorizer) ConditionsAwareAuthorize(ctx context.Context, a authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(z.Authorize(ctx, a))
}

// EvaluateConditions refuses.
func (z *Authorizer) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", errUnconditional
}

var _ authorizer.Authorizer = (*Authorizer)(nil)

// byRules decides by the fixed list.
func (z *Authorizer) byRules(a authorizer.Attributes) (string, error) {
	for i := range z.rules {
		if rbac.Allows(&z.rules[i], a) {
			return "", nil
		}
	}
	return "not among the rules for nodes", nil
}
