package admission

import (
	"context"
	"errors"
	"fmt"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	podsecurity "k8s.io/pod-security-admission/admission"
	podsecurityconfig "k8s.io/pod-security-admission/admission/api"
	podsecurityapi "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/metrics"
	"k8s.io/pod-security-admission/policy"
)

// podSecurity enforces the Pod Security Standards that a namespace's labels name; the checks are upstream's library.
type podSecurity struct {
	check      *podsecurity.Admission
	client     kubernetes.Interface
	namespaces corelisters.NamespaceLister
	pods       corelisters.PodLister
}

var _ admission.ValidationInterface = (*podSecurity)(nil)

func newPodSecurity() (admission.Interface, error) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return nil, fmt.Errorf("pod security checks: %w", err)
	}
	level := string(podsecurityapi.LevelPrivileged)
	return &podSecurity{check: &podsecurity.Admission{
		Configuration: &podsecurityconfig.PodSecurityConfiguration{Defaults: podsecurityconfig.PodSecurityDefaults{
			Enforce: level, EnforceVersion: podsecurityapi.VersionLatest, Audit: level, AuditVersion: podsecurityapi.VersionLatest,
			Warn: level, WarnVersion: podsecurityapi.VersionLatest,
		}},
		Evaluator: evaluator, Metrics: noMetrics{}, PodSpecExtractor: podsecurity.DefaultPodSpecExtractor{},
	}}, nil
}

func (*podSecurity) Handles(op admission.Operation) bool {
	return op == admission.Create || op == admission.Update
}

func (p *podSecurity) SetExternalKubeClientSet(c kubernetes.Interface) { p.client = c }

func (p *podSecurity) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	f.Core().V1().Namespaces().Informer()
	p.namespaces, p.pods = f.Core().V1().Namespaces().Lister(), f.Core().V1().Pods().Lister()
}

func (p *podSecurity) ValidateInitialization() error {
	if p.client == nil || p.namespaces == nil {
		return errors.New("the namespace informer and client are not set")
	}
	p.check.NamespaceGetter = podsecurity.NamespaceGetterFromListerAndClient(p.namespaces, p.client)
	p.check.PodLister = podsecurity.PodListerFromInformer(p.pods)
	if err := p.check.CompleteConfiguration(); err != nil {
		return fmt.Errorf("pod security: %w", err)
	}
	return p.check.ValidateConfiguration()
}

func (p *podSecurity) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	gr := a.GetResource().GroupResource()
	if gr != (schema.GroupResource{Resource: "namespaces"}) && !p.check.PodSpecExtractor.HasPodSpec(gr) {
		return nil
	}
	result := p.check.Validate(ctx, podSecurityAttributes{a})
	for _, w := range result.Warnings {
		warning.AddWarning(ctx, "", w)
	}
	for k, v := range result.AuditAnnotations {
		audit.AddAuditAnnotation(ctx, podsecurityapi.AuditAnnotationPrefix+k, v)
	}
	if result.Allowed {
		return nil
	}
	// The library words its refusals; they only need the request's name in front.
	forbidden := admission.NewForbidden(a, errors.New("not allowed by pod security policy"))
	var status *apierrors.StatusError
	if result.Result != nil && errors.As(forbidden, &status) {
		status.ErrStatus.Message = fmt.Sprintf("%s %q is forbidden: %s", gr.String(), a.GetName(), result.Result.Message)
		status.ErrStatus.Reason, status.ErrStatus.Code = result.Result.Reason, result.Result.Code
		if d := result.Result.Details; d != nil && status.ErrStatus.Details != nil {
			status.ErrStatus.Details.Causes = append(status.ErrStatus.Details.Causes, d.Causes...)
		}
	}
	return forbidden
}

// podSecurityAttributes shows a request to the library. The stored types are the published v1 ones, which is what it
// wants.
type podSecurityAttributes struct{ admission.Attributes }

func (a podSecurityAttributes) GetOperation() admissionv1.Operation {
	return admissionv1.Operation(a.Attributes.GetOperation())
}
func (a podSecurityAttributes) GetUserName() string { return a.GetUserInfo().GetName() }
func (a podSecurityAttributes) GetObject() (runtime.Object, error) {
	return a.Attributes.GetObject(), nil
}

func (a podSecurityAttributes) GetOldObject() (runtime.Object, error) {
	return a.Attributes.GetOldObject(), nil
}

// noMetrics: the library counts every evaluation in a vector of its own; nobody scrapes it here.
type noMetrics struct{}

func (noMetrics) RecordEvaluation(metrics.Decision, podsecurityapi.LevelVersion, metrics.Mode, podsecurityapi.Attributes) {
}
func (noMetrics) RecordExemption(podsecurityapi.Attributes)   {}
func (noMetrics) RecordError(bool, podsecurityapi.Attributes) {}

var _ podsecurityapi.Attributes = podSecurityAttributes{}

// The pod type that the library reads must stay the stored one.
var _ runtime.Object = (*corev1.Pod)(nil)
