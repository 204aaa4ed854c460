package scheduler

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/client-go/tools/cache"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"github.com/mote-edge/mote/controlplane/scheduler/fit"
)

// What an event may turn the verdict of.
const (
	afterPodLeft   = fit.NodeResources | fit.NodePorts | fit.TopologySpread | fit.InterPodAffinity | fit.VolumeBinding
	afterPodCame   = fit.InterPodAffinity | fit.TopologySpread
	afterLabels    = fit.NodeAffinity | fit.TopologySpread | fit.InterPodAffinity | fit.VolumeBinding
	afterTaints    = fit.TaintToleration | fit.TopologySpread
	anyFilter      = ^fit.Filter(0)
	afterNodeGone  = fit.TopologySpread
	afterNamespace = fit.InterPodAffinity
)

// watch registers one handler for each kind of object that a decision depends on.
func (s *Scheduler) watch() error {
	f := s.cfg.Informers
	always := func(what fit.Filter) cache.ResourceEventHandlerFuncs {
		return cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { s.queue.happened(what) },
			UpdateFunc: func(_, _ any) { s.queue.happened(what) },
			DeleteFunc: func(any) {},
		}
	}
	for _, w := range []struct {
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandler
	}{
		{f.Core().V1().Nodes().Informer(), cache.ResourceEventHandlerFuncs{AddFunc: s.nodeAdded, UpdateFunc: s.nodeChanged, DeleteFunc: s.nodeGone}},
		{f.Core().V1().Pods().Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { s.podChanged(nil, o) },
			UpdateFunc: s.podChanged,
			DeleteFunc: s.podGone,
		}},
		{f.Core().V1().PersistentVolumeClaims().Informer(), always(fit.VolumeBinding)},
		{f.Core().V1().PersistentVolumes().Informer(), always(fit.VolumeBinding)},
		{f.Storage().V1().StorageClasses().Informer(), always(fit.VolumeBinding)},
		{f.Core().V1().Namespaces().Informer(), cache.ResourceEventHandlerFuncs{
			UpdateFunc: func(old, now any) {
				if !equality.Semantic.DeepEqual(old.(*corev1.Namespace).Labels, now.(*corev1.Namespace).Labels) {
					s.queue.happened(afterNamespace)
				}
			},
		}},
	} {
		reg, err := w.informer.AddEventHandler(w.handler)
		if err != nil {
			return fmt.Errorf("scheduler: %w", err)
		}
		s.synced = append(s.synced, reg.HasSynced)
	}
	return nil
}

func (s *Scheduler) nodeAdded(o any) {
	s.state.setNode(o.(*corev1.Node))
	s.queue.happened(anyFilter)
}

func (s *Scheduler) nodeChanged(o, n any) {
	node := n.(*corev1.Node)
	s.state.setNode(node)
	s.queue.happened(nodeDifference(o.(*corev1.Node), node))
}

func (s *Scheduler) nodeGone(o any) {
	if d, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = d.Obj
	}
	if node, ok := o.(*corev1.Node); ok {
		s.state.removeNode(node.Name)
		s.queue.happened(afterNodeGone)
	}
}

// nodeDifference is zero for a heartbeat.
func nodeDifference(a, b *corev1.Node) (what fit.Filter) {
	if !equality.Semantic.DeepEqual(a.Status.Allocatable, b.Status.Allocatable) {
		what |= fit.NodeResources
	}
	if !equality.Semantic.DeepEqual(a.Labels, b.Labels) {
		what |= afterLabels
	}
	if !equality.Semantic.DeepEqual(a.Spec.Taints, b.Spec.Taints) {
		what |= afterTaints
	}
	if !slices.Equal(a.Status.DeclaredFeatures, b.Status.DeclaredFeatures) {
		what |= fit.DeclaredFeatures
	}
	if a.Spec.Unschedulable != b.Spec.Unschedulable {
		what |= fit.NodeUnschedulable
	}
	return what
}

func (s *Scheduler) podChanged(o, n any) {
	pod := n.(*corev1.Pod)
	if old, ok := o.(*corev1.Pod); ok && old.UID != pod.UID {
		s.podGone(old) // deleted and made again between two events
		o = nil
	}
	switch {
	case pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed:
		s.podGone(pod)
	case pod.Spec.NodeName != "":
		s.queue.remove(pod.UID)
		s.assigned(o, pod)
	case pod.Spec.SchedulerName != s.cfg.Name || pod.DeletionTimestamp != nil:
		s.queue.remove(pod.UID)
	case !s.state.isAssumed(pod.UID):
		s.queue.set(pod)
		if old, ok := o.(*corev1.Pod); ok && !resourceclaim.PodStatusEqual(old.Status.ResourceClaimStatuses, pod.Status.ResourceClaimStatuses) {
			s.queue.happened(fit.DynamicResources) // its claims have been made
		}
		if pod.Status.NominatedNodeName != "" && o == nil {
			s.state.nominate(fit.NewPod(pod), pod.Status.NominatedNodeName) // from before a restart
		}
	}
}

func (s *Scheduler) assigned(o any, pod *corev1.Pod) {
	old, _ := o.(*corev1.Pod)
	if old != nil && old.Spec.NodeName != "" && !placementChanged(old, pod) {
		s.state.refresh(pod)
		return
	}
	s.state.setPod(pod)
	switch {
	case old == nil || old.Spec.NodeName == "":
		s.queue.happened(afterPodCame)
	default:
		s.queue.happened(afterPodCame | afterPodLeft) // new labels, or a resize that may have freed something
	}
}

// placementChanged says whether an assigned pod now counts differently: most updates are about its status only.
func placementChanged(a, b *corev1.Pod) bool {
	if a.Generation != b.Generation || (a.DeletionTimestamp == nil) != (b.DeletionTimestamp == nil) {
		return true
	}
	if !equality.Semantic.DeepEqual(a.Labels, b.Labels) {
		return true
	}
	for i := range b.Status.ContainerStatuses {
		if i >= len(a.Status.ContainerStatuses) ||
			!equality.Semantic.DeepEqual(a.Status.ContainerStatuses[i].AllocatedResources, b.Status.ContainerStatuses[i].AllocatedResources) ||
			!equality.Semantic.DeepEqual(a.Status.ContainerStatuses[i].Resources, b.Status.ContainerStatuses[i].Resources) {
			return true
		}
	}
	return false
}

func (s *Scheduler) podGone(o any) {
	if d, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = d.Obj
	}
	pod, ok := o.(*corev1.Pod)
	if !ok {
		return
	}
	s.queue.remove(pod.UID)
	if s.state.removePod(pod.UID) {
		s.queue.happened(afterPodLeft)
	}
}
