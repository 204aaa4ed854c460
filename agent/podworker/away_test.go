package podworker

import (
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/cri/fakecri"
)

// A runtime that dies in the middle of a start and has the container as it was made: the same attempt is started again,
// also of a pod that never restarts anything.
func TestStartThatTheRuntimeDidNotSurvive(t *testing.T) {
	rt := fakecri.New("img:1")
	var starts atomic.Int32
	rt.OnStart = func(*runtimeapi.ContainerConfig) fakecri.Script {
		if starts.Add(1) == 1 {
			return fakecri.Script{StartErr: status.Error(codes.Unavailable, "error reading from server: EOF")}
		}
		return fakecri.Script{}
	}
	n := newNode(t, rt)
	pod := testPod("a", func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever })
	n.m.Set(Desired{Pod: pod})
	n.until("running", func() bool {
		st := n.status(pod.UID)
		return len(st.ContainerStatuses) > 0 && st.ContainerStatuses[0].State.Running != nil
	})
	if st := n.status(pod.UID).ContainerStatuses[0]; st.RestartCount != 0 {
		t.Errorf("restarts: %d", st.RestartCount)
	}
	created := 0
	for _, call := range rt.Calls() {
		if strings.HasPrefix(call, "CreateContainer") {
			created++
		}
	}
	if created > 1 || starts.Load() != 2 {
		t.Errorf("created %d times, started %d times", created, starts.Load())
	}
}
