package owned

import (
	"context"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"
)

// Event reasons about pods, on their owner.
const (
	ReasonCreated      = "SuccessfulCreate"
	ReasonCreateFailed = "FailedCreate"
	ReasonDeleted      = "SuccessfulDelete"
	ReasonDeleteFailed = "FailedDelete"
)

// Object is an API object that owns pods.
type Object interface {
	runtime.Object
	metav1.Object
}

// Pods writes the pods of the owners of one controller, and remembers what it wrote until the cache shows it.
type Pods struct {
	Client   kubernetes.Interface
	Lister   corelisters.PodLister
	Recorder record.EventRecorder
	*Pending
}

// Create creates a pod of the owner. The failure is told in an event, unless the namespace is being deleted.
func (p *Pods) Create(ctx context.Context, owner Object, pod *corev1.Pod) (*corev1.Pod, error) {
	created, err := p.Client.CoreV1().Pods(owner.GetNamespace()).Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			p.Recorder.Eventf(owner, corev1.EventTypeWarning, ReasonCreateFailed, "Error creating: %v", err)
		}
		return nil, err
	}
	p.Created(owner.GetUID(), created.UID, types.NamespacedName{Namespace: created.Namespace, Name: created.Name})
	p.Recorder.Eventf(owner, corev1.EventTypeNormal, ReasonCreated, "Created pod: %v", created.Name)
	return created, nil
}

// Delete deletes a pod of the owner, gracefully. A pod that is gone is no error.
func (p *Pods) Delete(ctx context.Context, owner Object, pod *corev1.Pod) error {
	err := p.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &pod.UID},
	})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) { // Conflict: another pod has the name now
		return nil
	}
	if err != nil {
		p.Recorder.Eventf(owner, corev1.EventTypeWarning, ReasonDeleteFailed, "Error deleting: %v", err)
		return fmt.Errorf("unable to delete pods: %w", err)
	}
	p.Deleted(owner.GetUID(), pod.UID, types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name})
	p.Recorder.Eventf(owner, corev1.EventTypeNormal, ReasonDeleted, "Deleted pod: %v", pod.Name)
	return nil
}

// Patch applies a strategic merge patch to a pod.
func (p *Pods) Patch(ctx context.Context, pod *corev1.Pod, patch []byte) error {
	_, err := p.Client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	return err
}

// Look tells what the cache shows of a pod, for Pending.Settled.
func (p *Pods) Look(key types.NamespacedName) Sight {
	pod, err := p.Lister.Pods(key.Namespace).Get(key.Name)
	if err != nil {
		return Sight{}
	}
	return Sight{UID: pod.UID, Deleting: pod.DeletionTimestamp != nil}
}

// FromTemplate makes a pod as the template says, controlled by the owner, its name to be generated from the owner's.
func FromTemplate(t *corev1.PodTemplateSpec, owner metav1.Object, kind schema.GroupVersionKind) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName:    namePrefix(owner.GetName()),
			Namespace:       owner.GetNamespace(),
			Labels:          maps.Clone(t.Labels),
			Annotations:     maps.Clone(t.Annotations),
			Finalizers:      slices.Clone(t.Finalizers),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, kind)},
		},
		Spec: *t.Spec.DeepCopy(),
	}
}

// namePrefix ends in a dash, unless that would make no valid name (the owner's ends at the length limit).
func namePrefix(owner string) string {
	if prefix := owner + "-"; len(validation.IsDNS1123Subdomain(prefix+"a")) == 0 {
		return prefix
	}
	return owner
}
