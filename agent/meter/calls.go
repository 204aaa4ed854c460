package meter

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	"google.golang.org/grpc"
)

// Runtime counts and times calls to the container runtime.
type Runtime struct {
	calls, errors family[*atomic.Int64]
	times         family[*Histogram]
}

// NewRuntime returns one that has seen nothing.
func NewRuntime() *Runtime {
	return &Runtime{calls: counters(), errors: counters(), times: histograms(Calls)}
}

// Intercept is a gRPC client interceptor.
func (r *Runtime) Intercept(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	begin := time.Now()
	err := invoke(ctx, method, req, reply, cc, opts...)
	name := operation(method)
	r.calls.of(name).Add(1)
	r.times.of(name).Observe(time.Since(begin).Seconds())
	if err != nil {
		r.errors.of(name).Add(1)
	}
	return err
}

// Write writes what was counted.
func (r *Runtime) Write(t *Text) {
	r.calls.each(func(l []string, n *atomic.Int64) {
		t.Value("kubelet_runtime_operations_total", "counter", "Cumulative number of runtime operations by operation type.", float64(n.Load()), "operation_type", l[0])
	})
	r.errors.each(func(l []string, n *atomic.Int64) {
		t.Value("kubelet_runtime_operations_errors_total", "counter", "Cumulative number of runtime operation errors by operation type.", float64(n.Load()), "operation_type", l[0])
	})
	r.times.each(func(l []string, h *Histogram) {
		t.Histogram("kubelet_runtime_operations_duration_seconds", "Duration in seconds of runtime operations. Broken down by operation type.", h, "operation_type", l[0])
	})
	t.Value("kubelet_started_pods_total", "counter", "Cumulative number of pods started", float64(r.calls.of("run_podsandbox").Load()-r.errors.of("run_podsandbox").Load()))
	t.Value("kubelet_started_pods_errors_total", "counter", "Cumulative number of errors when starting pods", float64(r.errors.of("run_podsandbox").Load()))
}

// operation is a CRI method by the name that kubelets have for it: /runtime.v1.RuntimeService/RunPodSandbox is
// run_podsandbox.
func operation(method string) string {
	name := method[strings.LastIndexByte(method, '/')+1:]
	name = strings.ReplaceAll(strings.TrimSuffix(name, "Resources"), "PodSandbox", "Podsandbox")
	var b strings.Builder
	for i, c := range name {
		if unicode.IsUpper(c) && i > 0 {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(c))
	}
	return b.String()
}

// Requests counts and times requests to the API server.
type Requests struct {
	calls family[*atomic.Int64]
	times family[*Histogram]
}

// NewRequests returns one that has seen nothing.
func NewRequests() *Requests {
	return &Requests{calls: counters(), times: histograms(Probes)}
}

// Wrap is a rest.Config's transport wrapper.
func (r *Requests) Wrap(next http.RoundTripper) http.RoundTripper { return &counting{next, r} }

type counting struct {
	next http.RoundTripper
	to   *Requests
}

// RoundTrip implements http.RoundTripper.
func (c *counting) RoundTrip(req *http.Request) (*http.Response, error) {
	begin := time.Now()
	resp, err := c.next.RoundTrip(req)
	code := "<error>"
	if resp != nil {
		code = strconv.Itoa(resp.StatusCode)
	}
	c.to.calls.of(code, req.Method, req.URL.Host).Add(1)
	c.to.times.of(req.URL.Host, req.Method).Observe(time.Since(begin).Seconds())
	return resp, err
}

// WrappedRoundTripper lets client-go find the transport below.
func (c *counting) WrappedRoundTripper() http.RoundTripper { return c.next }

// Write writes what was counted.
func (r *Requests) Write(t *Text) {
	r.calls.each(func(l []string, n *atomic.Int64) {
		t.Value("rest_client_requests_total", "counter", "Number of HTTP requests, partitioned by status code, method, and host.", float64(n.Load()), "code", l[0], "host", l[2], "method", l[1])
	})
	r.times.each(func(l []string, h *Histogram) {
		t.Histogram("rest_client_request_duration_seconds", "Request latency in seconds. Broken down by verb, and host.", h, "host", l[0], "verb", l[1])
	})
}
