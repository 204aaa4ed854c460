package podworker

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/cri"
)

// Resources gives pods what the node has in countable pieces: devices, CPUs and memory of certain nodes, claims.
type Resources interface {
	// Wants tells whether the pod gets any: admission of all others doesn't wait. It is cheap.
	Wants(pod *corev1.Pod) bool
	// Admit gives the pod its pieces; it may ask plugins, and is idempotent. A reason says why it gets none, and then it
	// holds none.
	Admit(ctx context.Context, pod *corev1.Pod) (reason, message string)
	// Prepare readies what the pod's claims stand for, before its containers are created. It is idempotent; the error's
	// text goes into an event as it is.
	Prepare(ctx context.Context, pod *corev1.Pod) error
	// Container adds to cfg what the container gets.
	Container(ctx context.Context, pod *corev1.Pod, c *corev1.Container, cfg *runtimeapi.ContainerConfig) error
	// Limits adds the container's CPUs and memory nodes to what it is limited to.
	Limits(pod *corev1.Pod, c *corev1.Container, r *runtimeapi.LinuxContainerResources)
	// MayResize says why the pod can't be resized; "" if nothing of it is in the way.
	MayResize(pod *corev1.Pod) string
	// Health is the health of the container's devices.
	Health(pod *corev1.Pod, container string) []corev1.ResourceStatus
	// Release gives everything back; not found is success.
	Release(ctx context.Context, uid types.UID) error
	// Pods lists the pods that hold something.
	Pods() ([]types.UID, error)
}

// beginAdmission gives a new pod its pieces before anything of it is made. The worker's lock is held.
func (w *worker) beginAdmission() {
	if w.m.resources == nil || w.ending || !w.m.resources.Wants(w.pod) {
		return
	}
	ctx, cancel := context.WithCancel(w.m.ctx)
	w.admitting, w.cancelAdmission = true, cancel
	pod := w.pod
	go func() {
		reason, message := w.m.resources.Admit(ctx, pod)
		cancel()
		w.done(func() {
			w.admitting, w.cancelAdmission = false, nil
			if reason == "" {
				w.held = true
				return
			}
			if w.ending {
				return // it went meanwhile
			}
			w.verdict = reject(reason, "%s", message)
			w.m.event(pod, "", corev1.EventTypeWarning, w.verdict.Reason, w.verdict.Message)
			w.end(0)
		})
	}()
}

// prepareResources readies the pod's claims.
func (m *Manager) prepareResources(ctx context.Context, pod *corev1.Pod) error {
	if m.resources == nil {
		return nil
	}
	return m.resources.Prepare(ctx, pod)
}

func (m *Manager) releaseResources(ctx context.Context, uid types.UID) error {
	if m.resources == nil {
		return nil
	}
	return m.resources.Release(ctx, uid)
}

// resourcePods lists the pods that hold something, for the sweep.
func (m *Manager) resourcePods() ([]types.UID, error) {
	if m.resources == nil {
		return nil, nil
	}
	return m.resources.Pods()
}

func (m *Manager) containerResources(ctx context.Context, pod *corev1.Pod, c *corev1.Container, cfg *runtimeapi.ContainerConfig) error {
	if m.resources == nil {
		return nil
	}
	return m.resources.Container(ctx, pod, c, cfg)
}

func (m *Manager) limits(pod *corev1.Pod, c *corev1.Container, r *runtimeapi.LinuxContainerResources) *runtimeapi.LinuxContainerResources {
	if m.resources != nil {
		m.resources.Limits(pod, c, r)
	}
	return r
}

func (m *Manager) health(pod *corev1.Pod, container string) []corev1.ResourceStatus {
	if m.resources == nil {
		return nil
	}
	return m.resources.Health(pod, container)
}

// Look says that something a pod's status tells of has changed.
func (m *Manager) Look(uid types.UID) {
	m.mu.Lock()
	w := m.workers[uid]
	m.mu.Unlock()
	if w != nil {
		w.kick()
	}
}

// SharedCPUs says that the CPUs of all containers without some of their own have changed.
func (m *Manager) SharedCPUs() {
	m.repinMu.Lock()
	defer m.repinMu.Unlock()
	if m.repinning {
		m.repinAgain = true
		return
	}
	m.repinning = true
	go m.repin()
}

// repins is the state of SharedCPUs: one pass at a time, and another one if there was a change meanwhile.
type repins struct {
	repinMu               sync.Mutex
	repinning, repinAgain bool
}

func (m *Manager) repin() {
	for {
		for _, w := range m.all() {
			w.repin()
		}
		m.repinMu.Lock()
		if !m.repinAgain || m.ctx.Err() != nil {
			m.repinning = false
			m.repinMu.Unlock()
			return
		}
		m.repinAgain = false
		m.repinMu.Unlock()
	}
}

// repin brings the CPUs of the pod's running containers up to date. One that starts meanwhile gets them anyway.
func (w *worker) repin() {
	w.mu.Lock()
	pod := w.pod
	w.mu.Unlock()
	for _, cur := range w.m.cache.Get(w.uid).Containers {
		spec := findContainer(pod, cur.Name)
		if spec == nil || cur.State == cri.Exited {
			continue
		}
		r := w.m.limits(pod, spec, &runtimeapi.LinuxContainerResources{})
		if r.CpusetCpus == "" {
			continue
		}
		_, err := w.m.cri.UpdateContainerResources(w.m.ctx, &runtimeapi.UpdateContainerResourcesRequest{
			ContainerId: cur.ID, Linux: &runtimeapi.LinuxContainerResources{CpusetCpus: r.CpusetCpus},
		})
		if err != nil && !cri.IsNotFound(err) && w.m.ctx.Err() == nil {
			w.m.log.Warn("CPUs of a container not changed", "pod", ref(pod), "container", cur.Name, "cpus", r.CpusetCpus, "err", err)
		}
	}
}
