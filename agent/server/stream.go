package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/cri"
)

// streams are which of a process's streams a client wants.
type streams struct{ stdin, stdout, stderr, tty bool }

func streamsOf(q url.Values) (streams, error) {
	s := streams{
		stdin: isOn(q.Get(corev1.ExecStdinParam)), stdout: isOn(q.Get(corev1.ExecStdoutParam)),
		stderr: isOn(q.Get(corev1.ExecStderrParam)), tty: isOn(q.Get(corev1.ExecTTYParam)),
	}
	if s.tty {
		s.stderr = false // a terminal has one output
	}
	if !s.stdin && !s.stdout && !s.stderr {
		return s, errors.New("you must specify at least 1 of stdin, stdout, stderr")
	}
	return s, nil
}

func isOn(v string) bool { return v == "1" || strings.EqualFold(v, "true") }

func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	want, err := streamsOf(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_, c, err := s.container(r)
	if err != nil {
		writeError(w, err)
		return
	}
	resp, err := s.cfg.Runtime.Exec(r.Context(), &runtimeapi.ExecRequest{
		ContainerId: c.ID, Cmd: r.URL.Query()[corev1.ExecCommandParam], Tty: want.tty, Stdin: want.stdin, Stdout: want.stdout, Stderr: want.stderr,
	})
	if err != nil {
		writeError(w, err)
		return
	}
	s.proxy(w, r, resp.Url)
}

func (s *Server) attach(w http.ResponseWriter, r *http.Request) {
	want, err := streamsOf(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	pod, c, err := s.container(r)
	if err != nil {
		writeError(w, err)
		return
	}
	// The container's own terminal counts, not the client's wish.
	want.tty = hasTTY(pod, c.Name)
	if want.tty {
		want.stderr = false
	}
	resp, err := s.cfg.Runtime.Attach(r.Context(), &runtimeapi.AttachRequest{
		ContainerId: c.ID, Tty: want.tty, Stdin: want.stdin, Stdout: want.stdout, Stderr: want.stderr,
	})
	if err != nil {
		writeError(w, err)
		return
	}
	s.proxy(w, r, resp.Url)
}

func hasTTY(pod *corev1.Pod, name string) bool {
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return list[i].TTY
			}
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if e := &pod.Spec.EphemeralContainers[i]; e.Name == name {
			return e.TTY
		}
	}
	return false
}

func (s *Server) portForward(w http.ResponseWriter, r *http.Request) {
	pod, err := s.pod(r)
	if err != nil {
		writeError(w, err)
		return
	}
	observed := s.cfg.Pods.Cache().Get(pod.UID)
	sandbox := observed.Sandbox()
	if sandbox == nil || sandbox.State != cri.Running {
		writeError(w, fmt.Errorf("%w: pod %s/%s has no running sandbox", errNoPod, pod.Namespace, pod.Name))
		return
	}
	var ports []int32
	for _, text := range r.URL.Query()["port"] { // only WebSocket clients name them here
		for _, p := range strings.Split(text, ",") {
			n, err := strconv.ParseUint(p, 10, 16)
			if err != nil || n == 0 {
				http.Error(w, fmt.Sprintf("invalid port %q", p), http.StatusBadRequest)
				return
			}
			ports = append(ports, int32(n))
		}
	}
	resp, err := s.cfg.Runtime.PortForward(r.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: sandbox.ID, Port: ports})
	if err != nil {
		writeError(w, err)
		return
	}
	s.proxy(w, r, resp.Url)
}

// run runs a command to its end and answers with its output.
func (s *Server) run(w http.ResponseWriter, r *http.Request) {
	_, c, err := s.container(r)
	if err != nil {
		writeError(w, err)
		return
	}
	resp, err := s.cfg.Runtime.ExecSync(r.Context(), &runtimeapi.ExecSyncRequest{ContainerId: c.ID, Cmd: strings.Fields(r.FormValue("cmd"))})
	if err != nil {
		writeError(w, err)
		return
	}
	if resp.ExitCode != 0 {
		w.WriteHeader(http.StatusInternalServerError)
	}
	_, _ = w.Write(resp.Stdout)
	_, _ = w.Write(resp.Stderr)
	if resp.ExitCode != 0 {
		_, _ = fmt.Fprintf(w, "command exited with code %d", resp.ExitCode)
	}
}

