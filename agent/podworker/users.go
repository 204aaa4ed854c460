package podworker

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// UserNamespaces gives pods their ranges of the host's users.
type UserNamespaces interface {
	// Namespace returns the mapping of a pod's user namespace: the same one until Release, also after a restart.
	Namespace(uid types.UID) (*runtimeapi.UserNamespace, error)
	// Release gives it back; none is success.
	Release(uid types.UID) error
}

// userPods counts the sandboxes with a user namespace that were begun, and those whose pods failed to start.
type userPods struct{ started, failed atomic.Int64 }

// UserNamespacedPods are the counters behind kubelet_started_user_namespaced_pods_total and …_errors_total.
func (m *Manager) UserNamespacedPods() (started, failed int64) {
	return m.userPods.started.Load(), m.userPods.failed.Load()
}

func ownUsers(pod *corev1.Pod) bool { return pod.Spec.HostUsers != nil && !*pod.Spec.HostUsers }

// userNamespace is what the runtime is told of a pod's users; nil for the host's.
func (m *Manager) userNamespace(ctx context.Context, pod *corev1.Pod) (*runtimeapi.UserNamespace, error) {
	if !ownUsers(pod) {
		return nil, nil
	}
	handler, err := m.handler(ctx, pod)
	if err != nil {
		return nil, err
	}
	able, err := m.features(ctx, handler)
	if err != nil {
		return nil, fmt.Errorf("can't set `spec.hostUsers: false`: %w", err)
	}
	switch {
	case m.users != nil && able.GetUserNamespaces():
		return m.users.Namespace(pod.UID)
	case handler != "":
		return nil, fmt.Errorf("can't set `spec.hostUsers: false`, RuntimeClass handler %q does not support user namespaces", handler)
	}
	return nil, errors.New("can't set `spec.hostUsers: false`, runtime does not support user namespaces")
}

func (w *worker) beganWithUsers(pod *corev1.Pod) {
	if ownUsers(pod) {
		w.m.userPods.started.Add(1)
		w.usersFailed.Store(false)
	}
}

// failedWithUsers counts a pod once a sandbox.
func (w *worker) failedWithUsers(pod *corev1.Pod) {
	if ownUsers(pod) && !w.usersFailed.Swap(true) {
		w.m.userPods.failed.Add(1)
	}
}

// releaseUsers is for the end of a pod, when nothing of it runs and its volumes are gone.
func (m *Manager) releaseUsers(uid types.UID) error {
	if m.users == nil {
		return nil
	}
	return m.users.Release(uid)
}
