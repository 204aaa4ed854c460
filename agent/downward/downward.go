// Package downward tells a pod about itself: the values behind fieldRef and resourceFieldRef, in environments and files.
//
// Reads:  nothing but its arguments.
// Writes: nothing.
package downward

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Metadata returns the value of a fieldPath below metadata; ok is false for any other path.
func Metadata(pod *corev1.Pod, fieldPath string) (value string, ok bool) {
	if rest, found := strings.CutSuffix(fieldPath, "']"); found {
		path, key, found := strings.Cut(rest, "['")
		switch {
		case found && path == "metadata.annotations":
			return pod.Annotations[key], true
		case found && path == "metadata.labels":
			return pod.Labels[key], true
		}
		return "", false
	}
	switch fieldPath {
	case "metadata.annotations":
		return lines(pod.Annotations), true
	case "metadata.labels":
		return lines(pod.Labels), true
	case "metadata.name":
		return pod.Name, true
	case "metadata.namespace":
		return pod.Namespace, true
	case "metadata.uid":
		return string(pod.UID), true
	}
	return "", false
}

// lines writes a map as key="escaped value" lines, sorted.
func lines(m map[string]string) string {
	var b strings.Builder
	for i, k := range slices.Sorted(maps.Keys(m)) {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(k + "=" + strconv.Quote(m[k]))
	}
	return b.String()
}

// Resource returns the value of a resourceFieldRef for one container, divided by its divisor and rounded up. A limit
// that the container doesn't have is the pod's, or else what the node can give.
func Resource(ref *corev1.ResourceFieldSelector, pod *corev1.Pod, c *corev1.Container, allocatable corev1.ResourceList) (string, error) {
	list, name, ok := strings.Cut(ref.Resource, ".")
	if !ok || list != "limits" && list != "requests" {
		return "", fmt.Errorf("unsupported container resource : %s", ref.Resource)
	}
	resourceName := corev1.ResourceName(name)
	values := c.Resources.Requests
	if list == "limits" {
		values = c.Resources.Limits
	}
	huge := strings.HasPrefix(name, corev1.ResourceHugePagesPrefix)
	switch resourceName {
	case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
	default:
		if !huge {
			return "", fmt.Errorf("unsupported container resource : %s", ref.Resource)
		}
	}
	q, found := values[resourceName]
	if list == "limits" && !huge && (!found || q.IsZero()) {
		q = allocatable[resourceName]
		if r := pod.Spec.Resources; r != nil {
			if podLimit, ok := r.Limits[resourceName]; ok && !podLimit.IsZero() {
				q = podLimit
			}
		}
	}
	divisor := ref.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	if resourceName == corev1.ResourceCPU {
		return divideUp(q.MilliValue(), divisor.MilliValue()), nil
	}
	return divideUp(q.Value(), divisor.Value()), nil
}

func divideUp(n, d int64) string {
	if d <= 0 {
		d = 1
	}
	quotient := n / d
	if n%d > 0 {
		quotient++
	}
	return strconv.FormatInt(quotient, 10)
}
