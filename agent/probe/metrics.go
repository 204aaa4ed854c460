package probe

import (
	"cmp"
	"slices"

	"github.com/mote-edge/mote/agent/meter"
)

// Write writes how often the containers that run now were asked, with which result, and how long that took.
func (s *Set) Write(t *meter.Text) {
	type asked struct {
		labels []string
		counts [3]int64
		times  *meter.Histogram
	}
	var all []asked
	s.mu.Lock()
	for _, list := range s.byID {
		for _, e := range list {
			all = append(all, asked{[]string{
				"container", e.t.Container.Name, "namespace", e.t.Pod.Namespace, "pod", e.t.Pod.Name, "probe_type", e.kind.String(),
			}, e.counts, e.times})
			all[len(all)-1].labels = append(all[len(all)-1].labels, "pod_uid", string(e.t.UID))
		}
	}
	s.mu.Unlock()
	slices.SortFunc(all, func(a, b asked) int { return cmp.Or(slices.Compare(a.labels, b.labels)) })
	for _, a := range all {
		for i, result := range []string{"successful", "failed", "unknown"} {
			if a.counts[i] > 0 {
				t.Value("prober_probe_total", "counter", "Cumulative number of a liveness, readiness or startup probe for a container by result.",
					float64(a.counts[i]), append(a.labels[:len(a.labels):len(a.labels)], "result", result)...)
			}
		}
	}
	for _, a := range all {
		t.Histogram("prober_probe_duration_seconds", "Duration in seconds for a probe response.", a.times, a.labels[:8]...)
	}
}
