package core

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func waiting(name, reason string) corev1.ContainerStatus {
	return corev1.ContainerStatus{Name: name, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}}
}

func ended(name, reason string, code, signal int32) corev1.ContainerStatus {
	return corev1.ContainerStatus{Name: name, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: reason, ExitCode: code, Signal: signal}}}
}

func up(name string, ready bool) corev1.ContainerStatus {
	yes := true
	return corev1.ContainerStatus{Name: name, Ready: ready, Started: &yes, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
}

func restarted(s corev1.ContainerStatus, n int32, ago time.Duration) corev1.ContainerStatus {
	s.RestartCount = n
	s.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{FinishedAt: metav1.NewTime(time.Now().Add(-ago))}
	return s
}

func TestPodSummary(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	two := []corev1.Container{{Name: "a"}, {Name: "b"}}
	one := two[:1]
	inits := []corev1.Container{{Name: "i"}, {Name: "j"}}
	sidecar := []corev1.Container{{Name: "s", RestartPolicy: &always}, {Name: "i"}}
	isTrue := func(types ...corev1.PodConditionType) []corev1.PodCondition {
		var out []corev1.PodCondition
		for _, ct := range types {
			out = append(out, corev1.PodCondition{Type: ct, Status: corev1.ConditionTrue})
		}
		return out
	}
	for _, c := range []struct {
		name                   string
		spec                   corev1.PodSpec
		status                 corev1.PodStatus
		deleted                bool
		ready, state, restarts string
	}{
		{"fresh", corev1.PodSpec{Containers: two}, corev1.PodStatus{Phase: "Pending"}, false, "0/2", "Pending", "0"},
		{"creating", corev1.PodSpec{Containers: one}, corev1.PodStatus{Phase: "Pending", ContainerStatuses: []corev1.ContainerStatus{waiting("a", "ContainerCreating")}}, false, "0/1", "ContainerCreating", "0"},
		{"running", corev1.PodSpec{Containers: two}, corev1.PodStatus{Phase: "Running", ContainerStatuses: []corev1.ContainerStatus{up("a", true), up("b", false)}}, false, "1/2", "Running", "0"},
		{"crash loop", corev1.PodSpec{Containers: one}, corev1.PodStatus{Phase: "Running", ContainerStatuses: []corev1.ContainerStatus{
			restarted(waiting("a", "CrashLoopBackOff"), 3, 5*time.Minute),
		}}, false, "0/1", "CrashLoopBackOff", "3 (5m ago)"},
		{"completed", corev1.PodSpec{Containers: one}, corev1.PodStatus{Phase: "Succeeded", ContainerStatuses: []corev1.ContainerStatus{ended("a", "Completed", 0, 0)}}, false, "0/1", "Completed", "0"},
		{"one completed, one runs", corev1.PodSpec{Containers: two}, corev1.PodStatus{Phase: "Running", ContainerStatuses: []corev1.ContainerStatus{
			ended("a", "Completed", 0, 0), up("b", true),
		}, Conditions: isTrue(corev1.PodReady)}, false, "1/2", "Running", "0"},
		{"one completed, one runs, not ready", corev1.PodSpec{Containers: two}, corev1.PodStatus{Phase: "Running", ContainerStatuses: []corev1.ContainerStatus{
			ended("a", "Completed", 0, 0), up("b", true),
		}}, false, "1/2", "NotReady", "0"},
		{"a failure is told, not a completion", corev1.PodSpec{Containers: two}, corev1.PodStatus{Phase: "Failed", ContainerStatuses: []corev1.ContainerStatus{
			ended("a", "Completed", 0, 0), ended("b", "Error", 1, 0),
		}}, false, "0/2", "Error", "0"},
		{"exit code", corev1.PodSpec{Containers: one}, corev1.PodStatus{Phase: "Failed", ContainerStatuses: []corev1.ContainerStatus{ended("a", "", 3, 0)}}, false, "0/1", "ExitCode:3", "0"},
		{"signal", corev1.PodSpec{Containers: one}, corev1.PodStatus{Phase: "Failed", ContainerStatuses: []corev1.ContainerStatus{ended("a", "", 137, 9)}}, false, "0/1", "Signal:9", "0"},
		{"first init", corev1.PodSpec{Containers: one, InitContainers: inits}, corev1.PodStatus{
			Phase:                 "Pending",
			InitContainerStatuses: []corev1.ContainerStatus{up("i", false), waiting("j", "PodInitializing")},
		}, false, "0/1", "Init:0/2", "0"},
		{"second init", corev1.PodSpec{Containers: one, InitContainers: inits}, corev1.PodStatus{
			Phase:                 "Pending",
			InitContainerStatuses: []corev1.ContainerStatus{ended("i", "Completed", 0, 0), up("j", false)},
		}, false, "0/1", "Init:1/2", "0"},
		{"init fails", corev1.PodSpec{Containers: one, InitContainers: inits}, corev1.PodStatus{
			Phase:                 "Pending",
			InitContainerStatuses: []corev1.ContainerStatus{ended("i", "Error", 1, 0), waiting("j", "PodInitializing")},
		}, false, "0/1", "Init:Error", "0"},
		{"init image", corev1.PodSpec{Containers: one, InitContainers: inits}, corev1.PodStatus{
			Phase:                 "Pending",
			InitContainerStatuses: []corev1.ContainerStatus{restarted(waiting("i", "CrashLoopBackOff"), 2, time.Hour)},
		}, false, "0/1", "Init:CrashLoopBackOff", "2 (60m ago)"},
		{"sidecar counts", corev1.PodSpec{Containers: one, InitContainers: sidecar}, corev1.PodStatus{
			Phase: "Running", Conditions: isTrue(corev1.PodInitialized, corev1.PodReady),
			InitContainerStatuses: []corev1.ContainerStatus{restarted(up("s", true), 1, time.Minute), restarted(ended("i", "Completed", 0, 0), 4, time.Minute)},
			ContainerStatuses:     []corev1.ContainerStatus{up("a", true)},
		}, false, "2/2", "Running", "1 (60s ago)"},
		{"gated", corev1.PodSpec{Containers: one}, corev1.PodStatus{Phase: "Pending", Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: "False", Reason: "SchedulingGated"}}}, false, "0/1", "SchedulingGated", "0"},
		{"evicted", corev1.PodSpec{Containers: one}, corev1.PodStatus{Phase: "Failed", Reason: "Evicted"}, false, "0/1", "Evicted", "0"},
		{"terminating", corev1.PodSpec{Containers: one}, corev1.PodStatus{Phase: "Running", ContainerStatuses: []corev1.ContainerStatus{up("a", true)}}, true, "1/1", "Terminating", "0"},
		{"deleted and done", corev1.PodSpec{Containers: one}, corev1.PodStatus{Phase: "Succeeded", ContainerStatuses: []corev1.ContainerStatus{ended("a", "Completed", 0, 0)}}, true, "0/1", "Completed", "0"},
		{"node lost", corev1.PodSpec{Containers: one}, corev1.PodStatus{Phase: "Running", Reason: "NodeLost"}, true, "0/1", "Unknown", "0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &corev1.Pod{Spec: c.spec, Status: c.status}
			if c.deleted {
				now := metav1.Now()
				p.DeletionTimestamp = &now
			}
			got := summarize(p)
			if want := (podSummary{c.ready, c.state, c.restarts}); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}
