package downward

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// FindContainer returns a container of the pod by name, of whichever kind, or nil.
func FindContainer(pod *corev1.Pod, name string) *corev1.Container {
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == name {
			return &pod.Spec.InitContainers[i]
		}
	}
	for i := range pod.Spec.Containers {
		if pod.Spec.Containers[i].Name == name {
			return &pod.Spec.Containers[i]
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == name {
			// The two types have the same fields: an ephemeral container is a container without some uses.
			return (*corev1.Container)(&pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		}
	}
	return nil
}

// Container is FindContainer with the error that users of resourceFieldRef know.
func Container(pod *corev1.Pod, name string) (*corev1.Container, error) {
	if c := FindContainer(pod, name); c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("container %s not found", name)
}
