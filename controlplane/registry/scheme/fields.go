package scheme

import (
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// fieldLabels maps the field selector labels that a kind accepts to the label
// its storage knows. Kinds that are not here accept metadata.name and
// metadata.namespace.
var fieldLabels = map[schema.GroupVersionKind]map[string]string{
	corev1.SchemeGroupVersion.WithKind("Pod"): aliases(same("metadata.name", "metadata.namespace",
		"spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
		"status.phase", "status.podIP", "status.podIPs", "status.nominatedNodeName"),
		// What clients older than v1 sent.
		map[string]string{"spec.host": "spec.nodeName"}),
	corev1.SchemeGroupVersion.WithKind("Node"):                  same("metadata.name", "spec.unschedulable"),
	corev1.SchemeGroupVersion.WithKind("ReplicationController"): same("metadata.name", "metadata.namespace", "status.replicas"),
	corev1.SchemeGroupVersion.WithKind("Event"): same("metadata.name", "metadata.namespace",
		"involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
		"involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath",
		"reason", "reportingComponent", "source", "type"),
	corev1.SchemeGroupVersion.WithKind("Namespace"): same("metadata.name", "status.phase"),
	corev1.SchemeGroupVersion.WithKind("Secret"):    same("metadata.name", "metadata.namespace", "type"),
	corev1.SchemeGroupVersion.WithKind("Service"):   same("metadata.name", "metadata.namespace", "spec.clusterIP", "spec.type"),
	eventsv1.SchemeGroupVersion.WithKind("Event"): aliases(same("metadata.name", "metadata.namespace", "reason", "type"),
		map[string]string{
			"regarding.kind":            "involvedObject.kind",
			"regarding.namespace":       "involvedObject.namespace",
			"regarding.name":            "involvedObject.name",
			"regarding.uid":             "involvedObject.uid",
			"regarding.apiVersion":      "involvedObject.apiVersion",
			"regarding.resourceVersion": "involvedObject.resourceVersion",
			"regarding.fieldPath":       "involvedObject.fieldPath",
			"reportingController":       "reportingComponent",
		}),
	batchv1.SchemeGroupVersion.WithKind("Job"):                              same("metadata.name", "metadata.namespace", "status.successful"),
	certificatesv1.SchemeGroupVersion.WithKind("CertificateSigningRequest"): same("metadata.name", "spec.signerName"),
	certificatesv1.SchemeGroupVersion.WithKind("ClusterTrustBundle"):        same("metadata.name", "spec.signerName"),
	certificatesv1.SchemeGroupVersion.WithKind("PodCertificateRequest"): same("metadata.name", "metadata.namespace",
		"spec.signerName", "spec.podName", "spec.nodeName"),
	resourcev1.SchemeGroupVersion.WithKind("ResourceSlice"): same("metadata.name", resourcev1.ResourceSliceSelectorNodeName,
		resourcev1.ResourceSliceSelectorDriver, resourcev1.ResourceSliceSelectorPoolName),
}

func addFieldLabels(s *runtime.Scheme) error {
	for gvk, labels := range fieldLabels {
		err := s.AddFieldLabelConversionFunc(gvk, func(label, value string) (string, string, error) {
			if stored, ok := labels[label]; ok {
				return stored, value, nil
			}
			return "", "", fmt.Errorf("field label not supported: %s", label)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func same(labels ...string) map[string]string {
	m := make(map[string]string, len(labels))
	for _, l := range labels {
		m[l] = l
	}
	return m
}

func aliases(m, more map[string]string) map[string]string {
	for k, v := range more {
		m[k] = v
	}
	return m
}
