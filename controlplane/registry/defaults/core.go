package defaults

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Service defaults a service's type, policies and ports.
func Service(svc *corev1.Service) {
	spec := &svc.Spec
	zero(&spec.SessionAffinity, corev1.ServiceAffinityNone)
	switch spec.SessionAffinity {
	case corev1.ServiceAffinityNone:
		spec.SessionAffinityConfig = nil
	case corev1.ServiceAffinityClientIP:
		unset(&spec.SessionAffinityConfig, corev1.SessionAffinityConfig{})
		unset(&spec.SessionAffinityConfig.ClientIP, corev1.ClientIPConfig{})
		unset(&spec.SessionAffinityConfig.ClientIP.TimeoutSeconds, corev1.DefaultClientIPServiceAffinitySeconds)
	}
	zero(&spec.Type, corev1.ServiceTypeClusterIP)
	for i := range spec.Ports {
		p := &spec.Ports[i]
		zero(&p.Protocol, corev1.ProtocolTCP)
		if p.TargetPort == intstr.FromInt32(0) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
	switch spec.Type {
	case corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer:
		zero(&spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster)
	case corev1.ServiceTypeClusterIP:
		if len(spec.ExternalIPs) > 0 {
			zero(&spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster)
		}
	}
	if spec.Type != corev1.ServiceTypeExternalName {
		unset(&spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster)
	}
	if spec.Type == corev1.ServiceTypeLoadBalancer {
		unset(&spec.AllocateLoadBalancerNodePorts, true)
		for i := range svc.Status.LoadBalancer.Ingress {
			if svc.Status.LoadBalancer.Ingress[i].IP != "" {
				unset(&svc.Status.LoadBalancer.Ingress[i].IPMode, corev1.LoadBalancerIPModeVIP)
			}
		}
	}
}

// Endpoints defaults the ports' protocol.
func Endpoints(ep *corev1.Endpoints) {
	for i := range ep.Subsets {
		for j := range ep.Subsets[i].Ports {
			zero(&ep.Subsets[i].Ports[j].Protocol, corev1.ProtocolTCP)
		}
	}
}

// Namespace labels a namespace with its own name, so that selectors can name it.
func Namespace(ns *corev1.Namespace) {
	if ns.Name == "" {
		return // generateName: the registry labels it when the name is known
	}
	if ns.Labels == nil {
		ns.Labels = map[string]string{}
	}
	ns.Labels[corev1.LabelMetadataName] = ns.Name
	zero(&ns.Status.Phase, corev1.NamespaceActive)
}

// Node offers all that it has, unless it says otherwise.
func Node(n *corev1.Node) {
	if n.Status.Capacity != nil && n.Status.Allocatable == nil {
		n.Status.Allocatable = n.Status.Capacity.DeepCopy()
	}
}

// Secret is opaque unless it says otherwise.
// Also moves stringData, which is write-only, into data.
func Secret(s *corev1.Secret) {
	zero(&s.Type, corev1.SecretTypeOpaque)
	for k, v := range s.StringData {
		if s.Data == nil {
			s.Data = map[string][]byte{}
		}
		s.Data[k] = []byte(v)
	}
	s.StringData = nil
}

// PersistentVolume defaults phase, reclaim policy and mode.
func PersistentVolume(pv *corev1.PersistentVolume) {
	zero(&pv.Status.Phase, corev1.VolumePending)
	zero(&pv.Spec.PersistentVolumeReclaimPolicy, corev1.PersistentVolumeReclaimRetain)
	unset(&pv.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	if pv.Spec.HostPath != nil {
		unset(&pv.Spec.HostPath.Type, corev1.HostPathUnset)
	}
	if pv.Spec.ISCSI != nil {
		zero(&pv.Spec.ISCSI.ISCSIInterface, "default")
	}
}

// PersistentVolumeClaim defaults phase and mode.
func PersistentVolumeClaim(c *corev1.PersistentVolumeClaim) {
	zero(&c.Status.Phase, corev1.ClaimPending)
	unset(&c.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
}

// LimitRange: a container's default limit is its maximum, its default request that limit, or its minimum.
func LimitRange(lr *corev1.LimitRange) {
	for i := range lr.Spec.Limits {
		item := &lr.Spec.Limits[i]
		if item.Type != corev1.LimitTypeContainer {
			continue
		}
		fill := func(dst *corev1.ResourceList, src corev1.ResourceList) {
			if *dst == nil {
				*dst = corev1.ResourceList{}
			}
			for name, q := range src {
				if _, ok := (*dst)[name]; !ok {
					(*dst)[name] = q.DeepCopy()
				}
			}
		}
		fill(&item.Default, item.Max)
		fill(&item.DefaultRequest, item.Default)
		fill(&item.DefaultRequest, item.Min)
	}
}

// ReplicationController takes selector and labels from its template.
func ReplicationController(rc *corev1.ReplicationController) {
	unset(&rc.Spec.Replicas, 1)
	if rc.Spec.Template == nil {
		return
	}
	PodTemplateSpec(rc.Spec.Template)
	if labels := rc.Spec.Template.Labels; len(labels) > 0 {
		if len(rc.Spec.Selector) == 0 {
			rc.Spec.Selector = labels
		}
		if len(rc.Labels) == 0 {
			rc.Labels = labels
		}
	}
}
