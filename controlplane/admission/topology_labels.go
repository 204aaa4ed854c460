package admission

import (
	"context"
	"errors"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
)

// topologyLabels gives a pod the zone and the region of its node when it is bound, so that its containers can learn them by
// the downward API.
type topologyLabels struct {
	nodes  corelisters.NodeLister
	synced func() bool
}

var _ admission.MutationInterface = (*topologyLabels)(nil)

func (*topologyLabels) Handles(op admission.Operation) bool { return op == admission.Create }

func (t *topologyLabels) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	i := f.Core().V1().Nodes()
	t.nodes, t.synced = i.Lister(), i.Informer().HasSynced
}

func (t *topologyLabels) ValidateInitialization() error {
	if t.nodes == nil {
		return errors.New("the node informer is not set")
	}
	return nil
}

func (t *topologyLabels) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if b, ok := a.GetObject().(*corev1.Binding); ok && on(a, "", "pods", "binding") {
		if b.Target.Kind != "Node" && b.Target.Kind != "" {
			return nil
		}
		labels, err := t.of(a, b.Target.Name)
		b.Labels = with(b.Labels, labels)
		return err
	}
	pod := admittedPod(a) // a static pod's mirror, or one that its maker has placed
	if pod == nil || pod.Spec.NodeName == "" {
		return nil
	}
	labels, err := t.of(a, pod.Spec.NodeName)
	pod.Labels = with(pod.Labels, labels)
	return err
}

// of returns the labels that a node's pods get; none of a node that isn't known.
func (t *topologyLabels) of(a admission.Attributes, node string) (map[string]string, error) {
	if !t.synced() {
		return nil, admission.NewForbidden(a, errors.New("not yet ready to handle request"))
	}
	n, err := t.nodes.Get(node)
	if apierrors.IsNotFound(err) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("node %s: %w", node, err)
	}
	out := map[string]string{}
	for _, key := range []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion} {
		if v, ok := n.Labels[key]; ok {
			out[key] = v
		}
	}
	return out, nil
}

func with(labels, more map[string]string) map[string]string {
	if len(more) == 0 {
		return labels
	}
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, more)
	return labels
}
