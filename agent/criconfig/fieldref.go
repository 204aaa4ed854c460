package criconfig

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/mote-edge/mote/agent/downward"
)

// Facts are what a pod's configuration needs to know and the pod doesn't say.
type Facts struct {
	PodIPs, HostIPs []string
	Allocatable     corev1.ResourceList
}

// Field resolves a downward API field path.
func Field(pod *corev1.Pod, facts Facts, path string) (string, error) {
	if v, ok := downward.Metadata(pod, path); ok {
		return v, nil
	}
	switch path {
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return first(facts.HostIPs), nil
	case "status.hostIPs":
		return strings.Join(facts.HostIPs, ","), nil
	case "status.podIP":
		return first(facts.PodIPs), nil
	case "status.podIPs":
		return strings.Join(facts.PodIPs, ","), nil
	}
	return "", fmt.Errorf("unsupported fieldPath: %v", path)
}

func first(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}

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
