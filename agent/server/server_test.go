package server

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/mote-edge/mote/agent/cgroup"
	"github.com/mote-edge/mote/agent/cri"
	"github.com/mote-edge/mote/agent/meter"
)

// world is a node with one pod: container "c", restarted once, and "new", which waits for its image.
type world struct {
	pod   *corev1.Pod
	cache *cri.Cache
	mu    sync.Mutex
	url   string // of the streaming server
	asked []string
	fail  error
	sars  int
	trs   int
}

func newWorld(t *testing.T) (*world, *httptest.Server) {
	t.Helper()
	dir := t.TempDir()
	w := &world{cache: cri.NewCache(func(types.UID) {})}
	w.pod = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "uid-1"}}
	w.pod.Spec.Containers = []corev1.Container{{Name: "c"}, {Name: "new"}}
	w.pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "new", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff"}}}}
	labels := map[string]string{cri.LabelPodName: "p", cri.LabelPodNamespace: "ns", cri.LabelPodUID: "uid-1", cri.LabelContainerName: "c"}
	w.cache.SetSandbox(&runtimeapi.PodSandboxStatus{Id: "sb", State: runtimeapi.PodSandboxState_SANDBOX_READY, Metadata: &runtimeapi.PodSandboxMetadata{Name: "p", Namespace: "ns", Uid: "uid-1"}, Labels: labels}, nil)
	for i, state := range []runtimeapi.ContainerState{runtimeapi.ContainerState_CONTAINER_EXITED, runtimeapi.ContainerState_CONTAINER_RUNNING} {
		path := filepath.Join(dir, fmt.Sprintf("%d.log", i))
		if err := os.WriteFile(path, fmt.Appendf(nil, "2026-01-01T00:00:0%dZ stdout F attempt %d\n", i, i), 0o600); err != nil {
			t.Fatal(err)
		}
		w.cache.SetContainer("uid-1", "sb", &runtimeapi.ContainerStatus{
			Id: fmt.Sprintf("id%d", i), State: state, Metadata: &runtimeapi.ContainerMetadata{Name: "c", Attempt: uint32(i)}, Labels: labels, LogPath: path,
			CreatedAt: int64(i + 1), StartedAt: int64(i + 1), Image: &runtimeapi.ImageSpec{Image: "img"},
		})
	}
	tally := meter.NewTally()
	s := New(Config{
		NodeName: "n1", Pods: w, Runtime: w, Usage: w, Reviews: w, System: map[string]string{"pods": "/kubepods"},
		Links: func(string) []cgroup.Link { return []cgroup.Link{{Name: "eth0", RxPackets: 7, TxDropped: 2}} },
		Detail: func(string) cgroup.Detail {
			return cgroup.Detail{IOPressure: &cgroup.Pressure{Some: cgroup.Stall{Avg10: 1.5, Total: 2 * time.Second}}, CPUPressure: &cgroup.Pressure{Full: cgroup.Stall{Total: time.Second}}}
		},
		DataDir: dir, NodeLogs: dir, PodLogDir: dir, Tally: tally, Metrics: func(m *Metrics) { tally.Write(m) },
	})
	srv := httptest.NewServer(s.Handler())
	t.Cleanup(srv.Close)
	return w, srv
}

func (w *world) Pods() []*corev1.Pod { return []*corev1.Pod{w.pod} }
func (w *world) Pod(ns, name string) (*corev1.Pod, bool) {
	return w.pod, ns == "ns" && name == "p"
}
func (w *world) Cache() *cri.Cache          { return w.cache }
func (w *world) PodPath(*corev1.Pod) string { return "/kubepods/poduid-1" }
func (w *world) Usage(p string) (cgroup.Usage, error) {
	return cgroup.Usage{Time: time.Now(), CPUNanos: 5e9, Memory: 2 << 20, WorkingSet: 1 << 20, Limit: 4 << 20, PIDs: 3, Swap: new(uint64(1 << 10)), SwapLimit: new(uint64(3 << 10))}, nil
}

func (w *world) ask(format string, args ...any) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, fmt.Sprintf(format, args...))
	return w.url, w.fail
}

func (w *world) Exec(_ context.Context, in *runtimeapi.ExecRequest, _ ...grpc.CallOption) (*runtimeapi.ExecResponse, error) {
	u, err := w.ask("exec %s %q in=%t out=%t err=%t tty=%t", in.ContainerId, in.Cmd, in.Stdin, in.Stdout, in.Stderr, in.Tty)
	return &runtimeapi.ExecResponse{Url: u}, err
}

