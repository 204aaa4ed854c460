package agent

import (
	"crypto/tls"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/mote-edge/mote/agent/cgroup"
	"github.com/mote-edge/mote/agent/evict"
	"github.com/mote-edge/mote/agent/meter"
	"github.com/mote-edge/mote/agent/podworker"
	"github.com/mote-edge/mote/agent/server"
	"github.com/mote-edge/mote/agent/volume"
)

// meters are what the node's parts count on their way.
type meters struct {
	runtime  *meter.Runtime
	requests *meter.Requests
	pods     *meter.Pods
	tally    *meter.Tally
}

func newMeters() meters {
	return meters{runtime: meter.NewRuntime(), requests: meter.NewRequests(), pods: meter.NewPods(), tally: meter.NewTally()}
}

// metrics adds what the node's parts count to /metrics, under the kubelet's names.
func (a *Agent) metrics(p *parts) func(*server.Metrics) {
	return func(m *server.Metrics) {
		started, failed := p.pods.UserNamespacedPods()
		m.Value("kubelet_started_user_namespaced_pods_total", "counter", "Cumulative number of pods with user namespaces started. This metric will only be collected on Linux.", float64(started))
		m.Value("kubelet_started_user_namespaced_pods_errors_total", "counter", "Cumulative number of errors when starting pods with user namespaces. This metric will only be collected on Linux.", float64(failed))
		a.podMetrics(p, m)
		p.meters.pods.Write(m)
		p.meters.runtime.Write(m)
		p.meters.requests.Write(m)
		p.meters.tally.Write(m)
		if seen := p.cri.Seen(); !seen.IsZero() {
			m.Value("kubelet_pleg_last_seen_seconds", "gauge", "Timestamp in seconds when PLEG was last seen active.", epoch(seen))
		}
		shared, exclusive := p.cpus.Counts()
		m.Value("kubelet_cpu_manager_shared_pool_size_millicores", "gauge", "The size of the shared CPU pool for non-guaranteed QoS pods, in millicores.", float64(1000*shared))
		m.Value("kubelet_cpu_manager_exclusive_cpu_allocation_count", "gauge", "The total number of CPUs exclusively allocated to containers running on this node", float64(exclusive))
		a.volumeMetrics(p, m)
		evictions := p.evict.Evictions()
		for _, signal := range slices.Sorted(maps.Keys(evictions)) {
			m.Value("kubelet_evictions", "counter", "Cumulative number of pod evictions by eviction signal", float64(evictions[signal]), "eviction_signal", signal)
		}
		preemptions := p.pods.Preemptions()
		for _, signal := range slices.Sorted(maps.Keys(preemptions)) {
			m.Value("kubelet_preemptions", "counter", "Cumulative number of pod preemptions by preemption resource", float64(preemptions[signal]), "preemption_signal", signal)
		}
		rejections := p.pods.Rejections()
		for _, reason := range slices.Sorted(maps.Keys(rejections)) {
			m.Value("kubelet_admission_rejections_total", "counter", "Cumulative number pod admission rejections by the Kubelet.", float64(rejections[reason]), "reason", reason)
		}
		version := 1.0
		if p.cgroups.V2() {
			version = 2
		}
		if p.cgroups.V2() {
			hard, soft := p.cgroups.Protected()
			m.Value("kubelet_memory_qos_node_memory_min_bytes", "gauge", "Total memory.min in bytes for Guaranteed pods", float64(hard))
			m.Value("kubelet_memory_qos_node_memory_low_bytes", "gauge", "Total memory.low in bytes for Burstable pods", float64(soft))
		}
		m.Value("kubelet_cgroup_version", "gauge", "cgroup version on the hosts.", version)
		begin, end := p.shutdown.Times()
		m.Value("kubelet_graceful_shutdown_start_time_seconds", "gauge", "Last graceful shutdown start time since unix epoch in seconds", epoch(begin))
		m.Value("kubelet_graceful_shutdown_end_time_seconds", "gauge", "Last graceful shutdown end time since unix epoch in seconds", epoch(end))
		if cert, err := p.certs.Serving(&tls.ClientHelloInfo{}); err == nil && cert.Leaf != nil {
			m.Value("kubelet_certificate_manager_server_ttl_seconds", "gauge", "Gauge of the shortest TTL (time-to-live) of the Kubelet's serving certificate. The value is in seconds until certificate expiry (negative if already expired).", time.Until(cert.Leaf.NotAfter).Seconds())
		}
		if until := p.certs.ClientUntil(); !until.IsZero() {
			m.Value("kubelet_certificate_manager_client_ttl_seconds", "gauge", "Gauge of the TTL (time-to-live) of the Kubelet's client certificate. The value is in seconds until certificate expiry (negative if already expired).", time.Until(until).Seconds())
		}
		a.claimMetrics(p, m)
	}
}

