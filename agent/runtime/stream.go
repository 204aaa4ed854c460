package runtime

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"github.com/mote-edge/mote/internal/wholeframes"
)

// startStreaming serves exec, attach and port-forward on loopback; each URL has a token that works once.
func (s *Service) startStreaming(failed chan<- error) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen for streams (is the loopback interface up?): %w", err)
	}
	cfg := streaming.DefaultConfig
	cfg.Addr = listener.Addr().String()
	cfg.BaseURL = &url.URL{Scheme: "http", Host: cfg.Addr}
	s.stream, err = streaming.NewServer(cfg, streams{s})
	if err != nil {
		return fmt.Errorf("streaming server: %w", err)
	}
	server := &http.Server{Handler: s.beginAhead(wholeframes.Handler(s.stream)), ReadHeaderTimeout: 10 * time.Second}
	go func() { failed <- server.Serve(listener) }()
	return nil
}

// streams is what the streaming server calls.
type streams struct{ s *Service }

var _ streaming.Runtime = streams{}

func (t streams) Exec(ctx context.Context, id string, cmd []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	return t.s.execStream(ctx, id, cmd, in, out, errOut, tty, resize)
}

func (t streams) Attach(ctx context.Context, id string, in io.Reader, out, errOut io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize) error {
	return t.s.attachStream(ctx, id, in, out, errOut, resize)
}

func (t streams) PortForward(ctx context.Context, id string, port int32, stream io.ReadWriteCloser) error {
	return t.s.portForward(ctx, id, port, stream)
}

// Exec prepares a streamed exec and returns its URL.
func (s *Service) Exec(_ context.Context, req *cri.ExecRequest) (*cri.ExecResponse, error) {
	c, err := s.container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	if st := c.state(); st != stateRunning {
		return nil, fmt.Errorf("container %q is %s, not running: %w", c.rec.ID, st, errState)
	}
	resp, err := s.stream.GetExec(req)
	if err != nil {
		return nil, err
	}
	s.remember(resp.GetUrl(), req)
	return resp, nil
}

// Attach prepares a streamed attach and returns its URL.
func (s *Service) Attach(_ context.Context, req *cri.AttachRequest) (*cri.AttachResponse, error) {
	c, err := s.container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	if st := c.state(); st != stateRunning {
		return nil, fmt.Errorf("container %q is %s, not running: %w", c.rec.ID, st, errState)
	}
	return s.stream.GetAttach(req)
}

// PortForward prepares a port-forward and returns its URL.
func (s *Service) PortForward(_ context.Context, req *cri.PortForwardRequest) (*cri.PortForwardResponse, error) {
	sb, err := s.sandbox(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	sb.mu.Lock()
	ready := sb.rec.Ready
	sb.mu.Unlock()
	if !ready {
		return nil, fmt.Errorf("sandbox %q is not ready: %w", sb.rec.ID, errState)
	}
	return s.stream.GetPortForward(req)
}

// portForward connects a stream to a port on the pod's loopback.
func (s *Service) portForward(ctx context.Context, id string, port int32, stream io.ReadWriteCloser) error {
	sb, err := s.sandbox(id)
	if err != nil {
		return err
	}
	conn, err := dialIn(ctx, sb.rec.NetPath, port)
	if err != nil {
		return fmt.Errorf("failed to connect to localhost:%d inside the pod: %w", port, err)
	}
	defer conn.Close()
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(stream, conn)
		done <- err
	}()
	go func() {
		_, _ = io.Copy(conn, stream)
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite() // the pod may still have something to say
		}
	}()
	select {
	case <-ctx.Done():
		return nil
	case err := <-done:
		return err
	}
}

// dialIn connects from inside a network namespace: a socket stays in the namespace that it was made in.
func dialIn(ctx context.Context, netns string, port int32) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	out := make(chan result, 1)
	go func() {
		if netns != "" {
			runtime.LockOSThread() // for good: the thread ends with this goroutine
			fd, err := unix.Open(netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				out <- result{err: fmt.Errorf("network namespace: %w", err)}
				return
			}
			defer unix.Close(fd)
			if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
				out <- result{err: fmt.Errorf("enter network namespace: %w", err)}
				return
			}
		}
		dialer := net.Dialer{Timeout: 10 * time.Second}
		conn, err := dialer.DialContext(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
		if err != nil {
			if six, err6 := dialer.DialContext(ctx, "tcp6", net.JoinHostPort("::1", strconv.Itoa(int(port)))); err6 == nil {
				conn, err = six, nil
			}
		}
		out <- result{conn, err}
	}()
	r := <-out
	return r.conn, r.err
}
