// Package action does what probes and lifecycle hooks ask for: a command in the container, an HTTP or gRPC request, a
// TCP connection, a sleep.
//
// Reads:  what the pod answers.
// Writes: nothing.
package action

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxBody bounds what is read of an answer.
const maxBody = 10 << 10

// Execer is CRI's ExecSync.
type Execer interface {
	ExecSync(ctx context.Context, q *runtimeapi.ExecSyncRequest, opts ...grpc.CallOption) (*runtimeapi.ExecSyncResponse, error)
}

// Target is the container that an action is about.
type Target struct {
	ContainerID string
	PodIP       string
	Ports       []corev1.ContainerPort // for ports by name
}

// Runner runs actions.
type Runner struct {
	Exec Execer
	// UserAgent is sent with HTTP and gRPC requests ("kube-probe/1.37").
	UserAgent string
}

// ErrFailed marks an answer of the container that says no, as against an action that couldn't be done.
var ErrFailed = errors.New("failed")

// ErrWarned marks an answer that counts as a yes and that somebody should know of.
var ErrWarned = errors.New("warned")

type warning string

func (w warning) Error() string   { return string(w) }
func (warning) Is(err error) bool { return err == ErrWarned }

type failure string

func (f failure) Error() string   { return string(f) }
func (failure) Is(err error) bool { return err == ErrFailed }

// Command runs a command in the container: a code other than 0 is a failure whose text is the output.
func (r *Runner) Command(ctx context.Context, t Target, cmd []string, timeout time.Duration) (string, error) {
	resp, err := r.Exec.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: t.ContainerID, Cmd: cmd, Timeout: int64(timeout.Round(time.Second) / time.Second)})
	if status.Code(err) == codes.DeadlineExceeded {
		return "", failure(fmt.Sprintf("command timed out: %q timed out after %s", strings.Join(cmd, " "), timeout))
	}
	if err != nil {
		return "", err
	}
	out := string(resp.Stdout) + string(resp.Stderr)
	if len(out) > maxBody {
		out = out[:maxBody]
	}
	if resp.ExitCode != 0 {
		return out, failure(out)
	}
	return out, nil
}

// Port resolves a port number or name.
func (t Target) Port(p intstr.IntOrString) (int, error) {
	n := p.IntValue()
	if p.Type == intstr.String && n == 0 {
		for _, c := range t.Ports {
			if c.Name == p.StrVal {
				return int(c.ContainerPort), nil
			}
		}
		return 0, fmt.Errorf("couldn't find port: %v", p.String())
	}
	if n < 1 || n > 65535 {
		return 0, fmt.Errorf("invalid port number: %v", p.String())
	}
	return n, nil
}

// HTTP sends the request; 2xx is success. A redirect to another host isn't followed and counts as success, with ErrWarned.
func (r *Runner) HTTP(ctx context.Context, t Target, a *corev1.HTTPGetAction, timeout time.Duration) (string, error) {
	port, err := t.Port(a.Port)
	if err != nil {
		return "", err
	}
	host := a.Host
	if host == "" {
		host = t.PodIP
	}
	u, err := url.Parse(a.Path)
	if err != nil {
		u = &url.URL{Path: a.Path}
	}
	u.Scheme, u.Host = strings.ToLower(string(a.Scheme)), net.JoinHostPort(host, strconv.Itoa(port))
	if u.Scheme == "" {
		u.Scheme = "http"
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("User-Agent", r.UserAgent)
	req.Header.Set("Accept", "*/*")
	for i, h := range a.HTTPHeaders {
		if strings.EqualFold(h.Name, "host") {
			req.Host = h.Value
			continue
		}
		first := true
		for _, before := range a.HTTPHeaders[:i] {
			first = first && !strings.EqualFold(before.Name, h.Name)
		}
		if first {
			req.Header.Set(h.Name, h.Value)
		} else {
			req.Header.Add(h.Name, h.Value)
		}
	}
	client := &http.Client{
		// A transport a probe: no idle connection is kept, and nothing is shared between pods.
		Transport: &http.Transport{
			DisableKeepAlives: true, Proxy: nil, DisableCompression: true,
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // kubelet probes don't verify, by contract
		},
		CheckRedirect: func(next *http.Request, via []*http.Request) error {
			if next.URL.Hostname() != via[0].URL.Hostname() || len(via) >= 10 {
				return http.ErrUseLastResponse
			}
			return nil
		},
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", failure(err.Error())
	}
	defer func() { _ = resp.Body.Close() }()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	switch {
	case resp.StatusCode >= 200 && resp.StatusCode < 300:
		return string(body), nil
	case resp.StatusCode >= 300 && resp.StatusCode < 400: // a redirect that wasn't followed
		return string(body), warning("Probe terminated redirects, Response body: " + string(body))
	}
	return string(body), failure(fmt.Sprintf("HTTP probe failed with statuscode: %d", resp.StatusCode))
}

// TCP opens a connection.
func (r *Runner) TCP(ctx context.Context, t Target, a *corev1.TCPSocketAction, timeout time.Duration) error {
	port, err := t.Port(a.Port)
	if err != nil {
		return err
	}
	host := a.Host
	if host == "" {
		host = t.PodIP
	}
	d := net.Dialer{Timeout: timeout}
	c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return failure(err.Error())
	}
	return c.Close()
}

// GRPC asks the standard health service.
func (r *Runner) GRPC(ctx context.Context, t Target, a *corev1.GRPCAction, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	addr := net.JoinHostPort(t.PodIP, strconv.Itoa(int(a.Port)))
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUserAgent(r.UserAgent), grpc.WithNoProxy())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	service := ""
	if a.Service != nil {
		service = *a.Service
	}
	ctx = metadata.NewOutgoingContext(ctx, metadata.New(nil))
	resp, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: service}, grpc.WaitForReady(true))
	switch status.Code(err) {
	case codes.OK:
		if resp.GetStatus() == healthpb.HealthCheckResponse_SERVING {
			return nil
		}
		return failure(fmt.Sprintf("service unhealthy (responded with %q)", resp.GetStatus()))
	case codes.Unimplemented:
		return failure(fmt.Sprintf("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): %s", status.Convert(err).Message()))
	case codes.DeadlineExceeded:
		return failure(fmt.Sprintf("timeout: failed to connect service %q within %v: %v", addr, timeout, err))
	}
	return failure(fmt.Sprintf("error: health rpc failed: %v", err))
}

// Hook runs a lifecycle handler. It lasts as long as ctx and the handler's own rules let it.
func (r *Runner) Hook(ctx context.Context, t Target, h *corev1.LifecycleHandler) error {
	// A hook has no timeout of its own: the grace period, through ctx, is its bound.
	bound := 24 * time.Hour
	if end, ok := ctx.Deadline(); ok {
		bound = max(time.Until(end), time.Second)
	}
	switch {
	case h.Exec != nil:
		out, err := r.Command(ctx, t, h.Exec.Command, bound)
		if errors.Is(err, ErrFailed) {
			return fmt.Errorf("command '%s' exited with a failure: %q", strings.Join(h.Exec.Command, " "), out)
		}
		return err
	case h.HTTPGet != nil:
		_, err := r.HTTP(ctx, t, h.HTTPGet, bound)
		if errors.Is(err, ErrWarned) {
			return nil
		}
		return err
	case h.TCPSocket != nil:
		return r.TCP(ctx, t, h.TCPSocket, bound)
	case h.Sleep != nil:
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(h.Sleep.Seconds) * time.Second):
			return nil
		}
	}
	return errors.New("invalid handler: it has no action")
}
