package criconfig

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// HugePageSizes are the sizes in the names of /sys/kernel/mm/hugepages (hugepages-2048kB), as CRI has them (2MB).
func HugePageSizes(names []string) []string {
	var out []string
	for _, name := range names {
		size, found := strings.CutPrefix(name, "hugepages-")
		q, err := resource.ParseQuantity(strings.TrimSuffix(size, "kB") + "Ki")
		if found && err == nil {
			out = append(out, pageSize(q.Value()))
		}
	}
	return out
}

// hugePages completes a container's limits: those of its pod where it has none itself, and nothing of the sizes that
// nobody asked for. Without a limit of 0 it could take what others were promised.
func (t Tuning) hugePages(own []*runtimeapi.HugepageLimit, pod *corev1.Pod) []*runtimeapi.HugepageLimit {
	have := map[string]bool{}
	for _, h := range own {
		have[h.PageSize] = true
	}
	add := func(h *runtimeapi.HugepageLimit) {
		if !have[h.PageSize] {
			have[h.PageSize] = true
			own = append(own, h)
		}
	}
	if pod.Spec.Resources != nil {
		for _, h := range hugepages(pod.Spec.Resources.Limits) {
			add(h)
		}
	}
	for _, size := range t.HugePages {
		add(&runtimeapi.HugepageLimit{PageSize: size})
	}
	return own
}