func (w *world) Attach(_ context.Context, in *runtimeapi.AttachRequest, _ ...grpc.CallOption) (*runtimeapi.AttachResponse, error) {
	u, err := w.ask("attach %s tty=%t", in.ContainerId, in.Tty)
	return &runtimeapi.AttachResponse{Url: u}, err
}

func (w *world) PortForward(_ context.Context, in *runtimeapi.PortForwardRequest, _ ...grpc.CallOption) (*runtimeapi.PortForwardResponse, error) {
	u, err := w.ask("forward %s %v", in.PodSandboxId, in.Port)
	return &runtimeapi.PortForwardResponse{Url: u}, err
}

func (w *world) ExecSync(_ context.Context, in *runtimeapi.ExecSyncRequest, _ ...grpc.CallOption) (*runtimeapi.ExecSyncResponse, error) {
	_, err := w.ask("run %q", in.Cmd)
	return &runtimeapi.ExecSyncResponse{Stdout: []byte("out"), Stderr: []byte("err"), ExitCode: int32(len(in.Cmd) - 1)}, err
}

// ReviewToken knows the token "good".
func (w *world) ReviewToken(_ context.Context, tr *authenticationv1.TokenReview) (*authenticationv1.TokenReview, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trs++
	out := tr.DeepCopy()
	if name, ok := strings.CutPrefix(tr.Spec.Token, "token-of-"); ok {
		out.Status = authenticationv1.TokenReviewStatus{Authenticated: true, User: authenticationv1.UserInfo{Username: name, Groups: []string{"system:authenticated"}}}
	}
	return out, nil
}

// ReviewAccess lets "admin" do everything and "reader" read what its name's subresources allow.
func (w *world) ReviewAccess(_ context.Context, sar *authorizationv1.SubjectAccessReview) (*authorizationv1.SubjectAccessReview, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sars++
	out := sar.DeepCopy()
	a := sar.Spec.ResourceAttributes
	out.Status.Allowed = a.Resource == "nodes" && a.Name == "n1" && (sar.Spec.User == "admin" || sar.Spec.User == a.Verb+"-"+a.Subresource)
	return out, nil
}

func request(t *testing.T, method, target, who string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	if who != "" {
		r.Header.Set("Authorization", "Bearer token-of-"+who)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestWhoMayDoWhat(t *testing.T) {
	w, srv := newWorld(t)
	for _, tc := range []struct {
		method, path, who string
		want              int
	}{
		{"GET", "/pods", "", 401},
		{"GET", "/healthz", "", 401},
		{"GET", "/pods", "nobody", 403},
		{"GET", "/pods", "get-pods", 200},
		{"GET", "/pods", "get-proxy", 200},
		{"GET", "/runningpods/", "get-pods", 200},
		{"GET", "/metrics", "get-metrics", 200},
		{"GET", "/metrics/resource", "get-metrics", 200},
		{"GET", "/metrics/cadvisor", "get-metrics", 200},
		{"GET", "/metrics/probes", "get-metrics", 200},
		{"GET", "/metrics", "get-proxy", 403},
		{"GET", "/stats/summary", "get-stats", 200},
		{"GET", "/logs/", "get-log", 200},
		{"GET", "/logs/", "get-proxy", 403},
		{"GET", "/healthz", "get-healthz", 200},
		{"GET", "/statusz", "get-statusz", 200},
		{"GET", "/statusz", "get-log", 403},
		{"GET", "/configz", "get-configz", 200},
		{"GET", "/containerLogs/ns/p/c", "get-proxy", 200},
		{"GET", "/containerLogs/ns/p/c", "get-log", 403},
		{"POST", "/exec/ns/p/c?output=1", "get-proxy", 403},
		{"POST", "/run/ns/p/c?cmd=x", "create-proxy", 200},
		{"GET", "/nothing", "admin", 404},
		{"DELETE", "/pods", "admin", 405},
	} {
		if got, body := request(t, tc.method, srv.URL+tc.path, tc.who); got != tc.want {
			t.Errorf("%s %s as %q: %d %s, want %d", tc.method, tc.path, tc.who, got, body, tc.want)
		}
	}
	w.mu.Lock()
	sars, trs := w.sars, w.trs
	w.mu.Unlock()
	for range 3 {
		request(t, "GET", srv.URL+"/pods", "get-pods")
	}
	if w.sars != sars || w.trs != trs {
		t.Errorf("answers aren't kept: %d→%d access reviews, %d→%d token reviews", sars, w.sars, trs, w.trs)
	}
}

func TestContainerLogs(t *testing.T) {
	_, srv := newWorld(t)
	for query, want := range map[string]struct {
		code int
		body string
	}{
		"c":                      {200, "attempt 1\n"},
		"c?previous=true":        {200, "attempt 0\n"},
		"c?tailLines=0":          {200, ""},
		"c?timestamps=true":      {200, "2026-01-01T00:00:01.000000000Z attempt 1\n"},
		"c?stream=Stderr":        {200, ""},
		"c?stream=odd":           {422, "invalid stream type"},
		"c?tailLines=x":          {422, "tailLines"},
		"c?limitBytes=0":         {422, "limitBytes"},
		"c?sinceTime=yesterday":  {422, "sinceTime"},
		"new":                    {400, `container "new" in pod "p" is waiting to start: trying and failing to pull image`},
		"new?previous=true":      {400, `previous terminated container "new" in pod "p" not found`},
		"none":                   {404, `container "none" not found in pod "p"`},
		"c?sinceSeconds=1000000": {200, ""},
	} {
		code, body := request(t, "GET", srv.URL+"/containerLogs/ns/p/"+query, "admin")
		if code != want.code || want.code == 200 && body != want.body || !strings.Contains(body, want.body) {
			if query != "c?sinceSeconds=1000000" || code != 200 {
				t.Errorf("%s: %d %q, want %d %q", query, code, body, want.code, want.body)
			}
		}
	}
	if code, body := request(t, "GET", srv.URL+"/containerLogs/ns/q/c", "admin"); code != 404 || !strings.Contains(body, `pod "q" does not exist`) {
		t.Errorf("no pod: %d %s", code, body)
	}
}

// echo is a streaming server that upgrades and sends back what it gets, after a greeting in the same packet as its header.
func echo(t *testing.T) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("the caller's credentials reached the runtime")
		}
		if r.URL.Path != "/exec/tok" {
			http.Error(w, "unknown token", http.StatusNotFound)
			return
		}
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+r.Header.Get("Upgrade")+"\r\n\r\nhello ")
		_, _ = io.Copy(conn, buf)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

