package replicaset

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/mote-edge/mote/controlplane/controllers/owned"
)

// set is what ReplicaSets and ReplicationControllers have in common. It shares the cached object's memory: read only.
type set struct {
	obj              owned.Object
	selector         labels.Selector
	replicas         int32
	minReady         int32
	template         *corev1.PodTemplateSpec
	status           appsv1.ReplicaSetStatus
	countTerminating bool
}

// kind is one of the two resources.
type kind interface {
	gvk() schema.GroupVersionKind
	informer() cache.SharedIndexInformer
	// get returns a cached set; its errors satisfy apierrors.IsNotFound when there is none.
	get(key types.NamespacedName) (*set, error)
	// in lists the cached sets of a namespace.
	in(namespace string) []*set
	live(ctx context.Context, key types.NamespacedName) (metav1.Object, error)
	writeStatus(ctx context.Context, s *set, status appsv1.ReplicaSetStatus) error
}

// replicaSets is the kind apps/v1 ReplicaSet.
type replicaSets struct {
	client kubernetes.Interface
	inf    cache.SharedIndexInformer
	lister appslisters.ReplicaSetLister
}

var _ kind = (*replicaSets)(nil)

func newReplicaSets(client kubernetes.Interface, f informers.SharedInformerFactory) *replicaSets {
	i := f.Apps().V1().ReplicaSets()
	return &replicaSets{client: client, inf: i.Informer(), lister: i.Lister()}
}

func (k *replicaSets) gvk() schema.GroupVersionKind {
	return appsv1.SchemeGroupVersion.WithKind("ReplicaSet")
}
func (k *replicaSets) informer() cache.SharedIndexInformer { return k.inf }

func (k *replicaSets) get(key types.NamespacedName) (*set, error) {
	rs, err := k.lister.ReplicaSets(key.Namespace).Get(key.Name)
	if err != nil {
		return nil, err
	}
	return k.view(rs)
}

func (k *replicaSets) view(rs *appsv1.ReplicaSet) (*set, error) {
	sel, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	if err != nil {
		return nil, fmt.Errorf("selector of ReplicaSet %s/%s: %w", rs.Namespace, rs.Name, err)
	}
	return &set{
		obj: rs, selector: sel, replicas: orOne(rs.Spec.Replicas), minReady: rs.Spec.MinReadySeconds,
		template: &rs.Spec.Template, status: rs.Status, countTerminating: true,
	}, nil
}

func (k *replicaSets) in(namespace string) []*set {
	all, err := k.lister.ReplicaSets(namespace).List(labels.Everything())
	if err != nil {
		return nil
	}
	out := make([]*set, 0, len(all))
	for _, rs := range all {
		if s, err := k.view(rs); err == nil {
			out = append(out, s)
		}
	}
	return out
}

func (k *replicaSets) live(ctx context.Context, key types.NamespacedName) (metav1.Object, error) {
	return k.client.AppsV1().ReplicaSets(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
}

func (k *replicaSets) writeStatus(ctx context.Context, s *set, status appsv1.ReplicaSetStatus) error {
	rs := s.obj.(*appsv1.ReplicaSet).DeepCopy() // made by view
	rs.Status = status
	_, err := k.client.AppsV1().ReplicaSets(rs.Namespace).UpdateStatus(ctx, rs, metav1.UpdateOptions{})
	return err
}

// replicationControllers is the kind v1 ReplicationController.
type replicationControllers struct {
	client kubernetes.Interface
	inf    cache.SharedIndexInformer
	lister corelisters.ReplicationControllerLister
}

var _ kind = (*replicationControllers)(nil)

func newReplicationControllers(client kubernetes.Interface, f informers.SharedInformerFactory) *replicationControllers {
	i := f.Core().V1().ReplicationControllers()
	return &replicationControllers{client: client, inf: i.Informer(), lister: i.Lister()}
}

func (k *replicationControllers) gvk() schema.GroupVersionKind {
	return corev1.SchemeGroupVersion.WithKind("ReplicationController")
}
func (k *replicationControllers) informer() cache.SharedIndexInformer { return k.inf }

func (k *replicationControllers) get(key types.NamespacedName) (*set, error) {
	rc, err := k.lister.ReplicationControllers(key.Namespace).Get(key.Name)
	if err != nil {
		return nil, err
	}
	return k.view(rc), nil
}

func (k *replicationControllers) view(rc *corev1.ReplicationController) *set {
	sel := labels.Nothing()
	if len(rc.Spec.Selector) > 0 {
		sel = labels.SelectorFromSet(rc.Spec.Selector)
	}
	template := rc.Spec.Template
	if template == nil {
		template = &corev1.PodTemplateSpec{}
	}
	st := appsv1.ReplicaSetStatus{
		Replicas: rc.Status.Replicas, FullyLabeledReplicas: rc.Status.FullyLabeledReplicas,
		ReadyReplicas: rc.Status.ReadyReplicas, AvailableReplicas: rc.Status.AvailableReplicas,
		ObservedGeneration: rc.Status.ObservedGeneration,
	}
	for _, c := range rc.Status.Conditions {
		st.Conditions = append(st.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetConditionType(c.Type), Status: c.Status,
			LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	return &set{
		obj: rc, selector: sel, replicas: orOne(rc.Spec.Replicas), minReady: rc.Spec.MinReadySeconds,
		template: template, status: st,
	}
}

func (k *replicationControllers) in(namespace string) []*set {
	all, err := k.lister.ReplicationControllers(namespace).List(labels.Everything())
	if err != nil {
		return nil
	}
	out := make([]*set, 0, len(all))
	for _, rc := range all {
		out = append(out, k.view(rc))
	}
	return out
}

func (k *replicationControllers) live(ctx context.Context, key types.NamespacedName) (metav1.Object, error) {
	return k.client.CoreV1().ReplicationControllers(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
}

func (k *replicationControllers) writeStatus(ctx context.Context, s *set, st appsv1.ReplicaSetStatus) error {
	rc := s.obj.(*corev1.ReplicationController).DeepCopy() // made by view
	rc.Status = corev1.ReplicationControllerStatus{
		Replicas: st.Replicas, FullyLabeledReplicas: st.FullyLabeledReplicas, ReadyReplicas: st.ReadyReplicas,
		AvailableReplicas: st.AvailableReplicas, ObservedGeneration: st.ObservedGeneration,
	}
	for _, c := range st.Conditions {
		rc.Status.Conditions = append(rc.Status.Conditions, corev1.ReplicationControllerCondition{
			Type: corev1.ReplicationControllerConditionType(c.Type), Status: c.Status,
			LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	_, err := k.client.CoreV1().ReplicationControllers(rc.Namespace).UpdateStatus(ctx, rc, metav1.UpdateOptions{})
	return err
}

func orOne(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}
