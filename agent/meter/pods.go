package meter

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Pods times the starts of pods. It sees what their workers report and record, on its way elsewhere.
type Pods struct {
	now        func() time.Time
	begun      time.Time
	sli        *Histogram // from creation until all containers have started, image pulls and init containers aside
	total      *Histogram // from creation
	here       *Histogram // from when this node first saw it
	containers family[*atomic.Int64]
	ends       family[*atomic.Int64] // by kind, exit code and reason

	mu       sync.Mutex
	starting map[types.UID]*start
}

type start struct {
	seen    time.Time
	pulling map[string]time.Time // container → since
	pulled  time.Duration
	done    bool
	ended   map[string]string // container → its last attempt that was counted as ended
}

// NewPods returns one that has seen nothing.
func NewPods() *Pods {
	return &Pods{
		now: time.Now, begun: time.Now(), sli: NewHistogram(Starts), total: NewHistogram(Starts), here: NewHistogram(Starts), containers: counters(), ends: counters(),
		starting: map[types.UID]*start{},
	}
}

// Status takes a status in.
func (p *Pods) Status(pod *corev1.Pod, st *corev1.PodStatus) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.starting[pod.UID]
	if s == nil {
		s = &start{seen: p.now(), pulling: map[string]time.Time{}}
		// One that runs already, or was made before our time, began under somebody else's eyes.
		s.done = st.Phase != corev1.PodPending || pod.CreationTimestamp.Time.Before(p.begun.Truncate(time.Second))
		p.starting[pod.UID] = s
		p.end(s, &pod.Status, false) // what the API knows was counted before our time
	}
	p.end(s, st, true)
	if s.done || st.Phase == corev1.PodPending {
		return
	}
	s.done, s.pulling = true, nil
	var last, initialized time.Time
	for _, c := range st.ContainerStatuses {
		if c.State.Running != nil && c.State.Running.StartedAt.After(last) {
			last = c.State.Running.StartedAt.Time
		}
	}
	if last.IsZero() {
		return // it was over before it was seen running
	}
	for _, c := range st.InitContainerStatuses {
		if t := c.State.Terminated; t != nil && t.FinishedAt.After(initialized) {
			initialized = t.FinishedAt.Time
		}
	}
	all := p.now().Sub(pod.CreationTimestamp.Time)
	p.total.Observe(all.Seconds())
	p.here.Observe(p.now().Sub(s.seen).Seconds())
	aside := s.pulled
	if !initialized.IsZero() {
		aside += initialized.Sub(s.seen)
	}
	p.sli.Observe(max(all-aside, 0).Seconds())
}

// end takes in the attempts that a status says have ended, each once.
func (p *Pods) end(s *start, st *corev1.PodStatus, count bool) {
	for kind, list := range map[string][]corev1.ContainerStatus{"init_container": st.InitContainerStatuses, "container": st.ContainerStatuses, "ephemeral_container": st.EphemeralContainerStatuses} {
		for i := range list {
			t := list[i].State.Terminated
			if t == nil {
				t = list[i].LastTerminationState.Terminated
			}
			if t == nil {
				continue
			}
			if last, seen := s.ended[list[i].Name]; seen && last == t.ContainerID {
				continue
			}
			if s.ended == nil {
				s.ended = map[string]string{}
			}
			s.ended[list[i].Name] = t.ContainerID
			if count {
				p.ends.of(kind, strconv.Itoa(int(t.ExitCode)), t.Reason).Add(1)
			}
		}
	}
}

// Forget drops a pod that is gone.
func (p *Pods) Forget(uid types.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.starting, uid)
}

// Event takes an event in.
func (p *Pods) Event(pod *corev1.Pod, container, reason string) {
	switch reason {
	case "Started":
		p.containers.of(kindOf(pod, container)).Add(1)
	case "Pulling", "Pulled", "Failed":
		p.mu.Lock()
		defer p.mu.Unlock()
		s := p.starting[pod.UID]
		if s == nil || s.done {
			return
		}
		if since, ok := s.pulling[container]; ok {
			s.pulled += p.now().Sub(since)
			delete(s.pulling, container)
		}
		if reason == "Pulling" {
			s.pulling[container] = p.now()
		}
	}
}

func kindOf(pod *corev1.Pod, container string) string {
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == container {
			return "init_container"
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == container {
			return "ephemeral_container"
		}
	}
	return "container"
}

// Write writes what was counted.
func (p *Pods) Write(t *Text) {
	t.Histogram("kubelet_pod_start_sli_duration_seconds", "Duration in seconds to start a pod, excluding time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch", p.sli)
	t.Histogram("kubelet_pod_start_total_duration_seconds", "Duration in seconds to start a pod since creation, including time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch", p.total)
	t.Histogram("kubelet_pod_start_duration_seconds", "Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run", p.here)
	p.containers.each(func(l []string, n *atomic.Int64) {
		t.Value("kubelet_started_containers_total", "counter", "Cumulative number of containers started", float64(n.Load()), "container_type", l[0])
	})
	p.ends.each(func(l []string, n *atomic.Int64) {
		t.Value("kubelet_terminated_containers_total", "counter", "Cumulative number of container terminations.", float64(n.Load()), "container_type", l[0], "exit_code", l[1], "reason", l[2])
	})
}