func epoch(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

func (a *Agent) podMetrics(p *parts, m *server.Metrics) {
	var static, others, mirrors float64
	for _, pod := range p.pods.Pods() {
		switch {
		case evict.FromFile(pod):
			static++
		case pod.Annotations[corev1.MirrorPodAnnotationKey] != "":
			mirrors++
		case pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed:
			others++
		}
	}
	const help = "The number of pods the kubelet considers active and which are being considered when admitting new pods. static is true if the pod is not from the apiserver."
	m.Value("kubelet_active_pods", "gauge", help, others, "static", "")
	m.Value("kubelet_active_pods", "gauge", help, static, "static", "true")
	m.Value("kubelet_mirror_pods", "gauge", "The number of mirror pods the kubelet will try to create (one per admitted static pod)", mirrors+static, "static", "true")
}

// volumeMetrics writes how many volumes pods ask for and how many stand.
func (a *Agent) volumeMetrics(p *parts, m *server.Metrics) {
	desired := map[string]int{}
	for _, pod := range p.pods.Pods() {
		for i := range pod.Spec.Volumes {
			desired[volume.Plugin(&pod.Spec.Volumes[i])]++
		}
	}
	for _, state := range []struct {
		name  string
		count map[string]int
	}{{"actual_state_of_world", p.volumes.Mounted()}, {"desired_state_of_world", desired}} {
		for _, plugin := range slices.Sorted(maps.Keys(state.count)) {
			m.Value("volume_manager_total_volumes", "gauge", "Number of volumes in Volume Manager", float64(state.count[plugin]), "plugin_name", plugin, "state", state.name)
		}
	}
}

// claimMetrics writes what the file systems of claims hold.
func (a *Agent) claimMetrics(p *parts, m *server.Metrics) {
	type claim struct {
		namespace, name string
		st              unix.Statfs_t
	}
	var claims []claim
	seen := map[string]bool{}
	for _, pod := range p.pods.Pods() {
		for i := range pod.Spec.Volumes {
			v := &pod.Spec.Volumes[i]
			name := ""
			if v.PersistentVolumeClaim != nil {
				name = v.PersistentVolumeClaim.ClaimName
			} else if v.Ephemeral != nil {
				name = pod.Name + "-" + v.Name
			}
			if name == "" || seen[pod.Namespace+"/"+name] {
				continue
			}
			if st, ok := a.mounted(pod, v.Name); ok {
				seen[pod.Namespace+"/"+name] = true
				claims = append(claims, claim{pod.Namespace, name, st})
			}
		}
	}
	for _, x := range []struct {
		name, help string
		value      func(*unix.Statfs_t) uint64
	}{
		{"available_bytes", "Number of available bytes in the volume", func(s *unix.Statfs_t) uint64 { return s.Bavail * uint64(s.Bsize) }},
		{"capacity_bytes", "Capacity in bytes of the volume", func(s *unix.Statfs_t) uint64 { return s.Blocks * uint64(s.Bsize) }},
		{"inodes", "Maximum number of inodes in the volume", func(s *unix.Statfs_t) uint64 { return s.Files }},
		{"inodes_free", "Number of free inodes in the volume", func(s *unix.Statfs_t) uint64 { return s.Ffree }},
		{"inodes_used", "Number of used inodes in the volume", func(s *unix.Statfs_t) uint64 { return s.Files - s.Ffree }},
		{"used_bytes", "Number of used bytes in the volume", func(s *unix.Statfs_t) uint64 { return (s.Blocks - s.Bfree) * uint64(s.Bsize) }},
	} {
		for i := range claims {
			m.Value("kubelet_volume_stats_"+x.name, "gauge", x.help, float64(x.value(&claims[i].st)), "namespace", claims[i].namespace, "persistentvolumeclaim", claims[i].name)
		}
	}
}

// mounted is the file system of a volume with a directory in the pod's.
func (a *Agent) mounted(pod *corev1.Pod, volume string) (st unix.Statfs_t, ok bool) {
	found, err := filepath.Glob(filepath.Join(a.cfg.Dirs.Agent(), "pods", string(pod.UID), "volumes", "*", volume))
	if err != nil || len(found) == 0 {
		return st, false
	}
	path := found[0]
	if csi := filepath.Join(path, "mount"); unix.Statfs(csi, &st) == nil {
		return st, true // CSI drivers mount one level below
	}
	return st, unix.Statfs(path, &st) == nil
}

// watchedStatuses and watchedEvents let starts of pods be timed.
type watchedStatuses struct {
	podworker.Statuses
	pods *meter.Pods
}

func (w watchedStatuses) Set(pod *corev1.Pod, st *corev1.PodStatus) {
	w.pods.Status(pod, st)
	w.Statuses.Set(pod, st)
}

func (w watchedStatuses) Forget(uid types.UID) {
	w.pods.Forget(uid)
	w.Statuses.Forget(uid)
}

type watchedEvents struct {
	podworker.Events
	pods *meter.Pods
}

func (w watchedEvents) Pod(pod *corev1.Pod, container, kind, reason, message string) {
	w.pods.Event(pod, container, reason)
	w.Events.Pod(pod, container, kind, reason, message)
}

// timedCgroups times what is done to the pods' cgroups.
type timedCgroups struct {
	*cgroup.Tree
	tally *meter.Tally
}

func (t timedCgroups) Ensure(pod *corev1.Pod) (string, error) {
	defer t.tally.Since(meter.CgroupWrites, time.Now(), "update")
	return t.Tree.Ensure(pod)
}

func (t timedCgroups) Remove(uid types.UID) error {
	defer t.tally.Since(meter.CgroupWrites, time.Now(), "destroy")
	return t.Tree.Remove(uid)
}
