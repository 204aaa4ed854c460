package node

import (
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// observed is what the conditions are made from.
type observed struct {
	runtime            *runtimeapi.RuntimeStatus // nil if it didn't answer
	faults             error
	memory, disk, pids bool // pressure
}

// conditions works out the node's conditions in the words of kubelets. A condition that keeps its status keeps the time
// of its last change. Ready comes last: readers of old expect it there.
func conditions(old []corev1.NodeCondition, o observed, now time.Time) []corev1.NodeCondition {
	pressure := func(t corev1.NodeConditionType, under bool, yesReason, yes, noReason, no string) corev1.NodeCondition {
		if under {
			return corev1.NodeCondition{Type: t, Status: corev1.ConditionTrue, Reason: yesReason, Message: yes}
		}
		return corev1.NodeCondition{Type: t, Status: corev1.ConditionFalse, Reason: noReason, Message: no}
	}
	out := []corev1.NodeCondition{
		pressure(corev1.NodeMemoryPressure, o.memory, "KubeletHasInsufficientMemory", "kubelet has insufficient memory available",
			"KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
		pressure(corev1.NodeDiskPressure, o.disk, "KubeletHasDiskPressure", "kubelet has disk pressure",
			"KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
		pressure(corev1.NodePIDPressure, o.pids, "KubeletHasInsufficientPID", "kubelet has insufficient PID available",
			"KubeletHasSufficientPID", "kubelet has sufficient PID available"),
		readyCondition(o),
	}
	for i := range out {
		c := &out[i]
		c.LastHeartbeatTime, c.LastTransitionTime = metav1.NewTime(now), metav1.NewTime(now)
		for _, before := range old {
			if before.Type == c.Type && before.Status == c.Status && !before.LastTransitionTime.IsZero() {
				c.LastTransitionTime = before.LastTransitionTime
			}
		}
	}
	return out
}

func readyCondition(o observed) corev1.NodeCondition {
	if err := errors.Join(runtimeFault(o.runtime), o.faults); err != nil {
		return corev1.NodeCondition{
			Type: corev1.NodeReady, Status: corev1.ConditionFalse, Reason: "KubeletNotReady",
			Message: strings.ReplaceAll(err.Error(), "\n", ", "),
		}
	}
	return corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status"}
}

// runtimeFault is what keeps the runtime from running pods.
func runtimeFault(s *runtimeapi.RuntimeStatus) error {
	if s == nil {
		return errors.New("container runtime is down")
	}
	var errs []error
	for _, want := range []struct{ name, words string }{{"RuntimeReady", "container runtime not ready"}, {"NetworkReady", "container runtime network not ready"}} {
		var found *runtimeapi.RuntimeCondition
		for _, c := range s.Conditions {
			if c.Type == want.name {
				found = c
			}
		}
		if found == nil {
			errs = append(errs, fmt.Errorf("%s: the runtime reports no condition %s", want.words, want.name))
		} else if !found.Status {
			errs = append(errs, fmt.Errorf("%s: %s=%t reason:%s message:%s", want.words, found.Type, found.Status, found.Reason, found.Message))
		}
	}
	return errors.Join(errs...)
}

// transitions names the events of conditions that changed their status.
func transitions(old, now []corev1.NodeCondition) []string {
	names := map[corev1.NodeConditionType][2]string{
		corev1.NodeMemoryPressure: {"NodeHasSufficientMemory", "NodeHasInsufficientMemory"},
		corev1.NodeDiskPressure:   {"NodeHasNoDiskPressure", "NodeHasDiskPressure"},
		corev1.NodePIDPressure:    {"NodeHasSufficientPID", "NodeHasInsufficientPID"},
		corev1.NodeReady:          {"NodeNotReady", "NodeReady"},
	}
	var out []string
	for _, c := range now {
		before := corev1.ConditionStatus("")
		for _, b := range old {
			if b.Type == c.Type {
				before = b.Status
			}
		}
		// A fresh node that isn't ready yet is no news.
		if before == c.Status || before == "" && c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
			continue
		}
		if c.Status == corev1.ConditionTrue {
			out = append(out, names[c.Type][1])
		} else {
			out = append(out, names[c.Type][0])
		}
	}
	return out
}
