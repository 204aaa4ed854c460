package evict

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/mote-edge/mote/agent/cgroup"
)

// Refuse says why a node under pressure takes no such pod; "" if it does.
func (e *Evictor) Refuse(pod *corev1.Pod) (reason, message string) {
	if limited(pod) {
		e.Poke() // its files are to be looked at from now on
	}
	return refuse(pod, e.Conditions())
}

// refuse is pure. Under nothing but memory pressure, pods that asked for memory, or tolerate its lack, are still welcome.
func refuse(pod *corev1.Pod, conditions []corev1.NodeConditionType) (reason, message string) {
	if len(conditions) == 0 || Critical(pod) {
		return "", ""
	}
	if slices.Equal(conditions, []corev1.NodeConditionType{corev1.NodeMemoryPressure}) {
		if cgroup.QOSClass(pod) != corev1.PodQOSBestEffort {
			return "", ""
		}
		taint := corev1.Taint{Key: corev1.TaintNodeMemoryPressure, Effect: corev1.TaintEffectNoSchedule}
		for i := range pod.Spec.Tolerations {
			if tolerates(&pod.Spec.Tolerations[i], &taint) {
				return "", ""
			}
		}
	}
	return "Evicted", fmt.Sprintf("The node had condition: %v. ", conditions)
}

func tolerates(t *corev1.Toleration, taint *corev1.Taint) bool {
	return (t.Effect == "" || t.Effect == taint.Effect) && (t.Key == taint.Key || t.Key == "" && t.Operator == corev1.TolerationOpExists) &&
		(t.Operator == corev1.TolerationOpExists || t.Value == taint.Value)
}
