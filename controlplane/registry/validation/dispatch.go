// Package validation holds the rules of the built-in API types: what a create, an update and a status update may
// contain. Metadata is checked by the generic strategies; everything here is about the rest. All functions are pure.
// The rules are those of the Kubernetes API reference for 1.37, and the messages are worded as upstream words them,
// because users search for them.
//
// Reads:  nothing.
// Writes: nothing.
package validation

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Create checks a new object. Types without rules of their own pass.
func Create(obj runtime.Object) field.ErrorList {
	switch o := obj.(type) {
	case *corev1.Pod:
		return pod(o)
	case *corev1.PodTemplate:
		l := &list{}
		podTemplate(l, &o.Template, field.NewPath("template"))
		return l.ErrorList
	case *corev1.Service:
		return service(o)
	case *corev1.Endpoints:
		return endpoints(o)
	case *corev1.ConfigMap:
		return configMap(o)
	case *corev1.Secret:
		return secret(o)
	case *corev1.Node:
		return node(o)
	case *corev1.LimitRange:
		return limitRange(o)
	case *corev1.ResourceQuota:
		return resourceQuota(o)
	case *corev1.PersistentVolumeClaim:
		return claim(o)
	case *corev1.PersistentVolume:
		return persistentVolume(o)
	case *corev1.Event:
		return event(o)
	case *corev1.Namespace:
		return namespace(o)
	case *corev1.ReplicationController:
		return replicationController(o)
	case *appsv1.Deployment:
		return deployment(o)
	case *appsv1.ReplicaSet:
		return replicaSet(o)
	case *appsv1.StatefulSet:
		return statefulSet(o)
	case *appsv1.DaemonSet:
		return daemonSet(o)
	case *appsv1.ControllerRevision:
		return controllerRevision(o)
	case *batchv1.Job:
		return job(o)
	case *batchv1.CronJob:
		return cronJob(o)
	case *autoscalingv2.HorizontalPodAutoscaler:
		return autoscaler(o)
	case *policyv1.PodDisruptionBudget:
		return disruptionBudget(o)
	}
	return createRest(obj)
}

// createRest is Create for the groups around the workloads.
func createRest(obj runtime.Object) field.ErrorList {
	switch o := obj.(type) {
	case *discoveryv1.EndpointSlice:
		return endpointSlice(o)
	case *networkingv1.NetworkPolicy:
		return networkPolicy(o)
	case *networkingv1.Ingress:
		return ingress(o)
	case *networkingv1.IngressClass:
		return ingressClass(o)
	case *rbacv1.Role:
		return role(o)
	case *rbacv1.ClusterRole:
		return clusterRole(o)
	case *rbacv1.RoleBinding:
		return binding(o.RoleRef, o.Subjects, "Role", "ClusterRole")
	case *rbacv1.ClusterRoleBinding:
		return binding(o.RoleRef, o.Subjects, "ClusterRole")
	case *schedulingv1.PriorityClass:
		return priorityClass(o)
	case *storagev1.StorageClass:
		return storageClass(o)
	case *storagev1.CSINode:
		return csiNode(o)
	case *nodev1.RuntimeClass:
		return runtimeClass(o)
	case *coordinationv1.Lease:
		return lease(o)
	case *certificatesv1.CertificateSigningRequest:
		return signingRequest(o)
	case *flowcontrolv1.FlowSchema:
		return flowSchema(o)
	case *flowcontrolv1.PriorityLevelConfiguration:
		return priorityLevel(o)
	case *admissionregistrationv1.ValidatingAdmissionPolicy:
		return admissionPolicy(o)
	case *admissionregistrationv1.ValidatingAdmissionPolicyBinding:
		return admissionPolicyBinding(o)
	case *admissionregistrationv1.MutatingAdmissionPolicy:
		return mutatingPolicy(o)
	case *admissionregistrationv1.MutatingAdmissionPolicyBinding:
		return mutatingPolicyBinding(o)
	case *networkingv1.ServiceCIDR:
		return serviceCIDR(o)
	case *networkingv1.IPAddress:
		return ipAddress(o)
	case *storagev1.CSIDriver:
		return csiDriver(o)
	case *storagev1.CSIStorageCapacity:
		return storageCapacity(o)
	case *storagev1.VolumeAttachment:
		return volumeAttachment(o)
	case *storagev1.VolumeAttributesClass:
		return attributesClass(o)
	case *admissionregistrationv1.ValidatingWebhookConfiguration:
		return validatingWebhooks(o)
	case *admissionregistrationv1.MutatingWebhookConfiguration:
		return mutatingWebhooks(o)
	}
	return nil
}

