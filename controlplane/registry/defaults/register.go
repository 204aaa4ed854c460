// Package defaults fills in what a client may leave out, as the Kubernetes API reference documents it for 1.37. Every
// function works in place on a published k8s.io/api type, is pure, and changes nothing when applied again.
//
// Reads:  nothing.
// Writes: the object it is given.
package defaults

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Register teaches the scheme every defaulting function, for objects and for lists of them.
func Register(s *runtime.Scheme) error {
	on(s, &corev1.Pod{}, Pod)
	onList(s, &corev1.PodList{}, func(l *corev1.PodList) []corev1.Pod { return l.Items }, Pod)
	on(s, &corev1.PodTemplate{}, PodTemplate)
	on(s, &corev1.Service{}, Service)
	onList(s, &corev1.ServiceList{}, func(l *corev1.ServiceList) []corev1.Service { return l.Items }, Service)
	on(s, &corev1.Endpoints{}, Endpoints)
	on(s, &corev1.Namespace{}, Namespace)
	on(s, &corev1.Node{}, Node)
	on(s, &corev1.Secret{}, Secret)
	on(s, &corev1.PersistentVolume{}, PersistentVolume)
	on(s, &corev1.PersistentVolumeClaim{}, PersistentVolumeClaim)
	on(s, &corev1.LimitRange{}, LimitRange)
	on(s, &corev1.ReplicationController{}, ReplicationController)

	on(s, &appsv1.Deployment{}, Deployment)
	on(s, &appsv1.ReplicaSet{}, ReplicaSet)
	on(s, &appsv1.StatefulSet{}, StatefulSet)
	on(s, &appsv1.DaemonSet{}, DaemonSet)
	on(s, &batchv1.Job{}, Job)
	on(s, &batchv1.CronJob{}, CronJob)
	on(s, &autoscalingv1.HorizontalPodAutoscaler{}, HorizontalPodAutoscalerV1)
	on(s, &autoscalingv2.HorizontalPodAutoscaler{}, HorizontalPodAutoscaler)

	on(s, &networkingv1.NetworkPolicy{}, NetworkPolicy)
	on(s, &networkingv1.IngressClass{}, IngressClass)
	on(s, &discoveryv1.EndpointSlice{}, EndpointSlice)
	on(s, &rbacv1.RoleBinding{}, RoleBinding)
	on(s, &rbacv1.ClusterRoleBinding{}, ClusterRoleBinding)
	on(s, &storagev1.StorageClass{}, StorageClass)
	on(s, &storagev1.CSIDriver{}, CSIDriver)
	on(s, &schedulingv1.PriorityClass{}, PriorityClass)
	on(s, &admissionregistrationv1.ValidatingWebhookConfiguration{}, ValidatingWebhookConfiguration)
	on(s, &admissionregistrationv1.MutatingWebhookConfiguration{}, MutatingWebhookConfiguration)
	on(s, &admissionregistrationv1.ValidatingAdmissionPolicy{}, ValidatingAdmissionPolicy)
	on(s, &admissionregistrationv1.ValidatingAdmissionPolicyBinding{}, ValidatingAdmissionPolicyBinding)
	on(s, &admissionregistrationv1.MutatingAdmissionPolicy{}, MutatingAdmissionPolicy)
	on(s, &admissionregistrationv1.MutatingAdmissionPolicyBinding{}, MutatingAdmissionPolicyBinding)
	on(s, &resourcev1.ResourceClaim{}, ResourceClaim)
	on(s, &resourcev1.ResourceClaimTemplate{}, ResourceClaimTemplate)
	on(s, &resourcev1.ResourceSlice{}, ResourceSlice)
	on(s, &resourcev1.DeviceTaintRule{}, DeviceTaintRule)
	on(s, &flowcontrolv1.FlowSchema{}, FlowSchema)
	on(s, &flowcontrolv1.PriorityLevelConfiguration{}, PriorityLevelConfiguration)
	return nil
}

func on[T runtime.Object](s *runtime.Scheme, example T, f func(T)) {
	s.AddTypeDefaultingFunc(example, func(obj any) { f(obj.(T)) })
}

func onList[L runtime.Object, T any](s *runtime.Scheme, example L, items func(L) []T, f func(*T)) {
	s.AddTypeDefaultingFunc(example, func(obj any) {
		list := items(obj.(L))
		for i := range list {
			f(&list[i])
		}
	})
}

// unset gives a pointer field its default.
func unset[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}

// zero gives a plain field its default.
func zero[T comparable](field *T, value T) {
	var none T
	if *field == none {
		*field = value
	}
}
