// Package admission holds the admission plugins that Mote's API server has beside those of k8s.io/apiserver: what is
// defaulted or refused by looking at other objects. Each file is one plugin, named as upstream names it, since users
// name them in flags and see them in error messages.
//
// Reads:  service accounts, priority classes, limit ranges, namespaces, nodes, pods, storage, ingress and runtime
// classes, through the shared informers.
// Writes: the object that is being admitted.
package admission

import (
	"io"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle"
	mutatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	validatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	mutatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/mutating"
	validatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/validating"
)

// Names of the plugins of this package.
const (
	LimitRanger                  = "LimitRanger"
	ServiceAccount               = "ServiceAccount"
	NodeRestriction              = "NodeRestriction"
	TaintNodesByCondition        = "TaintNodesByCondition"
	PodSecurity                  = "PodSecurity"
	Priority                     = "Priority"
	DefaultTolerationSeconds     = "DefaultTolerationSeconds"
	DefaultStorageClass          = "DefaultStorageClass"
	StorageObjectInUseProtection = "StorageObjectInUseProtection"
	PersistentVolumeClaimResize  = "PersistentVolumeClaimResize"
	RuntimeClass                 = "RuntimeClass"
	CertificateApproval          = "CertificateApproval"
	CertificateSigning           = "CertificateSigning"
	CertificateSubjectRestrict   = "CertificateSubjectRestriction"
	DefaultIngressClass          = "DefaultIngressClass"
	PodTopologyLabels            = "PodTopologyLabels"
	NodeDeclaredFeatureValidator = "NodeDeclaredFeatureValidator"
)

// Order is the order in which plugins run: what fills in comes before what judges, quota comes last because it counts.
func Order() []string {
	return []string{
		lifecycle.PluginName, LimitRanger, ServiceAccount, NodeRestriction, TaintNodesByCondition, PodSecurity, Priority,
		DefaultTolerationSeconds, DefaultStorageClass, StorageObjectInUseProtection, PersistentVolumeClaimResize, RuntimeClass,
		CertificateApproval, CertificateSigning, CertificateSubjectRestrict, DefaultIngressClass, PodTopologyLabels,
		NodeDeclaredFeatureValidator, mutatingpolicy.PluginName, mutatingwebhook.PluginName, validatingpolicy.PluginName, validatingwebhook.PluginName, resourcequota.PluginName,
	}
}

// RegisterAll registers every plugin that Order names, the library's included.
func RegisterAll(p *admission.Plugins) {
	lifecycle.Register(p)
	mutatingpolicy.Register(p)
	mutatingwebhook.Register(p)
	validatingpolicy.Register(p)
	validatingwebhook.Register(p)
	resourcequota.Register(p)
	for name, create := range map[string]func() (admission.Interface, error){
		LimitRanger:                  func() (admission.Interface, error) { return &limitRanger{}, nil },
		ServiceAccount:               func() (admission.Interface, error) { return &serviceAccount{}, nil },
		NodeRestriction:              func() (admission.Interface, error) { return &nodeRestriction{}, nil },
		TaintNodesByCondition:        func() (admission.Interface, error) { return taintNodes{}, nil },
		PodSecurity:                  newPodSecurity,
		Priority:                     func() (admission.Interface, error) { return &priority{}, nil },
		DefaultTolerationSeconds:     func() (admission.Interface, error) { return defaultTolerations{}, nil },
		DefaultStorageClass:          func() (admission.Interface, error) { return &defaultStorageClass{}, nil },
		StorageObjectInUseProtection: func() (admission.Interface, error) { return storageProtection{}, nil },
		PersistentVolumeClaimResize:  func() (admission.Interface, error) { return &claimResize{}, nil },
		RuntimeClass:                 func() (admission.Interface, error) { return &runtimeClass{}, nil },
		CertificateApproval: func() (admission.Interface, error) {
			return &certificateVerb{verb: "approve", subresource: "approval"}, nil
		},
		CertificateSigning:           func() (admission.Interface, error) { return &certificateVerb{verb: "sign", subresource: "status"}, nil },
		CertificateSubjectRestrict:   func() (admission.Interface, error) { return subjectRestriction{}, nil },
		DefaultIngressClass:          func() (admission.Interface, error) { return &defaultIngressClass{}, nil },
		PodTopologyLabels:            func() (admission.Interface, error) { return &topologyLabels{}, nil },
		NodeDeclaredFeatureValidator: func() (admission.Interface, error) { return &declaredFeatures{}, nil },
	} {
		p.Register(name, func(io.Reader) (admission.Interface, error) { return create() })
	}
}

// on reports whether a request is about this resource and subresource ("" for the object itself).
func on(a admission.Attributes, group, resource, subresource string) bool {
	return a.GetResource().GroupResource() == schema.GroupResource{Group: group, Resource: resource} && a.GetSubresource() == subresource
}

// admittedPod returns the pod of a request about a pod itself, or nil.
func admittedPod(a admission.Attributes) *corev1.Pod {
	if !on(a, "", "pods", "") {
		return nil
	}
	pod, _ := a.GetObject().(*corev1.Pod)
	return pod
}
