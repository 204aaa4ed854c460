package disruption

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/mote-edge/mote/controlplane/controllers/deletable"
	"github.com/mote-edge/mote/controlplane/controllers/keyqueue"
)

// scales finds out how many pods a controller wants: the built-in ones from the caches, any other through its scale
// subresource.
type scales struct {
	client      kubernetes.Interface
	discovery   discovery.DiscoveryInterface
	deployments appslisters.DeploymentLister
	sets        appslisters.ReplicaSetLister
	stateful    appslisters.StatefulSetLister
	controllers corelisters.ReplicationControllerLister
	informers   [4]cache.SharedIndexInformer
	synced      []cache.InformerSynced
}

func newScales(cfg Config) *scales {
	apps, core := cfg.Informers.Apps().V1(), cfg.Informers.Core().V1()
	s := &scales{
		client: cfg.Client, discovery: cfg.Discovery,
		deployments: apps.Deployments().Lister(), sets: apps.ReplicaSets().Lister(),
		stateful: apps.StatefulSets().Lister(), controllers: core.ReplicationControllers().Lister(),
		informers: [4]cache.SharedIndexInformer{
			apps.Deployments().Informer(), apps.ReplicaSets().Informer(), apps.StatefulSets().Informer(), core.ReplicationControllers().Informer(),
		},
	}
	for _, i := range s.informers {
		s.synced = append(s.synced, i.HasSynced)
	}
	return s
}

// watch reports the namespaces in which a controller wants another number of pods than before.
func (s *scales) watch(changed func(namespace string)) error {
	for _, i := range s.informers {
		_, err := keyqueue.WatchChanges(i, func(old, now metav1.Object, gone bool) {
			if old != nil && !gone && old.GetGeneration() == now.GetGeneration() {
				return
			}
			changed(now.GetNamespace())
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// sum adds up what the controllers of some pods want, each once. alone says that a pod has no controller.
func (s *scales) sum(ctx context.Context, pods []*corev1.Pod) (sum int, alone bool, err error) {
	counted := map[types.UID]bool{}
	for _, p := range pods {
		ref := metav1.GetControllerOfNoCopy(p)
		if ref == nil {
			alone = true
			continue
		}
		uid, n, err := s.of(ctx, p.Namespace, *ref)
		if err != nil {
			return 0, alone, fmt.Errorf("controller of pod %q: %w", p.Name, err)
		}
		if !counted[uid] {
			counted[uid] = true
			sum += int(n)
		}
	}
	return sum, alone, nil
}

// of returns a controller's UID and scale. A ReplicaSet of a Deployment counts as the Deployment, which may have two of
// them during a rollout.
func (s *scales) of(ctx context.Context, namespace string, ref metav1.OwnerReference) (types.UID, int32, error) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return "", 0, err
	}
	switch gv.WithKind(ref.Kind).GroupKind() {
	case appsv1.SchemeGroupVersion.WithKind("ReplicaSet").GroupKind():
		rs, err := s.sets.ReplicaSets(namespace).Get(ref.Name)
		if err != nil {
			return known(ref, nil, err)
		}
		owner := metav1.GetControllerOfNoCopy(rs)
		if owner != nil && owner.Kind == "Deployment" {
			if d, err := s.deployments.Deployments(namespace).Get(owner.Name); err == nil && d.UID == owner.UID {
				return d.UID, deref(d.Spec.Replicas), nil
			}
		}
		return known(ref, rs.Spec.Replicas, nil)
	case appsv1.SchemeGroupVersion.WithKind("StatefulSet").GroupKind():
		o, err := s.stateful.StatefulSets(namespace).Get(ref.Name)
		if err != nil {
			return known(ref, nil, err)
		}
		return known(ref, o.Spec.Replicas, nil)
	case corev1.SchemeGroupVersion.WithKind("ReplicationController").GroupKind():
		o, err := s.controllers.ReplicationControllers(namespace).Get(ref.Name)
		if err != nil {
			return known(ref, nil, err)
		}
		return known(ref, o.Spec.Replicas, nil)
	}
	return s.scale(ctx, namespace, gv, ref)
}

// known takes a controller that is gone for one that wants no pods.
func known(ref metav1.OwnerReference, replicas *int32, err error) (types.UID, int32, error) {
	if apierrors.IsNotFound(err) {
		return ref.UID, 0, nil
	}
	return ref.UID, deref(replicas), err
}

func deref(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}

func (s *scales) scale(ctx context.Context, namespace string, gv schema.GroupVersion, ref metav1.OwnerReference) (types.UID, int32, error) {
	kinds, err := deletable.Kinds(s.discovery)
	for _, k := range kinds {
		if k.Kind != ref.Kind || k.Resource.Group != gv.Group {
			continue
		}
		path := []string{"/apis", k.Resource.Group, k.Resource.Version, "namespaces", namespace, k.Resource.Resource, ref.Name, "scale"}
		if k.Resource.Group == "" {
			path = append([]string{"/api"}, path[2:]...)
		}
		var scale autoscalingv1.Scale
		if err := s.client.Discovery().RESTClient().Get().AbsPath(path...).Do(ctx).Into(&scale); err != nil {
			return "", 0, fmt.Errorf("%s %s does not implement the scale subresource: %w", ref.Kind, ref.Name, err)
		}
		return ref.UID, scale.Spec.Replicas, nil
	}
	if err != nil {
		return "", 0, err
	}
	return "", 0, fmt.Errorf("kind %s %s is not known", ref.APIVersion, ref.Kind)
}
