package meter

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestText(t *testing.T) {
	x := &Text{}
	x.Value("a", "gauge", "An a.", 1.5)
	h := NewHistogram([]float64{1, 2})
	for _, v := range []float64{.5, 1, 1.5, 7} {
		h.Observe(v)
	}
	x.Histogram("h", "An h.", h, "x", `q"\`)
	want := `# HELP a An a.
# TYPE a gauge
a 1.5
# HELP h An h.
# TYPE h histogram
h_bucket{x="q\"\\",le="1"} 2
h_bucket{x="q\"\\",le="2"} 3
h_bucket{x="q\"\\",le="+Inf"} 4
h_sum{x="q\"\\"} 10
h_count{x="q\"\\"} 4
`
	if got := string(x.Bytes()); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

func TestOperations(t *testing.T) {
	for method, want := range map[string]string{
		"/runtime.v1.RuntimeService/RunPodSandbox": "run_podsandbox", "/runtime.v1.RuntimeService/UpdateContainerResources": "update_container",
		"/runtime.v1.ImageService/ImageFsInfo": "image_fs_info", "/runtime.v1.RuntimeService/ExecSync": "exec_sync", "/runtime.v1.RuntimeService/Version": "version",
	} {
		if got := operation(method); got != want {
			t.Errorf("%s: %s, want %s", method, got, want)
		}
	}
	r := NewRuntime()
	fail := errors.New("no")
	for _, err := range []error{nil, nil, fail} {
		got := r.Intercept(t.Context(), "/x/RunPodSandbox", nil, nil, nil, func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return err })
		if !errors.Is(got, err) {
			t.Error(got)
		}
	}
	contains(t, r.Write, `kubelet_runtime_operations_total{operation_type="run_podsandbox"} 3`, `kubelet_runtime_operations_errors_total{operation_type="run_podsandbox"} 1`,
		`kubelet_runtime_operations_duration_seconds_count{operation_type="run_podsandbox"} 3`, "kubelet_started_pods_total 2")
}

func contains(t *testing.T, write func(*Text), want ...string) {
	t.Helper()
	x := &Text{}
	write(x)
	for _, w := range want {
		if !strings.Contains("\n"+string(x.Bytes()), "\n"+w+"\n") {
			t.Errorf("%q isn't in\n%s", w, x.Bytes())
		}
	}
}

type answer int

func (a answer) RoundTrip(*http.Request) (*http.Response, error) {
	if a == 0 {
		return nil, errors.New("no")
	}
	return &http.Response{StatusCode: int(a)}, nil
}

func TestRequests(t *testing.T) {
	r := NewRequests()
	for _, a := range []answer{200, 200, 404, 0} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://api:6443/x", nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp, _ := r.Wrap(a).RoundTrip(req); resp != nil && resp.Body != nil {
			_ = resp.Body.Close()
		}
	}
	contains(t, r.Write, `rest_client_requests_total{code="200",host="api:6443",method="GET"} 2`, `rest_client_requests_total{code="<error>",host="api:6443",method="GET"} 1`,
		`rest_client_request_duration_seconds_count{host="api:6443",verb="GET"} 4`)
}

func TestPodStarts(t *testing.T) {
	now := time.Unix(1000, 0)
	p := NewPods()
	p.now, p.begun = func() time.Time { return now }, now
	pod := &corev1.Pod{}
	pod.UID, pod.CreationTimestamp = "u", metav1.NewTime(now)
	pod.Spec.InitContainers = []corev1.Container{{Name: "i"}}
	pending := &corev1.PodStatus{Phase: corev1.PodPending}
	p.Status(pod, pending)
	p.Event(pod, "c", "Pulling")
	now = now.Add(5 * time.Second)
	p.Event(pod, "c", "Pulled")
	p.Event(pod, "i", "Started")
	p.Event(pod, "c", "Started")
	now = now.Add(time.Second)
	running := &corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(now)}}}}}
	p.Status(pod, running)
	p.Status(pod, running)
	old := &corev1.Pod{}
	old.UID, old.CreationTimestamp = "old", metav1.NewTime(now.Add(-time.Hour))
	p.Status(old, running)
	contains(t, p.Write, "kubelet_pod_start_sli_duration_seconds_sum 1", "kubelet_pod_start_total_duration_seconds_sum 6", "kubelet_pod_start_duration_seconds_sum 6",
		"kubelet_pod_start_total_duration_seconds_count 1", `kubelet_started_containers_total{container_type="init_container"} 1`)
	p.Forget("u")
	p.Forget("old")
	if len(p.starting) > 0 {
		t.Error("pods aren't forgotten")
	}
}

// Each attempt counts once, however often its end is reported; those that the API knew before the agent began don't.
func TestContainerEnds(t *testing.T) {
	p := NewPods()
	pod := &corev1.Pod{}
	pod.UID = "u"
	ended := func(id string, code int32, reason string) corev1.ContainerState {
		return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ContainerID: id, ExitCode: code, Reason: reason}}
	}
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: ended("1", 1, "Error")}}
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	for _, c := range []corev1.ContainerStatus{
		{Name: "c", State: running, LastTerminationState: ended("1", 1, "Error")},
		{Name: "c", State: ended("2", 139, "Error"), LastTerminationState: ended("1", 1, "Error")},
		{Name: "c", State: ended("2", 139, "Error"), LastTerminationState: ended("1", 1, "Error")},
		{Name: "c", State: running, LastTerminationState: ended("2", 139, "Error")},
		{Name: "c", State: running, LastTerminationState: ended("3", 139, "Error")}, // it was over before anybody looked
	} {
		p.Status(pod, &corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{c}, InitContainerStatuses: []corev1.ContainerStatus{{Name: "i", State: ended("", 0, "Completed")}}})
	}
	contains(t, p.Write, `kubelet_terminated_containers_total{container_type="container",exit_code="139",reason="Error"} 2`,
		`kubelet_terminated_containers_total{container_type="init_container",exit_code="0",reason="Completed"} 1`)
	x := &Text{}
	p.Write(x)
	if strings.Contains(string(x.Bytes()), `exit_code="1"`) {
		t.Errorf("an end before the agent's time was counted:\n%s", x.Bytes())
	}
}
