package fit

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/version"
	ndf "k8s.io/component-helpers/nodedeclaredfeatures"

	moteversion "github.com/mote-edge/mote/internal/version"
)

// newNeeds works out which features a pod's node must declare.
func newNeeds(p *corev1.Pod) ndf.FeatureSet {
	needs, err := ndf.DefaultFramework.InferForPodScheduling(&ndf.PodInfo{Spec: &p.Spec}, version.MustParse(moteversion.Kubernetes))
	if err != nil { // without a version alone
		return ndf.DefaultFramework.NewFeatureSet()
	}
	return needs
}

func filterFeatures(c *Cycle, n *Node) Refusal {
	if c.needs.IsEmpty() {
		return Refusal{}
	}
	if ok, err := c.needs.IsSubset(ndf.DefaultFramework.TryMap(n.Status.DeclaredFeatures)); ok && err == nil {
		return Refusal{}
	}
	return refuseFinally(DeclaredFeatures, "node(s) didn't match Pod's required features")
}
