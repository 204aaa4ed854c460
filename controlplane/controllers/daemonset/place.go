package daemonset

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	schedhelper "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"github.com/mote-edge/mote/controlplane/controllers/owned"
)

// hashLabel on pods and revisions tells the templates apart.
const hashLabel = appsv1.DefaultDaemonSetUniqueLabelKey

// tolerated are the taints that daemon pods put up with, so that they run, and stay, on nodes in trouble.
var tolerated = []corev1.Toleration{
	{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute},
	{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute},
	{Key: corev1.TaintNodeDiskPressure, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodeMemoryPressure, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodePIDPressure, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodeUnschedulable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
}

// tolerations are those of the template and those of every daemon pod, which replace equal ones.
func tolerations(spec *corev1.PodSpec) []corev1.Toleration {
	add := tolerated
	if spec.HostNetwork {
		add = append(add[:len(add):len(add)], corev1.Toleration{
			Key: corev1.TaintNodeNetworkUnavailable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule,
		})
	}
	var out []corev1.Toleration
	for i := range spec.Tolerations {
		t := &spec.Tolerations[i]
		replaced := false
		for j := range add {
			replaced = replaced || t.MatchToleration(&add[j])
		}
		if !replaced {
			out = append(out, *t)
		}
	}
	return append(out, add...)
}

// placer decides for one DaemonSet which nodes it belongs on.
type placer struct {
	nodeName    string
	affinity    nodeaffinity.RequiredNodeAffinity
	tolerations []corev1.Toleration
}

func newPlacer(ds *appsv1.DaemonSet) placer {
	spec := &ds.Spec.Template.Spec
	return placer{
		nodeName:    spec.NodeName,
		affinity:    nodeaffinity.NewRequiredNodeAffinity(spec.NodeSelector, spec.Affinity),
		tolerations: tolerations(spec),
	}
}

// on says whether a pod should be started on a node, and whether one that is there may stay.
func (p placer) on(n *corev1.Node) (run, stay bool) {
	if p.nodeName != "" && p.nodeName != n.Name {
		return false, false
	}
	if ok, _ := p.affinity.Match(n); !ok { // a selector that can't be read matches nothing
		return false, false
	}
	hinders := func(effects ...corev1.TaintEffect) bool {
		_, found := schedhelper.FindMatchingUntoleratedTaint(klog.Background(), n.Spec.Taints, p.tolerations, func(t *corev1.Taint) bool {
			for _, e := range effects {
				if t.Effect == e {
					return true
				}
			}
			return false
		}, true)
		return found
	}
	if hinders(corev1.TaintEffectNoExecute) {
		return false, false
	}
	return !hinders(corev1.TaintEffectNoSchedule), true
}

// newPod makes the pod for a node. It is bound there by node affinity, so that the scheduler still checks resources and
// makes room by preemption.
func newPod(ds *appsv1.DaemonSet, node, hash string) *corev1.Pod {
	pod := owned.FromTemplate(&ds.Spec.Template, ds, kind)
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	pod.Labels[hashLabel] = hash
	if g := ds.Annotations[appsv1.DeprecatedTemplateGeneration]; g != "" {
		pod.Labels["pod-template-generation"] = g
	}
	pod.Spec.Tolerations = tolerations(&pod.Spec)
	if pod.Spec.Affinity == nil {
		pod.Spec.Affinity = &corev1.Affinity{}
	}
	if pod.Spec.Affinity.NodeAffinity == nil {
		pod.Spec.Affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	// What the template requires of the node was checked here; its terms are replaced by the name.
	pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{
			{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node}},
		}}},
	}
	return pod
}

// nodeOf is the node that a pod runs on or was made for; empty if it doesn't say.
func nodeOf(p *corev1.Pod) string {
	if p.Spec.NodeName != "" {
		return p.Spec.NodeName
	}
	a := p.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return ""
	}
	for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, f := range term.MatchFields {
			if f.Key == metav1.ObjectNameField && f.Operator == corev1.NodeSelectorOpIn && len(f.Values) == 1 {
				return f.Values[0]
			}
		}
	}
	return ""
}

// budget is how many extra pods an update may run at a time, and on how many nodes it may leave none available.
func budget(ds *appsv1.DaemonSet, nodes int) (surge, unavailable int) {
	if r := ds.Spec.UpdateStrategy.RollingUpdate; r != nil {
		surge, unavailable = scaled(r.MaxSurge, nodes), scaled(r.MaxUnavailable, nodes)
	}
	if nodes > 0 && surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return surge, unavailable
}

func scaled(v *intstr.IntOrString, of int) int {
	if v == nil {
		return 0
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(v, of, true)
	if err != nil {
		return 0 // validation lets nothing else than numbers and percentages pass
	}
	return n
}

func isRolling(ds *appsv1.DaemonSet) bool {
	return ds.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType
}
