package statefulset

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/mote-edge/mote/controlplane/controllers/owned"
)

var podKind = corev1.SchemeGroupVersion.WithKind("Pod")

// ordinalOf is the number of a set's pod, from its name; -1 if it has another name.
func ordinalOf(set, pod string) int {
	rest, ok := strings.CutPrefix(pod, set+"-")
	if !ok || rest == "" || rest[0] < '0' || rest[0] > '9' {
		return -1
	}
	n, err := strconv.ParseInt(rest, 10, 32)
	if err != nil {
		return -1
	}
	return int(n)
}

func podName(set string, ordinal int) string { return set + "-" + strconv.Itoa(ordinal) }

func start(s *appsv1.StatefulSet) int {
	if s.Spec.Ordinals == nil {
		return 0
	}
	return int(s.Spec.Ordinals.Start)
}

func replicas(s *appsv1.StatefulSet) int {
	if s.Spec.Replicas == nil {
		return 1
	}
	return int(*s.Spec.Replicas)
}

// wanted says whether a set should have a pod of this number.
func wanted(s *appsv1.StatefulSet, ordinal int) bool {
	return ordinal >= start(s) && ordinal < start(s)+replicas(s)
}

// newPod makes the pod of a number from a template of the set's history.
func newPod(s *appsv1.StatefulSet, t *corev1.PodTemplateSpec, revision string, ordinal int) *corev1.Pod {
	p := owned.FromTemplate(t, s, kind)
	p.Name = podName(s.Name, ordinal)
	p.GenerateName = ""
	if p.Labels == nil {
		p.Labels = map[string]string{}
	}
	p.Labels[appsv1.StatefulSetPodNameLabel] = p.Name
	p.Labels[appsv1.PodIndexLabel] = strconv.Itoa(ordinal)
	p.Labels[appsv1.StatefulSetRevisionLabel] = revision
	p.Spec.Hostname = p.Name
	p.Spec.Subdomain = s.Spec.ServiceName
	var volumes []corev1.Volume
	for i := range s.Spec.VolumeClaimTemplates {
		name := s.Spec.VolumeClaimTemplates[i].Name
		volumes = append(volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claimName(name, s.Name, ordinal)},
		}})
	}
	for i := range p.Spec.Volumes { // a claim template hides a volume of the same name
		if !slices.ContainsFunc(volumes, func(v corev1.Volume) bool { return v.Name == p.Spec.Volumes[i].Name }) {
			volumes = append(volumes, p.Spec.Volumes[i])
		}
	}
	p.Spec.Volumes = volumes
	return p
}

func revisionOf(p *corev1.Pod) string { return p.Labels[appsv1.StatefulSetRevisionLabel] }

func claimName(template, set string, ordinal int) string {
	return template + "-" + podName(set, ordinal)
}

// claims are the PersistentVolumeClaims of a pod, owned as the retention policy says.
func claims(s *appsv1.StatefulSet, pod *corev1.Pod) []*corev1.PersistentVolumeClaim {
	ordinal := ordinalOf(s.Name, pod.Name)
	out := make([]*corev1.PersistentVolumeClaim, 0, len(s.Spec.VolumeClaimTemplates))
	for i := range s.Spec.VolumeClaimTemplates {
		t := &s.Spec.VolumeClaimTemplates[i]
		c := &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{
				Name: claimName(t.Name, s.Name, ordinal), Namespace: s.Namespace,
				Labels: maps.Clone(t.Labels), Annotations: maps.Clone(t.Annotations), Finalizers: slices.Clone(t.Finalizers),
			},
			Spec: *t.Spec.DeepCopy(),
		}
		if c.Labels == nil {
			c.Labels = map[string]string{}
		}
		maps.Copy(c.Labels, s.Spec.Selector.MatchLabels)
		c.OwnerReferences, _ = claimOwners(c, s, pod)
		out = append(out, c)
	}
	return out
}

// claimOwners are the owner references that a claim should have: the set's if claims go with a deleted set, the pod's
// if the pod is surplus and claims go with such. conflict says that another controller owns the claim, which then
// keeps it. While a reference is left from an older set or pod of the same name, nothing is changed: the garbage
// collector will take the claim.
func claimOwners(c *corev1.PersistentVolumeClaim, s *appsv1.StatefulSet, pod *corev1.Pod) (want []metav1.OwnerReference, conflict bool) {
	whenDeleted, whenScaled := retention(s)
	for i := range c.OwnerReferences {
		ref := &c.OwnerReferences[i]
		switch {
		case names(ref, s, kind) && ref.UID != s.UID, names(ref, pod, podKind) && ref.UID != pod.UID:
			return c.OwnerReferences, false
		case names(ref, s, kind), names(ref, pod, podKind):
		default:
			want = append(want, *ref)
			conflict = conflict || (ref.Controller != nil && *ref.Controller && (whenDeleted || whenScaled))
		}
	}
	if conflict {
		return want, true
	}
	surplus := !wanted(s, ordinalOf(s.Name, pod.Name))
	if whenDeleted && (!surplus || !whenScaled) {
		want = append(want, *metav1.NewControllerRef(s, kind))
	}
	if whenScaled && surplus {
		want = append(want, *metav1.NewControllerRef(pod, podKind))
	}
	return want, false
}

// orphanedClaim says whether a claim still belongs to an earlier pod of the same name, and will be deleted with it.
func orphanedClaim(c *corev1.PersistentVolumeClaim, pod string) bool {
	for i := range c.OwnerReferences {
		ref := &c.OwnerReferences[i]
		if ref.Kind == podKind.Kind && ref.APIVersion == podKind.GroupVersion().String() && ref.Name == pod {
			return true
		}
	}
	return false
}

func names(ref *metav1.OwnerReference, obj metav1.Object, k schema.GroupVersionKind) bool {
	return ref.Kind == k.Kind && ref.APIVersion == k.GroupVersion().String() && ref.Name == obj.GetName()
}

// retention says whether claims are deleted with the set, and with surplus pods.
func retention(s *appsv1.StatefulSet) (whenDeleted, whenScaled bool) {
	p := s.Spec.PersistentVolumeClaimRetentionPolicy
	if p == nil {
		return false, false
	}
	return p.WhenDeleted == appsv1.DeletePersistentVolumeClaimRetentionPolicyType, p.WhenScaled == appsv1.DeletePersistentVolumeClaimRetentionPolicyType
}