// writeError answers with the HTTP status that a runtime's gRPC code stands for.
func writeError(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	switch {
	case errors.Is(err, errNoPod), errors.Is(err, errNoContainer), status.Code(err) == codes.NotFound:
		code = http.StatusNotFound
	case status.Code(err) == codes.ResourceExhausted:
		w.Header().Set("Retry-After", "1")
		code = http.StatusTooManyRequests
	}
	http.Error(w, cri.Text(err), code)
}

// proxy hands an upgraded connection (SPDY or WebSocket) to the runtime's streaming server and copies bytes both ways
// until either side ends.
func (s *Server) proxy(w http.ResponseWriter, r *http.Request, to string) {
	target, err := url.Parse(to)
	if err != nil || target.Scheme != "http" {
		http.Error(w, fmt.Sprintf("the runtime's streaming URL %q can't be used", to), http.StatusBadGateway)
		return
	}
	if r.Header.Get("Upgrade") == "" {
		http.Error(w, "Upgrade request required", http.StatusBadRequest)
		return
	}
	backend, response, head, err := upgrade(r.Context(), r, target)
	if err != nil {
		http.Error(w, "the runtime's streaming server: "+err.Error(), http.StatusBadGateway)
		return
	}
	defer func() { _ = backend.Close() }()
	if response.StatusCode != http.StatusSwitchingProtocols {
		defer func() { _ = response.Body.Close() }()
		for k, v := range response.Header {
			w.Header()[k] = v
		}
		w.WriteHeader(response.StatusCode)
		_, _ = io.Copy(w, io.LimitReader(response.Body, 64<<10))
		return
	}
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "this connection can't be upgraded: use HTTP/1.1", http.StatusInternalServerError)
		return
	}
	defer func() { _ = client.Close() }()
	_ = client.SetDeadline(time.Time{})
	var answer bytes.Buffer // it comes in some twenty pieces, each of which would be a TLS record
	if err := response.Write(&answer); err != nil {
		return
	}
	if _, err := client.Write(answer.Bytes()); err != nil {
		return
	}
	stop := context.AfterFunc(r.Context(), func() { _ = client.Close(); _ = backend.Close() })
	defer stop()
	// What the HTTP server has read ahead, and then the connection itself: reading on through the server's reader would
	// end the request's context when the client has sent all it wants to.
	early, _ := buffered.Reader.Peek(buffered.Reader.Buffered())
	join(client, io.MultiReader(bytes.NewReader(early), client), backend, head)
}

// upgrade sends a client's request on, and returns the answer and what was read behind it.
func upgrade(ctx context.Context, r *http.Request, target *url.URL) (net.Conn, *http.Response, *bufio.Reader, error) {
	dialer := net.Dialer{Timeout: 10 * time.Second}
	backend, err := dialer.DialContext(ctx, "tcp", target.Host)
	if err != nil {
		return nil, nil, nil, err
	}
	out := (&http.Request{Method: r.Method, URL: target, Host: target.Host, Header: r.Header.Clone(), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}).WithContext(ctx)
	out.Header.Del("Authorization") // the caller's credentials are none of the runtime's business
	if err := out.Write(backend); err != nil {
		return nil, nil, nil, errors.Join(err, backend.Close())
	}
	head := bufio.NewReader(backend)
	response, err := http.ReadResponse(head, out)
	if err != nil {
		return nil, nil, nil, errors.Join(err, backend.Close())
	}
	return backend, response, head, nil
}

// join copies both ways. When one way ends, the other gets the rest of what is on its way.
func join(client net.Conn, fromClient io.Reader, backend net.Conn, fromBackend io.Reader) {
	var wg sync.WaitGroup
	pipe := func(to net.Conn, from io.Reader) {
		_, _ = io.Copy(to, from)
		if half, ok := to.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		} else {
			_ = to.Close()
		}
	}
	wg.Go(func() { pipe(backend, fromClient) })
	pipe(client, fromBackend)
	_ = client.SetReadDeadline(time.Now().Add(time.Second)) // nobody listens any more
	wg.Wait()
}
