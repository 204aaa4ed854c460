package podworker

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/cri/fakecri"
)

func TestPodLifecycle(t *testing.T) {
	n := newNode(t, fakecri.New("img:1"))
	pod := testPod("a")
	n.m.Set(Desired{Pod: pod})
	n.until("ready", func() bool { return n.ready(pod.UID) })
	st := n.status(pod.UID)
	if st.Phase != corev1.PodRunning || st.PodIP != "10.42.0.9" || st.ContainerStatuses[0].State.Running == nil || st.HostIP != "192.0.2.1" {
		t.Errorf("running status: %+v", st)
	}
	n.mu.Lock()
	for _, st := range n.history[pod.UID] { // regression: the first status of a running pod said that it wasn't ready
		if c := st.ContainerStatuses[0]; c.State.Running != nil && !c.Ready {
			t.Errorf("running, not ready: %+v", c)
		}
	}
	n.mu.Unlock()
	if want := []string{"RunPodSandbox", "CreateContainer main", "StartContainer main"}; !slices.Equal(n.rt.Calls(), want) {
		t.Errorf("calls %v, want %v", n.rt.Calls(), want)
	}
	n.m.Set(Desired{Pod: deleted(pod, 5)})
	n.until("deletion asked for", func() bool { n.mu.Lock(); defer n.mu.Unlock(); return n.removed[pod.UID] })
	if st := n.status(pod.UID); st.Phase != corev1.PodFailed || st.ContainerStatuses[0].State.Terminated == nil || st.ContainerStatuses[0].State.Terminated.ExitCode != 143 {
		t.Errorf("last status: %+v", st)
	}
	n.mu.Lock()
	if len(n.mounted)+len(n.cgroups) != 0 {
		t.Errorf("volumes %v and cgroups %v are left before the object goes", n.mounted, n.cgroups)
	}
	n.mu.Unlock()
	n.m.Remove(pod.UID)
	n.until("nothing left", func() bool { s, c := n.rt.Size(); return s+c+len(n.m.Pods()) == 0 })
}

func TestCrashLoop(t *testing.T) {
	rt := fakecri.New("img:1")
	rt.OnStart = nil
	n := newNode(t, rt)
	pod := testPod("a")
	n.m.Set(Desired{Pod: pod})
	n.until("ready", func() bool { return n.ready(pod.UID) })
	rt.Exit(rt.Find("main")[0], 1, "")
	n.until("restarted at once", func() bool {
		st := n.status(pod.UID)
		return st.ContainerStatuses[0].RestartCount == 1 && n.ready(pod.UID)
	})
	rt.Exit(rt.Find("main")[1], 2, "OOMKilled")
	n.until("in back-off", func() bool {
		w := n.status(pod.UID).ContainerStatuses[0].State.Waiting
		return w != nil && w.Reason == "CrashLoopBackOff"
	})
	c := n.status(pod.UID).ContainerStatuses[0]
	if want := "back-off 10s restarting failed container=main pod=a_default(a-uid)"; c.State.Waiting.Message != want {
		t.Errorf("message %q, want %q", c.State.Waiting.Message, want)
	}
	if last := c.LastTerminationState.Terminated; last == nil || last.ExitCode != 2 || last.Reason != "OOMKilled" {
		t.Errorf("last state: %+v", last)
	}
	if n.status(pod.UID).Phase != corev1.PodRunning {
		t.Errorf("phase %s in a crash loop, want Running", n.status(pod.UID).Phase)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !slices.ContainsFunc(n.events, func(e string) bool {
		return strings.Contains(e, "Warning BackOff: Back-off restarting failed container main")
	}) {
		t.Error("no BackOff event in ", n.events)
	}
}

// Regression: a container that its liveness probe had condemned kept the pod's long grace period after the pod was
// deleted with a short one.
func TestDeletionShortensAKill(t *testing.T) {
	rt := fakecri.New("img:1")
	rt.OnStart = func(*runtimeapi.ContainerConfig) fakecri.Script { return fakecri.Script{Deaf: true} }
	rt.OnExec = func(string, []string) (string, int32, error) { return "sick", 1, nil }
	n := newNode(t, rt)
	pod := testPod("a", func(p *corev1.Pod) {
		p.Spec.Containers[0].LivenessProbe = &corev1.Probe{
			ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"check"}}}, PeriodSeconds: 1, FailureThreshold: 1,
		}
	})
	n.m.Set(Desired{Pod: pod})
	n.until("the probe's kill", func() bool { return slices.Contains(rt.Calls(), "StopContainer main") })
	begin := time.Now()
	n.m.Set(Desired{Pod: deleted(pod, 1)})
	n.until("deletion", func() bool { n.mu.Lock(); defer n.mu.Unlock(); return n.removed[pod.UID] })
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %v, the grace period is a second", took)
	}
}

// A grace period of more seconds than a Duration can hold isn't one that is over.
func TestEndlessGrace(t *testing.T) {
	w := &worker{pod: testPod("a", func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = new(int64(math.MaxInt64)) })}
	if got := w.specGrace(); got < 24*time.Hour {
		t.Errorf("%v", got)
	}
}