// Update checks a change of an object: the new state, and that what may not change didn't. Both have one type.
func Update(obj, old runtime.Object) field.ErrorList {
	switch o := obj.(type) {
	case *corev1.Pod:
		return podUpdate(o, old.(*corev1.Pod))
	case *corev1.Service:
		return serviceUpdate(o, old.(*corev1.Service))
	case *corev1.ConfigMap:
		return configMapUpdate(o, old.(*corev1.ConfigMap))
	case *corev1.Secret:
		return secretUpdate(o, old.(*corev1.Secret))
	case *corev1.Node:
		return nodeUpdate(o, old.(*corev1.Node))
	case *corev1.ResourceQuota:
		return resourceQuotaUpdate(o, old.(*corev1.ResourceQuota))
	case *corev1.PersistentVolumeClaim:
		return claimUpdate(o, old.(*corev1.PersistentVolumeClaim))
	case *corev1.PersistentVolume:
		return persistentVolumeUpdate(o, old.(*corev1.PersistentVolume))
	case *appsv1.Deployment:
		return deploymentUpdate(o, old.(*appsv1.Deployment))
	case *appsv1.ReplicaSet:
		return replicaSetUpdate(o, old.(*appsv1.ReplicaSet))
	case *appsv1.StatefulSet:
		return statefulSetUpdate(o, old.(*appsv1.StatefulSet))
	case *appsv1.DaemonSet:
		return daemonSetUpdate(o, old.(*appsv1.DaemonSet))
	case *appsv1.ControllerRevision:
		return controllerRevisionUpdate(o, old.(*appsv1.ControllerRevision))
	case *batchv1.Job:
		return jobUpdate(o, old.(*batchv1.Job))
	case *batchv1.CronJob:
		return cronJobUpdate(o, old.(*batchv1.CronJob))
	case *corev1.Event:
		return nil // events are updated by programs of all ages
	case *discoveryv1.EndpointSlice:
		l := &list{endpointSlice(o)}
		l.immutable(field.NewPath("addressType"), o.AddressType == old.(*discoveryv1.EndpointSlice).AddressType, o.AddressType)
		return l.ErrorList
	case *rbacv1.RoleBinding:
		return append(Create(obj), bindingUpdate(o.RoleRef, old.(*rbacv1.RoleBinding).RoleRef)...)
	case *rbacv1.ClusterRoleBinding:
		return append(Create(obj), bindingUpdate(o.RoleRef, old.(*rbacv1.ClusterRoleBinding).RoleRef)...)
	case *schedulingv1.PriorityClass:
		return priorityClassUpdate(o, old.(*schedulingv1.PriorityClass))
	case *storagev1.StorageClass:
		return storageClassUpdate(o, old.(*storagev1.StorageClass))
	case *storagev1.VolumeAttributesClass:
		return attributesClassUpdate(o, old.(*storagev1.VolumeAttributesClass))
	case *nodev1.RuntimeClass:
		return runtimeClassUpdate(o, old.(*nodev1.RuntimeClass))
	}
	return Create(obj)
}

// Status checks a change of an object's status.
func Status(obj, old runtime.Object) field.ErrorList {
	if p, ok := obj.(*corev1.Pod); ok {
		return podStatusUpdate(p, old.(*corev1.Pod))
	}
	return nil
}
