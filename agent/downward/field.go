package downward

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Facts are what a pod may ask about itself and the pod doesn't say.
type Facts struct {
	PodIPs, HostIPs []string
	Allocatable     corev1.ResourceList
}

// Field resolves a downward API field path.
func Field(pod *corev1.Pod, facts Facts, path string) (string, error) {
	if v, ok := Metadata(pod, path); ok {
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
