package admission

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	nodelisters "k8s.io/client-go/listers/node/v1"
)

// runtimeClass applies a runtime class's overhead and scheduling constraints to its pods.
type runtimeClass struct {
	client  kubernetes.Interface
	classes nodelisters.RuntimeClassLister
}

var (
	_ admission.MutationInterface   = (*runtimeClass)(nil)
	_ admission.ValidationInterface = (*runtimeClass)(nil)
)

func (*runtimeClass) Handles(op admission.Operation) bool { return op == admission.Create }

func (r *runtimeClass) SetExternalKubeClientSet(c kubernetes.Interface) { r.client = c }

func (r *runtimeClass) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	i := f.Node().V1().RuntimeClasses()
	i.Informer()
	r.classes = i.Lister()
}

func (r *runtimeClass) ValidateInitialization() error {
	if r.client == nil || r.classes == nil {
		return errors.New("the runtime class informer and client are not set")
	}
	return nil
}

func (r *runtimeClass) get(ctx context.Context, a admission.Attributes, pod *corev1.Pod) (*nodev1.RuntimeClass, error) {
	if pod.Spec.RuntimeClassName == nil {
		return nil, nil
	}
	class, err := r.classes.Get(*pod.Spec.RuntimeClassName)
	if apierrors.IsNotFound(err) {
		class, err = r.client.NodeV1().RuntimeClasses().Get(ctx, *pod.Spec.RuntimeClassName, getOptions)
	}
	if apierrors.IsNotFound(err) {
		return nil, admission.NewForbidden(a, fmt.Errorf("pod rejected: RuntimeClass %q not found", *pod.Spec.RuntimeClassName))
	}
	return class, err
}

func (r *runtimeClass) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod := admittedPod(a)
	if pod == nil {
		return nil
	}
	class, err := r.get(ctx, a, pod)
	if err != nil || class == nil {
		return err
	}
	if class.Overhead != nil {
		if len(pod.Spec.Overhead) > 0 && !apiequality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead) {
			return admission.NewForbidden(a, fmt.Errorf("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"))
		}
		pod.Spec.Overhead = class.Overhead.PodFixed.DeepCopy()
	}
	if class.Scheduling == nil {
		return nil
	}
	for k, v := range class.Scheduling.NodeSelector {
		if have, ok := pod.Spec.NodeSelector[k]; ok && have != v {
			return admission.NewForbidden(a, fmt.Errorf("conflict: runtimeClass.scheduling.nodeSelector[%s] = %s; pod.spec.nodeSelector[%s] = %s", k, v, k, have))
		}
		if pod.Spec.NodeSelector == nil {
			pod.Spec.NodeSelector = map[string]string{}
		}
		pod.Spec.NodeSelector[k] = v
	}
	for _, t := range class.Scheduling.Tolerations {
		dup := false
		for _, have := range pod.Spec.Tolerations {
			dup = dup || apiequality.Semantic.DeepEqual(have, t)
		}
		if !dup {
			pod.Spec.Tolerations = append(pod.Spec.Tolerations, t)
		}
	}
	return nil
}

func (r *runtimeClass) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod := admittedPod(a)
	if pod == nil {
		return nil
	}
	class, err := r.get(ctx, a, pod)
	if err != nil {
		return err
	}
	switch {
	case class != nil && class.Overhead != nil && !apiequality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead):
		return admission.NewForbidden(a, errors.New("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"))
	case (class == nil || class.Overhead == nil) && len(pod.Spec.Overhead) > 0:
		return admission.NewForbidden(a, errors.New("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"))
	}
	return nil
}
