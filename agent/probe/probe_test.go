package probe

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/action"
	"github.com/mote-edge/mote/agent/meter"
)

func TestTally(t *testing.T) {
	spec := &corev1.Probe{SuccessThreshold: 2, FailureThreshold: 3}
	for name, c := range map[string]struct{ results, verdicts string }{
		"failures in a row":        {"FFFF", "..FF"},
		"a success starts it over": {"FFSFFF", ".....F"},
		"successes in a row":       {"SS", ".S"},
		"to and fro":               {"SSFFFSS", ".S..F.S"},
	} {
		var tl tally
		var got strings.Builder
		for _, r := range c.results {
			v := Success
			if r == 'F' {
				v = Failure
			}
			got.WriteByte(".SF"[tl.add(v, spec)])
		}
		if got.String() != c.verdicts {
			t.Errorf("%s: %s gives %s, want %s", name, c.results, got.String(), c.verdicts)
		}
	}
}

// execer answers exec probes by its flag.
type execer struct{ sick atomic.Bool }

func (e *execer) ExecSync(context.Context, *runtimeapi.ExecSyncRequest, ...grpc.CallOption) (*runtimeapi.ExecSyncResponse, error) {
	if e.sick.Load() {
		return &runtimeapi.ExecSyncResponse{Stderr: []byte("sick"), ExitCode: 1}, nil
	}
	return &runtimeapi.ExecSyncResponse{}, nil
}

func execProbe() *corev1.Probe {
	return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"x"}}}, PeriodSeconds: 1, FailureThreshold: 1}
}

func next(t *testing.T, ch chan Result) Result {
	t.Helper()
	select {
	case r := <-ch:
		return r
	case <-time.After(5 * time.Second):
		t.Fatal("no result")
	}
	return Result{}
}

// Liveness and readiness wait for the startup probe, and begin right after it.
func TestStartupHoldsTheOthers(t *testing.T) {
	e := &execer{}
	e.sick.Store(true)
	results := make(chan Result, 100)
	s := New(t.Context(), &action.Runner{Exec: e}, func(r Result) { results <- r })
	c := &corev1.Container{Name: "c", StartupProbe: execProbe(), LivenessProbe: execProbe(), ReadinessProbe: execProbe()}
	c.StartupProbe.FailureThreshold = 3
	s.Add(Target{UID: "u", ContainerID: "id", Container: c, Pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}}, StartedAt: time.Now()})
	if r := next(t, results); r.Kind != Startup || r.Verdict != Unknown || !r.Failed || r.Message != "sick" {
		t.Errorf("first result %+v", r)
	}
	e.sick.Store(false)
	// All three come at once then, and each in a goroutine of its own: in any order.
	kinds := map[Kind]bool{}
	var began time.Time
	for range 3 {
		r := next(t, results)
		if began.IsZero() {
			began = time.Now()
		}
		kinds[r.Kind] = r.Verdict == Success
	}
	if !kinds[Startup] || !kinds[Liveness] || !kinds[Readiness] || time.Since(began) > 900*time.Millisecond {
		t.Errorf("%v after %v: want all at once", kinds, time.Since(began))
	}
	text := &meter.Text{}
	s.Write(text)
	for _, want := range []string{`prober_probe_total{container="c",namespace="ns",pod="p",probe_type="Startup",pod_uid="u",result="failed"} 1`, `probe_type="Readiness",pod_uid="u",result="successful"} 1`, `prober_probe_duration_seconds_count{container="c",namespace="ns",pod="p",probe_type="Startup"} 2`} {
		if !strings.Contains(string(text.Bytes()), want+"\n") {
			t.Errorf("no %q in\n%s", want, text.Bytes())
		}
	}
	s.Remove("id")
	e.sick.Store(true)
	select {
	case r := <-results:
		t.Errorf("a result of a container that is gone: %+v", r)
	case <-time.After(1500 * time.Millisecond):
	}
}

func TestActions(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/away":
			http.Redirect(w, r, "http://elsewhere.invalid/", http.StatusFound)
		case r.URL.Path == "/header" && (r.Header.Get("X-A") != "1" || r.Host != "my.host" || r.UserAgent() != "kube-probe/x"):
			w.WriteHeader(http.StatusBadRequest)
		case r.URL.Path == "/slow":
			time.Sleep(2 * time.Second)
		case r.URL.Path == "/bad":
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	defer web.Close()
	host, portText, _ := net.SplitHostPort(web.Listener.Addr().String())
	port, _ := strconv.Atoi(portText)
	run := &action.Runner{UserAgent: "kube-probe/x"}
	target := action.Target{PodIP: host, Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: int32(port)}}}
	for path, want := range map[string]string{"/": "", "/away": "Probe terminated redirects, Response body: <a href=", "/header": "", "/bad": "HTTP probe failed with statuscode: 500", "/slow": "deadline exceeded"} {
		_, err := run.HTTP(t.Context(), target, &corev1.HTTPGetAction{
			Path: path, Port: intstr.FromString("web"), HTTPHeaders: []corev1.HTTPHeader{{Name: "X-A", Value: "1"}, {Name: "Host", Value: "my.host"}},
		}, time.Second)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("GET %s: %v, want %q", path, err, want)
		}
	}
	if err := run.TCP(t.Context(), target, &corev1.TCPSocketAction{Port: intstr.FromInt32(int32(port))}, time.Second); err != nil {
		t.Error(err)
	}
	if err := run.TCP(t.Context(), target, &corev1.TCPSocketAction{Port: intstr.FromString("nope")}, time.Second); err == nil || !strings.Contains(err.Error(), "couldn't find port: nope") {
		t.Errorf("a port without a name: %v", err)
	}
}
