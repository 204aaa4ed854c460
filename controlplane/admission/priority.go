package admission

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	schedulinglisters "k8s.io/client-go/listers/scheduling/v1"
)

// priority resolves a pod's priority class to its number and preemption policy, and keeps the cluster to one default
// class.
type priority struct {
	classes schedulinglisters.PriorityClassLister
	client  kubernetes.Interface
	synced  func() bool
}

var (
	_ admission.MutationInterface   = (*priority)(nil)
	_ admission.ValidationInterface = (*priority)(nil)
)

func (*priority) Handles(op admission.Operation) bool {
	return op == admission.Create || op == admission.Update
}

func (p *priority) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	i := f.Scheduling().V1().PriorityClasses()
	p.classes, p.synced = i.Lister(), i.Informer().HasSynced
}

func (p *priority) SetExternalKubeClientSet(c kubernetes.Interface) { p.client = c }

func (p *priority) ValidateInitialization() error {
	if p.classes == nil || p.client == nil {
		return errors.New("the priority class informer and client are not set")
	}
	return nil
}

func (p *priority) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod := admittedPod(a)
	if pod == nil {
		return nil
	}
	if a.GetOperation() == admission.Update {
		// Immutable, but an old client leaves out what it doesn't know.
		if old, ok := a.GetOldObject().(*corev1.Pod); ok && pod.Spec.Priority == nil {
			pod.Spec.Priority = old.Spec.Priority
		}
		return nil
	}
	value, name, policy := int32(0), "", corev1.PreemptLowerPriority
	if pod.Spec.PriorityClassName != "" {
		if len(content.IsPathSegmentName(pod.Spec.PriorityClassName)) > 0 { // no such object can be
			return admission.NewForbidden(a, fmt.Errorf("no PriorityClass with name %v was found", pod.Spec.PriorityClassName))
		}
		class, err := p.get(ctx, pod.Spec.PriorityClassName)
		if apierrors.IsNotFound(err) {
			return admission.NewForbidden(a, fmt.Errorf("no PriorityClass with name %v was found", pod.Spec.PriorityClassName))
		}
		if err != nil {
			return fmt.Errorf("look up priority class: %w", err)
		}
		value, name, policy = class.Value, class.Name, preemption(class)
	} else if class, err := p.defaultClass(); err != nil {
		return err
	} else if class != nil {
		value, name, policy = class.Value, class.Name, preemption(class)
	}
	if pod.Spec.Priority != nil && *pod.Spec.Priority != value {
		return admission.NewForbidden(a, fmt.Errorf("the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *pod.Spec.Priority, value))
	}
	if pod.Spec.PreemptionPolicy != nil && *pod.Spec.PreemptionPolicy != policy {
		return admission.NewForbidden(a, fmt.Errorf("the string value of PreemptionPolicy (%s) must not be provided in pod spec; priority admission controller computed %s from the given PriorityClass name", *pod.Spec.PreemptionPolicy, policy))
	}
	pod.Spec.Priority, pod.Spec.PriorityClassName, pod.Spec.PreemptionPolicy = &value, name, &policy
	return nil
}

// get asks the cache and then, for a class made a moment ago, the server.
func (p *priority) get(ctx context.Context, name string) (*schedulingv1.PriorityClass, error) {
	class, err := p.classes.Get(name)
	if apierrors.IsNotFound(err) {
		return p.client.SchedulingV1().PriorityClasses().Get(ctx, name, getOptions)
	}
	return class, err
}

// defaultClass is the one marked as default; if there are several, the one with the lowest value, as upstream picks.
func (p *priority) defaultClass() (*schedulingv1.PriorityClass, error) {
	list, err := p.classes.List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("list priority classes: %w", err)
	}
	var found *schedulingv1.PriorityClass
	for _, c := range list {
		if c.GlobalDefault && (found == nil || c.Value < found.Value) {
			found = c
		}
	}
	return found, nil
}

func preemption(c *schedulingv1.PriorityClass) corev1.PreemptionPolicy {
	if c.PreemptionPolicy == nil {
		return corev1.PreemptLowerPriority
	}
	return *c.PreemptionPolicy
}

func (p *priority) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	class, ok := a.GetObject().(*schedulingv1.PriorityClass)
	if !ok || !on(a, schedulingv1.GroupName, "priorityclasses", "") || !class.GlobalDefault {
		return nil
	}
	def, err := p.defaultClass()
	if err != nil {
		return err
	}
	if def != nil && def.Name != class.Name {
		return admission.NewForbidden(a, fmt.Errorf("PriorityClass %v is already marked as default. Only one default can exist", def.Name))
	}
	return nil
}
