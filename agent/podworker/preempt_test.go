package podworker

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// sized is a pod with memory in Mi; class is one of guaranteed, burstable, best.
func sized(name, class, memory string, change ...func(*corev1.Pod)) *corev1.Pod {
	return testPod(name, append([]func(*corev1.Pod){func(p *corev1.Pod) {
		list := corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(memory), corev1.ResourceCPU: resource.MustParse("10m")}
		if class != "best" {
			p.Spec.Containers[0].Resources.Requests = list
		}
		if class == "guaranteed" {
			p.Spec.Containers[0].Resources.Limits = list
		}
		p.Spec.Priority = new(int32(0))
	}}, change...)...)
}

func critical(p *corev1.Pod) { p.Spec.Priority = new(int32(systemCritical)) }

func TestVictims(t *testing.T) {
	have := corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("100Mi"), corev1.ResourceCPU: resource.MustParse("1")}
	all := []*corev1.Pod{
		sized("g", "guaranteed", "30Mi"), sized("b20", "burstable", "20Mi"), sized("b30", "burstable", "30Mi"), sized("e", "best", "0"),
		sized("sys", "burstable", "20Mi", critical),
	}
	for name, c := range map[string]struct {
		pod     *corev1.Pod
		maxPods int
		want    string
	}{
		"an ordinary pod makes no room":        {sized("p", "burstable", "10Mi"), 0, ""},
		"the smallest that is enough":          {sized("p", "burstable", "20Mi", critical), 0, "b20"},
		"the nearest":                          {sized("p", "burstable", "30Mi", critical), 0, "b30"},
		"several":                              {sized("p", "burstable", "50Mi", critical), 0, "b20 b30"},
		"as few guaranteed ones as possible":   {sized("p", "burstable", "60Mi", critical), 0, "b30 g"},
		"not enough of them":                   {sized("p", "burstable", "90Mi", critical), 0, ""},
		"more important ones among the system": {sized("p", "burstable", "90Mi", func(p *corev1.Pod) { p.Spec.Priority = new(int32(systemCritical + 1000)) }), 0, "b20 b30 g sys"},
		"the number of pods":                   {sized("p", "best", "0", critical), 5, "e"},
		"of a manifest":                        {sized("p", "burstable", "20Mi", func(p *corev1.Pod) { p.Annotations = map[string]string{"kubernetes.io/config.source": "file"} }), 0, "b20"},
	} {
		var got []string
		for _, v := range victims(c.pod, all, have, c.maxPods) {
			got = append(got, v.Name)
		}
		slices.Sort(got)
		if text := strings.Join(got, " "); text != c.want {
			t.Errorf("%s: %q, want %q", name, text, c.want)
		}
	}
}
