package resource

import (
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// None is what kubectl users see where there is nothing.
const None = "<none>"

// OrNone returns s, or None when it is empty.
func OrNone(s string) string {
	if s == "" {
		return None
	}
	return s
}

// ContainerNames is the CONTAINERS cell.
func ContainerNames(cs []corev1.Container) string {
	return joined(cs, func(c corev1.Container) string { return c.Name })
}

// ContainerImages is the IMAGES cell.
func ContainerImages(cs []corev1.Container) string {
	return joined(cs, func(c corev1.Container) string { return c.Image })
}

func joined(cs []corev1.Container, f func(corev1.Container) string) string {
	parts := make([]string, len(cs))
	for i, c := range cs {
		parts[i] = f(c)
	}
	return strings.Join(parts, ",")
}

// Labels renders a map as "a=1,b=2", or None.
func Labels(m map[string]string) string {
	if len(m) == 0 {
		return None
	}
	parts := make([]string, 0, len(m))
	for k, v := range m {
		parts = append(parts, k+"="+v)
	}
	sort.Strings(parts)
	return strings.Join(parts, ",")
}

// Selector is the SELECTOR cell.
func Selector(s *metav1.LabelSelector) string { return metav1.FormatLabelSelector(s) }

// Pods gives the three wide columns of everything that has a pod template.
func Pods[T any](spec func(T) *corev1.PodSpec, selector func(T) string) []Column[T] {
	columns := []Column[T]{
		{Name: "Containers", Wide: true, Doc: "Names of each container in the template.", Value: func(o T) any { return ContainerNames(spec(o).Containers) }},
		{Name: "Images", Wide: true, Doc: "Images referenced by each container in the template.", Value: func(o T) any { return ContainerImages(spec(o).Containers) }},
	}
	if selector != nil {
		columns = append(columns, Column[T]{Name: "Selector", Wide: true, Doc: "Label selector for pods.", Value: func(o T) any { return selector(o) }})
	}
	return columns
}
