package agent

import "github.com/mote-edge/mote/agent/server"

// metrics adds what the node's parts count to /metrics, under the kubelet's names.
func (p *parts) metrics(m *server.Metrics) {
	started, failed := p.pods.UserNamespacedPods()
	m.Value("kubelet_started_user_namespaced_pods_total", "counter", "Cumulative number of pods with user namespaces started. This metric will only be collected on Linux.", float64(started))
	m.Value("kubelet_started_user_namespaced_pods_errors_total", "counter", "Cumulative number of errors when starting pods with user namespaces. This metric will only be collected on Linux.", float64(failed))
}
