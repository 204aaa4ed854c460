package podworker

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/mote-edge/mote/agent/criconfig"
)

// isNew tells whether the node hasn't run a pod yet: others were admitted before, or have nothing to be admitted to.
func (m *Manager) isNew(pod *corev1.Pod) bool {
	p := m.cache.Get(pod.UID)
	return len(p.Sandboxes) == 0 && pod.DeletionTimestamp == nil && (pod.Status.Phase == "" || pod.Status.Phase == corev1.PodPending)
}

// admit decides whether the node takes a new pod, and counts those that it doesn't. The manager's lock is held.
func (m *Manager) admit(pod *corev1.Pod) *Verdict {
	v := m.judge(pod)
	if v != nil {
		m.rejections[v.Reason]++
	}
	return v
}

func (m *Manager) judge(pod *corev1.Pod) *Verdict {
	if m.refuse != nil {
		if reason, message := m.refuse(pod); reason != "" {
			return reject(reason, "%s", message)
		}
	}
	var others []*corev1.Pod
	for _, w := range m.workers {
		// Read without the worker's lock, which its own turn may hold: pointers that are replaced as a whole, and an
		// answer that is as old as it would be a moment ago.
		if o, st := w.snapshot(); o != nil && (st == nil || st.Phase != corev1.PodSucceeded && st.Phase != corev1.PodFailed) {
			others = append(others, o)
		}
	}
	v := admit(pod, others, m.node.Allocatable(), m.node.Labels(), m.cfg)
	if v != nil && isCritical(pod) {
		v = admit(pod, m.makeRoom(pod, others, v), m.node.Allocatable(), m.node.Labels(), m.cfg)
	}
	return v
}

func (w *worker) snapshot() (*corev1.Pod, *corev1.PodStatus) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.verdict != nil {
		return nil, nil
	}
	return w.counted(), w.last
}

func reject(reason, format string, args ...any) *Verdict {
	return &Verdict{Reason: reason, Message: "Pod was rejected: " + fmt.Sprintf(format, args...)}
}

// admit is pure: nil means that the pod is welcome.
func admit(pod *corev1.Pod, others []*corev1.Pod, allocatable corev1.ResourceList, labels map[string]string, cfg Config) *Verdict {
	if msg := criconfig.ForbiddenSysctl(pod, cfg.AllowedSysctls); msg != "" {
		return reject("SysctlForbidden", "%s", msg)
	}
	if msg := criconfig.ForbiddenAppArmor(pod, cfg.AppArmor); msg != "" {
		return reject("AppArmor", "%s", msg)
	}
	if os := pod.Spec.OS; os != nil && os.Name != corev1.Linux {
		return reject("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS")
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: pod.Spec.NodeName, Labels: labels}}
	if len(labels) > 0 {
		if ok, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node); err != nil || !ok {
			return reject("NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector")
		}
	}
	if cfg.MaxPods > 0 && len(others) >= cfg.MaxPods {
		return reject("OutOfpods", "Node didn't have enough resource: pods, requested: 1, used: %d, capacity: %d", len(others), cfg.MaxPods)
	}
	taken := map[string]bool{}
	for _, o := range others {
		for _, p := range hostPorts(o) {
			taken[p] = true
		}
	}
	for _, p := range hostPorts(pod) {
		if taken[p] {
			return reject("NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports")
		}
	}
	if v := admitResources(pod, others, allocatable); v != nil {
		return reject(v.Reason, "%s", v.Message)
	}
	return nil
}

// admitResources tells whether the pod fits beside the others.
func admitResources(pod *corev1.Pod, others []*corev1.Pod, allocatable corev1.ResourceList) *Verdict {
	if len(allocatable) == 0 {
		return nil // not known yet
	}
	used := corev1.ResourceList{}
	for _, o := range others {
		for name, q := range resourcehelper.PodRequests(o, resourcehelper.PodResourcesOptions{}) {
			sum := used[name]
			sum.Add(q)
			used[name] = sum
		}
	}
	for name, want := range resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{}) {
		have, ok := allocatable[name]
		if want.IsZero() || byClaim(pod, name) || !ok && name != corev1.ResourceCPU && name != corev1.ResourceMemory && name != corev1.ResourceEphemeralStorage {
			continue // extended resources that this node knows nothing of are the scheduler's matter
		}
		sum := used[name]
		sum.Add(want)
		if sum.Cmp(have) > 0 {
			u := used[name]
			return &Verdict{Reason: "OutOf" + string(name), Message: fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d",
				name, amount(name, want), amount(name, u), amount(name, have))}
		}
	}
	return nil
}

// byClaim tells whether a pod has an extended resource by a claim, not by a device plugin of this node.
func byClaim(pod *corev1.Pod, name corev1.ResourceName) bool {
	s := pod.Status.ExtendedResourceClaimStatus
	return s != nil && slices.ContainsFunc(s.RequestMappings, func(m corev1.ContainerExtendedResourceRequest) bool { return m.ResourceName == string(name) })
}

// amount is a quantity in the unit that messages have: thousandths for CPU.
func amount(name corev1.ResourceName, q resource.Quantity) int64 {
	if name == corev1.ResourceCPU {
		return q.MilliValue()
	}
	return q.Value()
}

func hostPorts(pod *corev1.Pod) []string {
	var out []string
	for i := range pod.Spec.Containers {
		for _, p := range pod.Spec.Containers[i].Ports {
			if p.HostPort > 0 {
				ip := p.HostIP
				if ip == "" {
					ip = "0.0.0.0"
				}
				out = append(out, fmt.Sprintf("%s %s:%d", p.Protocol, ip, p.HostPort))
			}
		}
	}
	return out
}
