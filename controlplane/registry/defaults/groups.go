package defaults

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NetworkPolicy: a policy is about ingress, and about egress if it has such rules.
func NetworkPolicy(p *networkingv1.NetworkPolicy) {
	if len(p.Spec.PolicyTypes) == 0 {
		p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(p.Spec.Egress) > 0 {
			p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
	ports := func(list []networkingv1.NetworkPolicyPort) {
		for i := range list {
			unset(&list[i].Protocol, corev1.ProtocolTCP)
		}
	}
	for i := range p.Spec.Ingress {
		ports(p.Spec.Ingress[i].Ports)
	}
	for i := range p.Spec.Egress {
		ports(p.Spec.Egress[i].Ports)
	}
}

// IngressClass: parameters are cluster-wide unless they say otherwise.
func IngressClass(c *networkingv1.IngressClass) {
	if c.Spec.Parameters != nil {
		unset(&c.Spec.Parameters.Scope, networkingv1.IngressClassParametersReferenceScopeCluster)
	}
}

// EndpointSlice: an unnamed TCP port.
func EndpointSlice(s *discoveryv1.EndpointSlice) {
	for i := range s.Ports {
		unset(&s.Ports[i].Name, "")
		unset(&s.Ports[i].Protocol, corev1.ProtocolTCP)
	}
}

// RoleBinding fills in the API groups.
func RoleBinding(b *rbacv1.RoleBinding) { binding(&b.RoleRef, b.Subjects) }

// ClusterRoleBinding fills in the API groups.
func ClusterRoleBinding(b *rbacv1.ClusterRoleBinding) { binding(&b.RoleRef, b.Subjects) }

func binding(ref *rbacv1.RoleRef, subjects []rbacv1.Subject) {
	zero(&ref.APIGroup, rbacv1.GroupName)
	for i := range subjects {
		if k := subjects[i].Kind; k == rbacv1.UserKind || k == rbacv1.GroupKind {
			zero(&subjects[i].APIGroup, rbacv1.GroupName)
		}
	}
}

// StorageClass: volumes are deleted with their claim and bound at once.
func StorageClass(c *storagev1.StorageClass) {
	unset(&c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)
	unset(&c.VolumeBindingMode, storagev1.VolumeBindingImmediate)
}

// CSIDriver: upstream's defaults for a driver that says little about itself.
func CSIDriver(d *storagev1.CSIDriver) {
	unset(&d.Spec.AttachRequired, true)
	unset(&d.Spec.PodInfoOnMount, false)
	unset(&d.Spec.StorageCapacity, false)
	unset(&d.Spec.PreventPodSchedulingIfMissing, false)
	unset(&d.Spec.FSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
	if len(d.Spec.VolumeLifecycleModes) == 0 {
		d.Spec.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
	}
	unset(&d.Spec.RequiresRepublish, false)
	unset(&d.Spec.SELinuxMount, false)
}

// PriorityClass preempts lower priorities.
func PriorityClass(c *schedulingv1.PriorityClass) {
	unset(&c.PreemptionPolicy, corev1.PreemptLowerPriority)
}

// ValidatingWebhookConfiguration defaults each webhook.
func ValidatingWebhookConfiguration(c *admissionregistrationv1.ValidatingWebhookConfiguration) {
	for i := range c.Webhooks {
		w := &c.Webhooks[i]
		webhook(&w.FailurePolicy, &w.MatchPolicy, &w.NamespaceSelector, &w.ObjectSelector, &w.TimeoutSeconds, w.ClientConfig.Service, w.Rules)
	}
}

// MutatingWebhookConfiguration defaults each webhook.
func MutatingWebhookConfiguration(c *admissionregistrationv1.MutatingWebhookConfiguration) {
	for i := range c.Webhooks {
		w := &c.Webhooks[i]
		webhook(&w.FailurePolicy, &w.MatchPolicy, &w.NamespaceSelector, &w.ObjectSelector, &w.TimeoutSeconds, w.ClientConfig.Service, w.Rules)
		unset(&w.ReinvocationPolicy, admissionregistrationv1.NeverReinvocationPolicy)
	}
}

func webhook(fail **admissionregistrationv1.FailurePolicyType, match **admissionregistrationv1.MatchPolicyType, ns, obj **metav1.LabelSelector,
	timeout **int32, service *admissionregistrationv1.ServiceReference, rules []admissionregistrationv1.RuleWithOperations,
) {
	unset(fail, admissionregistrationv1.Fail)
	unset(match, admissionregistrationv1.Equivalent)
	unset(ns, metav1.LabelSelector{})
	unset(obj, metav1.LabelSelector{})
	unset(timeout, 10)
	if service != nil {
		unset(&service.Port, 443)
	}
	for i := range rules {
		unset(&rules[i].Scope, admissionregistrationv1.AllScopes)
	}
}

// ValidatingAdmissionPolicy fails closed and matches equivalent requests.
func ValidatingAdmissionPolicy(p *admissionregistrationv1.ValidatingAdmissionPolicy) {
	unset(&p.Spec.FailurePolicy, admissionregistrationv1.Fail)
	matchResources(p.Spec.MatchConstraints)
}

// ValidatingAdmissionPolicyBinding defaults what it matches.
func ValidatingAdmissionPolicyBinding(b *admissionregistrationv1.ValidatingAdmissionPolicyBinding) {
	matchResources(b.Spec.MatchResources)
}

// MutatingAdmissionPolicy fails closed and matches equivalent requests.
func MutatingAdmissionPolicy(p *admissionregistrationv1.MutatingAdmissionPolicy) {
	unset(&p.Spec.FailurePolicy, admissionregistrationv1.Fail)
	matchResources(p.Spec.MatchConstraints)
}

// MutatingAdmissionPolicyBinding defaults what it matches.
func MutatingAdmissionPolicyBinding(b *admissionregistrationv1.MutatingAdmissionPolicyBinding) {
	matchResources(b.Spec.MatchResources)
}

func matchResources(m *admissionregistrationv1.MatchResources) {
	if m == nil {
		return
	}
	unset(&m.MatchPolicy, admissionregistrationv1.Equivalent)
	unset(&m.NamespaceSelector, metav1.LabelSelector{})
	unset(&m.ObjectSelector, metav1.LabelSelector{})
	for _, rules := range [][]admissionregistrationv1.NamedRuleWithOperations{m.ResourceRules, m.ExcludeResourceRules} {
		for i := range rules {
			unset(&rules[i].Scope, admissionregistrationv1.AllScopes)
		}
	}
}

// FlowSchema: a precedence in the middle.
func FlowSchema(f *flowcontrolv1.FlowSchema) { zero(&f.Spec.MatchingPrecedence, 1000) }

// PriorityLevelConfiguration: thirty shares, nothing lent, a small queue.
func PriorityLevelConfiguration(p *flowcontrolv1.PriorityLevelConfiguration) {
	if p.Spec.Exempt != nil {
		unset(&p.Spec.Exempt.NominalConcurrencyShares, 0)
		unset(&p.Spec.Exempt.LendablePercent, 0)
	}
	l := p.Spec.Limited
	if l == nil {
		return
	}
	unset(&l.NominalConcurrencyShares, 30)
	unset(&l.LendablePercent, 0)
	if q := l.LimitResponse.Queuing; q != nil {
		zero(&q.HandSize, 8)
		zero(&q.Queues, 64)
		zero(&q.QueueLengthLimit, 50)
	}
}
