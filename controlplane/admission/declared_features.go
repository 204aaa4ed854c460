package admission

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	ndf "k8s.io/component-helpers/nodedeclaredfeatures"

	moteversion "github.com/mote-edge/mote/internal/version"
)

// declaredFeatures refuses changes of a pod that its node can't follow: one whose agent is older, or another kubelet.
type declaredFeatures struct {
	nodes  corelisters.NodeLister
	synced func() bool
}

var _ admission.ValidationInterface = (*declaredFeatures)(nil)

func (*declaredFeatures) Handles(op admission.Operation) bool { return op == admission.Update }

func (d *declaredFeatures) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	i := f.Core().V1().Nodes()
	d.nodes, d.synced = i.Lister(), i.Informer().HasSynced
}

func (d *declaredFeatures) ValidateInitialization() error {
	if d.nodes == nil {
		return errors.New("the node informer is not set")
	}
	return nil
}

func (d *declaredFeatures) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if !on(a, "", "pods", "") && !on(a, "", "pods", "resize") {
		return nil
	}
	pod, _ := a.GetObject().(*corev1.Pod)
	old, _ := a.GetOldObject().(*corev1.Pod)
	if pod == nil || old == nil || pod.Spec.NodeName == "" || pod.Generation == old.Generation {
		return nil
	}
	needs, err := ndf.DefaultFramework.InferForPodUpdate(&ndf.PodInfo{Spec: &old.Spec, Status: &old.Status},
		&ndf.PodInfo{Spec: &pod.Spec, Status: &pod.Status}, version.MustParse(moteversion.Kubernetes))
	if err != nil {
		return admission.NewForbidden(a, fmt.Errorf("failed to infer pod capability requirements: %w", err))
	}
	if needs.IsEmpty() {
		return nil
	}
	if !d.synced() {
		return admission.NewForbidden(a, errors.New("not yet ready to handle request"))
	}
	node, err := d.nodes.Get(pod.Spec.NodeName)
	if err != nil {
		return admission.NewForbidden(a, fmt.Errorf("failed to get node %q: %w", pod.Spec.NodeName, err))
	}
	has, err := ndf.DefaultFramework.MatchNode(needs, node)
	if err != nil {
		return admission.NewForbidden(a, fmt.Errorf("failed to match pod requirements against node %q: %w", node.Name, err))
	}
	if !has.IsMatch {
		return admission.NewForbidden(a, fmt.Errorf("pod update requires features %s which are not available on node %q",
			strings.Join(has.UnsatisfiedRequirements, ", "), node.Name))
	}
	return nil
}
