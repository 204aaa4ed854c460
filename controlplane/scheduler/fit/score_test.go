package fit

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// best returns the names of the nodes with the highest score.
func best(t *testing.T, p *corev1.Pod, s *Snapshot) string {
	t.Helper()
	c, r := NewCycle(NewPod(p), s)
	if r.Refused() {
		t.Fatalf("refused: %+v", r)
	}
	points := c.Score(s.Nodes)
	var most int64 = -1 << 62
	names := ""
	for i, n := range s.Nodes {
		switch {
		case points[i] > most:
			most, names = points[i], n.Name
		case points[i] == most:
			names += n.Name
		}
	}
	return names
}

func images(size int64, names ...string) nodeOption {
	return func(n *corev1.Node) {
		n.Status.Images = append(n.Status.Images, corev1.ContainerImage{Names: names, SizeBytes: size})
	}
}

func preferNode(weight int32, key, value string) podOption {
	return spec(func(s *corev1.PodSpec) {
		s.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{
			Weight: weight, Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: corev1.NodeSelectorOpIn, Values: []string{value}}}},
		}}}}
	})
}

func preferPod(anti bool, weight int32, term corev1.PodAffinityTerm) podOption {
	return spec(func(s *corev1.PodSpec) {
		terms := []corev1.WeightedPodAffinityTerm{{Weight: weight, PodAffinityTerm: term}}
		s.Affinity = &corev1.Affinity{}
		if anti {
			s.Affinity.PodAntiAffinity = &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: terms}
		} else {
			s.Affinity.PodAffinity = &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: terms}
		}
	})
}

func ownedBy(uid types.UID) podOption {
	yes := true
	return func(p *corev1.Pod) { p.OwnerReferences = []metav1.OwnerReference{{UID: uid, Controller: &yes}} }
}

func TestScore(t *testing.T) {
	for _, c := range []struct {
		name string
		pod  *corev1.Pod
		s    *Snapshot
		want string
	}{
		{"equals", pod(), snapshot(node("a"), node("b")), "ab"},
		{"the emptier node", pod(requests("cpu", "1")), snapshot(node("a").with(pod(requests("cpu", "2", "memory", "4Gi"))), node("b")), "b"},
		{"pods without requests weigh something too", pod(), snapshot(node("a").with(pod()), node("b")), "b"},
		{"the larger node", pod(requests("cpu", "1", "memory", "1Gi")), snapshot(node("a"), node("b", allocatable("cpu", "8", "memory", "16Gi"))), "b"},
		{"balance", pod(requests("cpu", "1", "memory", "512Mi")), snapshot(node("a").with(pod(requests("cpu", "2", "memory", "1Gi"))), node("b").with(pod(requests("cpu", "1", "memory", "3Gi")))), "b"},
		{"PreferNoSchedule", pod(), snapshot(node("a", taint("k", corev1.TaintEffectPreferNoSchedule)), node("b")), "b"},
		{"PreferNoSchedule tolerated", pod(tolerate("k", corev1.TolerationOpExists, "")), snapshot(node("a", taint("k", corev1.TaintEffectPreferNoSchedule)), node("b")), "ab"},
		{"preferred node affinity", pod(preferNode(10, "disk", "ssd")), snapshot(node("a"), node("b", nodeLabel("disk", "ssd"))), "b"},
		{"preferred pod affinity", pod(preferPod(false, 100, byZone(selector("app", "db")))), snapshot(node("a", zone("z1")), node("b", zone("z2")).with(pod(labeled("app", "db"))), node("c", zone("z2")).with(pod())), "bc"},
		{"preferred anti-affinity", pod(preferPod(true, 100, byHost(selector("app", "db")))), snapshot(node("a").with(pod(labeled("app", "db"))), node("b").with(pod())), "b"},
		{"an existing pod's preference", pod(labeled("app", "web")), snapshot(node("a").with(pod()), node("b").with(pod(preferPod(false, 50, byHost(selector("app", "web")))))), "b"},
		{"an existing pod's aversion", pod(labeled("app", "web")), snapshot(node("a").with(pod()), node("b").with(pod(preferPod(true, 50, byHost(selector("app", "web")))))), "a"},
		{"soft spread over zones", pod(labeled("app", "web"), spread(corev1.LabelTopologyZone, 1, false)), snapshot(node("a", zone("z1")).with(pod(labeled("app", "web"))), node("b", zone("z1")), node("c", zone("z2"))), "c"},
		{"one controller's pods are spread", pod(ownedBy("rs")), snapshot(node("a", allocatable("cpu", "64", "memory", "64Gi")).with(pod(ownedBy("rs"))), node("b")), "b"},
		{"a large image that is there", pod(), snapshot(node("a"), node("b", images(900<<20, "img:1"))), "b"},
		{"an image without tag is :latest", pod(func(p *corev1.Pod) { p.Spec.Containers[0].Image = "reg:5000/img" }), snapshot(node("a"), node("b", images(900<<20, "reg:5000/img:latest"))), "b"},
		{"a small image says nothing", pod(), snapshot(node("a"), node("b", images(1<<20, "img:1"))), "ab"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := best(t, c.pod, c.s); got != c.want {
				t.Errorf("best = %q, want %q", got, c.want)
			}
		})
	}
}
