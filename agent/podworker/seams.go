package podworker

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The seams to the rest of the node. They use API and CRI types only, so that implementations import nothing of ours.

// VolumeMounter prepares the volumes of pods.
type VolumeMounter interface {
	// Mount makes every volume of the pod ready, and keeps following changes of ConfigMaps, Secrets and tokens until
	// Unmount. It blocks until all are ready or ctx ends, and is idempotent: a second call when all is well is cheap.
	// The error's text goes into a FailedMount event as it is (`MountVolume.SetUp failed for volume "x" : …`).
	Mount(ctx context.Context, pod *corev1.Pod) error
	// ContainerMounts returns the bind mounts of one container (regular, init or ephemeral), with subPath and
	// subPathExpr resolved (safe against links); expand resolves $(VAR) with the container's environment. It is called
	// after Mount, right before the container is created. Volumes of type image are left out: the caller adds them.
	ContainerMounts(ctx context.Context, pod *corev1.Pod, container *corev1.Container, expand func(string) (string, error)) ([]*runtimeapi.Mount, error)
	// ContainerDevices returns the block devices of one container's volumeDevices; it is called as ContainerMounts is.
	ContainerDevices(pod *corev1.Pod, container *corev1.Container) ([]*runtimeapi.Device, error)
	// EmptyDirFile reads a file of one of the pod's emptyDir volumes, following no link out of it. criconfig.ErrNoFile
	// when there is none.
	EmptyDirFile(pod *corev1.Pod, volume, path string) (string, error)
	// Unmount takes the pod's volumes away, its directory Data/agent/pods/<uid>/volumes included. It is called when no
	// container of the pod runs any more; not found is success.
	Unmount(ctx context.Context, uid types.UID) error
	// Pods lists the pods that have something mounted or on disk, so that what an earlier run left is found.
	Pods() ([]types.UID, error)
}

// PodCgroups owns the QoS and pod level of the cgroup tree.
type PodCgroups interface {
	// Ensure creates or updates the pod's cgroup with its limits, and returns the path for CRI's cgroup_parent
	// (/<root>/kubepods/burstable/pod<uid>). Idempotent.
	Ensure(pod *corev1.Pod) (parent string, err error)
	// Remove kills what is left in the pod's cgroup and removes it; not found is success.
	Remove(uid types.UID) error
	// Pods lists the pods that have a cgroup.
	Pods() ([]types.UID, error)
}

// NodeInfo is what the pods need to know of their node. All calls are cheap reads of cached state.
type NodeInfo interface {
	// HostIPs returns the node's addresses, the primary one first; one a family at most.
	HostIPs() []string
	// Allocatable is the default of resourceFieldRef limits, and what admission compares with.
	Allocatable() corev1.ResourceList
	// Labels are the node's labels, for the admission of node selectors and affinity.
	Labels() map[string]string
}

// Objects reads the ConfigMaps and Secrets that environments and pull secrets refer to. Not found is the API's own
// error (apierrors.IsNotFound).
type Objects interface {
	ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
}
