package core

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func amounts(cpu, memory string) corev1.ResourceList {
	l := corev1.ResourceList{}
	if cpu != "" {
		l[corev1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		l[corev1.ResourceMemory] = resource.MustParse(memory)
	}
	return l
}

func TestQOSClass(t *testing.T) {
	full := corev1.ResourceRequirements{Requests: amounts("1", "1Gi"), Limits: amounts("1", "1Gi")}
	for _, c := range []struct {
		name string
		spec corev1.PodSpec
		want corev1.PodQOSClass
	}{
		{"nothing", corev1.PodSpec{Containers: []corev1.Container{{}}}, corev1.PodQOSBestEffort},
		{"zero is nothing", corev1.PodSpec{Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: amounts("0", "")}}}}, corev1.PodQOSBestEffort},
		{"all equal", corev1.PodSpec{Containers: []corev1.Container{{Resources: full}, {Resources: full}}}, corev1.PodQOSGuaranteed},
		{"one without", corev1.PodSpec{Containers: []corev1.Container{{Resources: full}, {}}}, corev1.PodQOSBurstable},
		{"an init container without", corev1.PodSpec{InitContainers: []corev1.Container{{}}, Containers: []corev1.Container{{Resources: full}}}, corev1.PodQOSBurstable},
		{"request below limit", corev1.PodSpec{Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: amounts("1", "1Mi"), Limits: amounts("1", "1Gi")}}}}, corev1.PodQOSBurstable},
		{"no memory limit", corev1.PodSpec{Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: amounts("1", ""), Limits: amounts("1", "")}}}}, corev1.PodQOSBurstable},
		{"pod level decides", corev1.PodSpec{Resources: &full, Containers: []corev1.Container{{}}}, corev1.PodQOSGuaranteed},
	} {
		if got := QOSClass(&corev1.Pod{Spec: c.spec}); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestGracePeriod(t *testing.T) {
	for _, c := range []struct {
		name        string
		node        string
		phase       corev1.PodPhase
		spec, asked *int64
		want        int64
	}{
		{"the spec's", "n", corev1.PodRunning, ptr.To[int64](30), nil, 30},
		{"the request's", "n", corev1.PodRunning, ptr.To[int64](30), ptr.To[int64](5), 5},
		{"not scheduled", "", corev1.PodPending, ptr.To[int64](30), ptr.To[int64](5), 0},
		{"ended", "n", corev1.PodSucceeded, ptr.To[int64](30), nil, 0},
		{"negative", "n", corev1.PodRunning, ptr.To[int64](-3), nil, 1},
	} {
		p := &corev1.Pod{Spec: corev1.PodSpec{NodeName: c.node, TerminationGracePeriodSeconds: c.spec}, Status: corev1.PodStatus{Phase: c.phase}}
		o := &metav1.DeleteOptions{GracePeriodSeconds: c.asked}
		if !podGracePeriod(t.Context(), p, o) || *o.GracePeriodSeconds != c.want {
			t.Errorf("%s: %d, want %d", c.name, *o.GracePeriodSeconds, c.want)
		}
	}
}

func TestStatusKeepsWhatAgentsMayNotChange(t *testing.T) {
	old := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{OwnerReferences: []metav1.OwnerReference{{Name: "o"}}},
		Status:     corev1.PodStatus{QOSClass: corev1.PodQOSBurstable, ObservedGeneration: 3, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, ObservedGeneration: 2}}},
	}
	p := &corev1.Pod{Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady}, {Type: corev1.PodInitialized}}}}
	preparePodStatus(t.Context(), p, old)
	st := p.Status
	if len(p.OwnerReferences) != 1 || st.QOSClass != corev1.PodQOSBurstable || st.ObservedGeneration != 3 ||
		st.Conditions[0].ObservedGeneration != 2 || st.Conditions[1].ObservedGeneration != 0 {
		t.Errorf("%+v", p)
	}
}

func TestMatchLabelKeys(t *testing.T) {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"hash": "1", "tenant": "a"}},
		Spec: corev1.PodSpec{
			Affinity: &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
				LabelSelector: &metav1.LabelSelector{}, MatchLabelKeys: []string{"hash", "absent"}, MismatchLabelKeys: []string{"tenant"},
			}}}},
			TopologySpreadConstraints: []corev1.TopologySpreadConstraint{{MatchLabelKeys: []string{"hash"}}},
		},
	}
	mergeMatchLabelKeys(p)
	got := p.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution[0].LabelSelector.MatchExpressions
	if len(got) != 2 || got[0].Operator != metav1.LabelSelectorOpIn || got[1].Operator != metav1.LabelSelectorOpNotIn {
		t.Errorf("%v", got)
	}
	if p.Spec.TopologySpreadConstraints[0].LabelSelector != nil {
		t.Error("a constraint that selects nothing now selects something")
	}
}