func TestStreamsGoToTheRuntime(t *testing.T) {
	w, srv := newWorld(t)
	w.url = echo(t) + "/exec/tok"
	host := strings.TrimPrefix(srv.URL, "http://")
	conn, err := net.Dial("tcp", host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	q := url.Values{"command": {"sh", "-c", "a b"}, "input": {"1"}, "output": {"1"}, "error": {"1"}, "tty": {"1"}}
	// The first bytes of the stream come with the request.
	fmt.Fprintf(conn, "POST /exec/ns/p/uid-1/c?%s HTTP/1.1\r\nHost: n\r\nAuthorization: Bearer token-of-admin\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\nping ", q.Encode())
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != "SPDY/3.1" {
		t.Fatalf("%v %v", resp, err)
	}
	fmt.Fprint(conn, "pong")
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if all, err := io.ReadAll(in); err != nil || string(all) != "hello ping pong" {
		t.Errorf("%q, %v", all, err)
	}
	if want := `exec id1 ["sh" "-c" "a b"] in=true out=true err=false tty=true`; w.asked[0] != want {
		t.Errorf("asked %s, want %s", w.asked[0], want)
	}
	for _, tc := range []struct {
		target string
		fail   error
		want   int
	}{
		{"/exec/ns/p/c", nil, 400},                    // no stream
		{"/exec/ns/p/c?output=1", nil, 400},           // no upgrade
		{"/exec/ns/p/none?output=1", nil, 404},        // no such container
		{"/exec/ns/p/other-uid/c?output=1", nil, 404}, // another pod of that name
		{"/exec/ns/p/c?output=1", status.Error(codes.NotFound, "gone"), 404},
		{"/exec/ns/p/c?output=1", errors.New("boom"), 500},
		{"/attach/ns/p/c?output=1", nil, 400},
		{"/portForward/ns/p?port=99999", nil, 400},
		{"/portForward/ns/p", status.Error(codes.ResourceExhausted, "many"), 429},
	} {
		w.fail = tc.fail
		if code, body := request(t, "POST", srv.URL+tc.target, "admin"); code != tc.want {
			t.Errorf("%s: %d %s, want %d", tc.target, code, body, tc.want)
		}
	}
}

func TestRunTellsOfFailure(t *testing.T) {
	_, srv := newWorld(t)
	if code, body := request(t, "POST", srv.URL+"/run/ns/p/c?cmd=true", "admin"); code != 200 || body != "outerr" {
		t.Errorf("%d %q", code, body)
	}
	if code, body := request(t, "POST", srv.URL+"/run/ns/p/c?cmd=exit+1", "admin"); code != 500 || body != "outerrcommand exited with code 1" {
		t.Errorf("%d %q", code, body)
	}
}

func TestSummaryAndMetrics(t *testing.T) {
	_, srv := newWorld(t)
	code, body := request(t, "GET", srv.URL+"/stats/summary", "admin")
	var sum stats.Summary
	if err := json.Unmarshal([]byte(body), &sum); err != nil || code != 200 {
		t.Fatal(code, err)
	}
	if len(sum.Pods) != 1 || len(sum.Pods[0].Containers) != 1 || *sum.Pods[0].Containers[0].Memory.WorkingSetBytes != 1<<20 || *sum.Pods[0].Memory.AvailableBytes != 3<<20 || sum.Node.Fs == nil {
		t.Errorf("summary: %s", body)
	}
	if c := sum.Pods[0].Containers[0]; *c.Swap.SwapUsageBytes != 1<<10 || *c.Swap.SwapAvailableBytes != 2<<10 || c.IO.PSI.Some.Total != 2e9 || c.IO.PSI.Some.Avg10 != 1.5 || c.CPU.PSI.Full.Total != 1e9 || c.Memory.PSI != nil {
		t.Errorf("swap or pressure: %s", body)
	}
	if n := sum.Node; len(n.SystemContainers) != 1 || n.SystemContainers[0].Name != "pods" || n.IO == nil || n.Swap == nil || sum.Pods[0].Swap == nil || sum.Pods[0].IO == nil {
		t.Errorf("node: %s", body)
	}
	_, body = request(t, "GET", srv.URL+"/metrics/cadvisor", "admin")
	if !strings.Contains(body, `container_network_receive_packets_total{container="",id="/kubepods/poduid-1",image="",interface="eth0",name="",namespace="ns",pod="p"} 7`) ||
		!strings.Contains(body, `container_network_transmit_packets_dropped_total{`) {
		t.Errorf("network:\n%s", body)
	}
	if !strings.Contains(body, `container_pressure_io_waiting_seconds_total{container="c",`) || strings.Contains(body, "container_pressure_memory") {
		t.Errorf("pressure:\n%s", body)
	}
	_, body = request(t, "GET", srv.URL+"/metrics/resource", "admin")
	for _, want := range []string{
		"# TYPE container_cpu_usage_seconds_total counter\n", `container_memory_working_set_bytes{container="c",namespace="ns",pod="p"} 1.048576e+06`,
		`pod_cpu_usage_seconds_total{namespace="ns",pod="p"} 5`, "node_cpu_usage_seconds_total 5\n",
		`container_swap_usage_bytes{container="c",namespace="ns",pod="p"} 1024`, `container_swap_limit_bytes{container="c",namespace="ns",pod="p"} 3072`,
		`pod_swap_usage_bytes{namespace="ns",pod="p"} 1024`, "node_swap_usage_bytes 1024\n",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q in\n%s", want, body)
		}
	}
	_, body = request(t, "GET", srv.URL+"/metrics", "admin")
	if !strings.Contains(body, `kubelet_running_containers{container_state="running"} 1`) || !strings.Contains(body, "process_resident_memory_bytes ") {
		t.Errorf("metrics:\n%s", body)
	}
	if !strings.Contains(body, `kubelet_http_requests_total{method="GET",path="stats/summary",long_running="false",server_type="readwrite"} 1`) {
		t.Errorf("requests aren't counted:\n%s", body)
	}
	if strings.Count(body, "# TYPE kubelet_running_containers ") != 1 {
		t.Error("a series is declared twice")
	}
}

func TestLinksOfTheMachine(t *testing.T) {
	n := parseNetwork("Inter-|   Receive |\n face |bytes packets errs\n    lo: 1 0 0 0 0 0 0 0 1 0 0 0 0 0 0 0\n"+
		"cni0: 7 1 2 0 0 0 0 0 8 1 3 0 0 0 0 0\nveth1: 9 0 0 0 0 0 0 0 9 0 0 0 0 0 0 0\n  eth0: 10 1 0 0 0 0 0 0 20 1 0 0 0 0 0 0\n", func(link string) bool { return link == "veth1" })
	if n == nil || n.Name != "eth0" || *n.RxBytes != 10 || *n.TxBytes != 20 || len(n.Interfaces) != 2 || *n.Interfaces[0].RxErrors != 2 || *n.Interfaces[0].TxErrors != 3 {
		t.Errorf("%+v", n)
	}
	if parseNetwork("", nil) != nil {
		t.Error("links out of nothing")
	}
}
