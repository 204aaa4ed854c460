package fit

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/component-helpers/storage/ephemeral"
	volumehelper "k8s.io/component-helpers/storage/volume"
)

// Volumes is what the volume filter looks up. A nil result means that there is no such object.
type Volumes interface {
	Claim(namespace, name string) *corev1.PersistentVolumeClaim
	Volume(name string) *corev1.PersistentVolume
	VolumesOfClass(class string) []*corev1.PersistentVolume
	Class(name string) *storagev1.StorageClass
}

// volumeState is the pod's claims: those bound, and those that wait for the node to be chosen.
type volumeState struct {
	bound     []*corev1.PersistentVolume
	missing   bool // a bound claim whose volume isn't there (yet)
	waiting   []waitingClaim
	exclusive []string // claims with ReadWriteOncePod
}

type waitingClaim struct {
	claim   *corev1.PersistentVolumeClaim
	class   *storagev1.StorageClass
	volumes []*corev1.PersistentVolume
}

// VolumeChoice is what has to be done about a waiting claim once the pod's node is chosen: bind Volume to it, or, if
// Volume is nil, tell the provisioner the node.
type VolumeChoice struct {
	Claim  *corev1.PersistentVolumeClaim
	Volume *corev1.PersistentVolume
}

// ClaimNames lists the claims that a pod's volumes use, those made for ephemeral volumes included.
func ClaimNames(p *corev1.Pod) []string {
	var names []string
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		switch {
		case v.PersistentVolumeClaim != nil:
			names = append(names, v.PersistentVolumeClaim.ClaimName)
		case v.Ephemeral != nil:
			names = append(names, ephemeral.VolumeClaimName(p, v))
		}
	}
	return names
}

func newVolumeState(p *Pod, volumes Volumes) (volumeState, Refusal) {
	var s volumeState
	refused := func(format string, args ...any) (volumeState, Refusal) {
		return s, refuseFinally(VolumeBinding, fmt.Sprintf(format, args...))
	}
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		var name string
		switch {
		case v.PersistentVolumeClaim != nil:
			name = v.PersistentVolumeClaim.ClaimName
		case v.Ephemeral != nil:
			name = ephemeral.VolumeClaimName(p.Pod, v)
		default:
			continue
		}
		var claim *corev1.PersistentVolumeClaim
		if volumes != nil {
			claim = volumes.Claim(p.Namespace, name)
		}
		switch {
		case claim == nil && v.Ephemeral != nil:
			return refused("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", name)
		case claim == nil:
			return refused("persistentvolumeclaim %q not found", name)
		case claim.Status.Phase == corev1.ClaimLost:
			return refused("persistentvolumeclaim %q bound to non-existent persistentvolume %q", name, claim.Spec.VolumeName)
		case claim.DeletionTimestamp != nil:
			return refused("persistentvolumeclaim %q is being deleted", name)
		}
		if v.Ephemeral != nil {
			if err := ephemeral.VolumeIsForPod(p.Pod, claim); err != nil {
				return refused("%v", err)
			}
		}
		for _, mode := range claim.Spec.AccessModes {
			if mode == corev1.ReadWriteOncePod {
				s.exclusive = append(s.exclusive, name)
			}
		}
		if claim.Spec.VolumeName != "" {
			if _, done := claim.Annotations[volumehelper.AnnBindCompleted]; !done {
				return refused("pod has unbound immediate PersistentVolumeClaims")
			}
			if pv := volumes.Volume(claim.Spec.VolumeName); pv != nil {
				s.bound = append(s.bound, pv)
			} else {
				s.missing = true
			}
			continue
		}
		class := volumes.Class(volumehelper.GetPersistentVolumeClaimClass(claim))
		if class == nil || class.VolumeBindingMode == nil || *class.VolumeBindingMode != storagev1.VolumeBindingWaitForFirstConsumer {
			return refused("pod has unbound immediate PersistentVolumeClaims")
		}
		s.waiting = append(s.waiting, waitingClaim{claim, class, volumes.VolumesOfClass(class.Name)})
	}
	return s, Refusal{}
}

func filterVolumes(c *Cycle, n *Node) Refusal {
	s := &c.volumes
	for _, name := range s.exclusive {
		for _, o := range c.Snapshot.Nodes {
			if usesClaim(o, c.Pod, name) {
				return refuse(VolumeBinding, "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod")
			}
		}
	}
	if s.missing {
		return refuseFinally(VolumeBinding, "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)")
	}
	for _, pv := range s.bound {
		if volumehelper.CheckNodeAffinity(pv, n.Labels) != nil {
			return refuseFinally(VolumeBinding, "node(s) didn't match PersistentVolume's node affinity")
		}
	}
	if _, ok := c.ChooseVolumes(n); !ok {
		return refuseFinally(VolumeBinding, "node(s) didn't find available persistent volumes to bind")
	}
	return Refusal{}
}

func usesClaim(n *Node, not *Pod, name string) bool {
	for _, p := range n.Pods {
		if p.Namespace != not.Namespace || p.UID == not.UID {
			continue
		}
		for _, used := range ClaimNames(p.Pod) {
			if used == name {
				return true
			}
		}
	}
	return false
}

// ChooseVolumes finds a volume, or a provisioner, for every waiting claim on a node.
func (c *Cycle) ChooseVolumes(n *Node) ([]VolumeChoice, bool) {
	var choices []VolumeChoice
	taken := map[string]*corev1.PersistentVolume{}
	for _, w := range c.volumes.waiting {
		if node, ok := w.claim.Annotations[volumehelper.AnnSelectedNode]; ok && node != n.Name {
			return nil, false // its provisioning for another node is under way
		}
		pv, err := volumehelper.FindMatchingVolume(w.claim, w.volumes, n.Node, taken, true, true)
		switch {
		case err != nil:
			return nil, false
		case pv != nil:
			taken[pv.Name] = pv
			choices = append(choices, VolumeChoice{Claim: w.claim, Volume: pv})
		case w.class.Provisioner == "" || w.class.Provisioner == volumehelper.NotSupportedProvisioner || !topologyAllowed(w.class, n):
			return nil, false
		default:
			choices = append(choices, VolumeChoice{Claim: w.claim})
		}
	}
	return choices, true
}

// topologyAllowed checks a class's allowedTopologies, any of which may match.
func topologyAllowed(class *storagev1.StorageClass, n *Node) bool {
	if len(class.AllowedTopologies) == 0 {
		return true
	}
	selector := &corev1.NodeSelector{}
	for _, t := range class.AllowedTopologies {
		var term corev1.NodeSelectorTerm
		for _, e := range t.MatchLabelExpressions {
			term.MatchExpressions = append(term.MatchExpressions, corev1.NodeSelectorRequirement{
				Key: e.Key, Operator: corev1.NodeSelectorOpIn, Values: e.Values,
			})
		}
		selector.NodeSelectorTerms = append(selector.NodeSelectorTerms, term)
	}
	ok, err := nodeaffinity.NewLazyErrorNodeSelector(selector).Match(n.Node)
	return ok && err == nil
}
