package cri

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
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// relay makes a stream URL reachable from the test's own network namespace.
func relay(t *testing.T, raw string) *url.URL {
	t.Helper()
	target, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	host := target.Host
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := shared.dial(context.Background(), "tcp", host)
			if err != nil {
				client.Close()
				continue
			}
			go func() { _, _ = io.Copy(server, client); server.Close() }()
			go func() { _, _ = io.Copy(client, server); client.Close() }()
		}
	}()
	target.Host = listener.Addr().String()
	return target
}

type dialect func(*rest.Config, *url.URL) (remotecommand.Executor, error)

var dialects = map[string]dialect{
	"SPDY": func(c *rest.Config, u *url.URL) (remotecommand.Executor, error) {
		return remotecommand.NewSPDYExecutor(c, http.MethodPost, u)
	},
	"WebSocket": func(c *rest.Config, u *url.URL) (remotecommand.Executor, error) {
		// cri-streaming speaks v4, which can't close stdin alone; API servers translate v5 into SPDY.
		return remotecommand.NewWebSocketExecutorForProtocols(c, http.MethodGet, u.String(), "v4.channel.k8s.io")
	},
}

func stream(t *testing.T, d dialect, raw string, options remotecommand.StreamOptions) error {
	t.Helper()
	u := relay(t, raw)
	executor, err := d(&rest.Config{Host: u.Host}, u)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), slow(20*time.Second))
	defer cancel()
	return executor.StreamWithContext(ctx, options)
}

func TestExecStream(t *testing.T) {
	p := newPod(t)
	c := p.run("sleep 1000")
	for name, d := range dialects {
		t.Run(name, func(t *testing.T) {
			reply, err := shared.rt.Exec(testContext(t), &api.ExecRequest{
				ContainerId: c.id, Cmd: []string{"sh", "-c", "head -c 200000; echo problem >&2; exit 4"}, Stdin: true, Stdout: true, Stderr: true,
			})
			if err != nil {
				t.Fatal(err)
			}
			var out, errOut bytes.Buffer
			input := strings.Repeat("0123456789", 20000)
			err = stream(t, d, reply.Url, remotecommand.StreamOptions{Stdin: strings.NewReader(input), Stdout: &out, Stderr: &errOut})
			var exit exec.CodeExitError
			if !errors.As(err, &exit) || exit.Code != 4 {
				t.Errorf("error %v, want exit code 4", err)
			}
			if out.String() != input || errOut.String() != "problem\n" {
				t.Errorf("%d of %d bytes came back; stderr %q", out.Len(), len(input), errOut.String())
			}
			if err := stream(t, d, reply.Url, remotecommand.StreamOptions{Stdout: io.Discard}); err == nil {
				t.Error("a stream URL worked twice")
			}
		})
	}
}

// A client may go away between the upgrade and its streams. What it asked for may have begun, but doesn't run on.
func TestExecWithoutStreams(t *testing.T) {
	p := newPod(t)
	c := p.run("sleep 1000")
	reply, err := shared.rt.Exec(testContext(t), &api.ExecRequest{ContainerId: c.id, Cmd: []string{"sleep", "4321"}, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	u := relay(t, reply.Url)
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	req := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n", u.Path, u.Host)
	if _, err := io.WriteString(conn, req); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || answer.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %v, %v", answer, err)
	}
	conn.Close()
	for deadline := time.Now().Add(slow(40 * time.Second)); ; time.Sleep(time.Second) { // a server waits 30 s for streams
		out, _, _ := c.exec("ps", "-o", "args")
		if !strings.Contains(out, "4321") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("it runs on:\n%s", out)
		}
	}
	if out, _, _ := c.exec("ps", "-o", "stat,args"); strings.Contains(out, "Z") {
		t.Errorf("it wasn't reaped:\n%s", out)
	}
}

type sizes chan remotecommand.TerminalSize

func (s sizes) Next() *remotecommand.TerminalSize {
	size, open := <-s
	if !open {
		return nil
	}
	return &size
}

func TestExecTerminal(t *testing.T) {
	p := newPod(t)
	c := p.run("sleep 1000")
	for name, d := range dialects {
		t.Run(name, func(t *testing.T) {
			reply, err := shared.rt.Exec(testContext(t), &api.ExecRequest{
				ContainerId: c.id, Cmd: []string{"sh", "-c", "tty; while [ \"$(stty size)\" != '33 111' ]; do sleep 0.02; done; read x; echo got $x $TERM"},
				Stdin: true, Stdout: true, Tty: true,
			})
			if err != nil {
				t.Fatal(err)
			}
			size := make(sizes, 1)
			size <- remotecommand.TerminalSize{Width: 111, Height: 33}
			var out bytes.Buffer
			in, feed := io.Pipe() // never closed: with a terminal that means to detach
			go func() { _, _ = io.WriteString(feed, "word\n") }()
			if err := stream(t, d, reply.Url, remotecommand.StreamOptions{Stdin: in, Stdout: &out, Tty: true, TerminalSizeQueue: size}); err != nil {
				t.Errorf("stream: %v", err)
			}
			if !strings.Contains(out.String(), "/dev/pts/") || !strings.Contains(out.String(), "got word xterm\r\n") {
				t.Errorf("terminal said %q", out.String())
			}
		})
	}
}

// syncBuffer may be read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestAttach(t *testing.T) {
	for name, d := range dialects {
		for _, tty := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,tty=%v", name, tty), func(t *testing.T) {
				p := newPod(t)
				c := p.run("read x; echo heard $x; read y; echo then $y; exit 6", func(c *api.ContainerConfig) {
					c.Stdin, c.StdinOnce, c.Tty = true, true, tty
				})
				if shared.kind == "mote" {
					killRuntime(t) // the streams must survive it
				}
				reply, err := shared.rt.Attach(testContext(t), &api.AttachRequest{ContainerId: c.id, Stdin: true, Stdout: true, Stderr: !tty, Tty: tty})
				if err != nil {
					t.Fatal(err)
				}
				var out syncBuffer
				in, feed := io.Pipe()
				go func() {
					_, _ = io.WriteString(feed, "one\n")
					eventually(t, "the first answer", func() bool { return strings.Contains(out.String(), "heard one") })
					_, _ = io.WriteString(feed, "two\n")
					if !tty { // with a terminal that means to detach
						_ = feed.Close()
					}
				}()
				options := remotecommand.StreamOptions{Stdin: in, Stdout: &out, Tty: tty}
				if !tty {
					options.Stderr = io.Discard
				}
				if err := stream(t, d, reply.Url, options); err != nil {
					t.Errorf("attach: %v", err)
				}
				if st := c.wait(); st.ExitCode != 6 {
					t.Errorf("exit code %d", st.ExitCode)
				}
				if !strings.Contains(out.String(), "then two") || !strings.Contains(c.logs(), "then two") {
					t.Errorf("attached client saw %q, log has %q", out.String(), c.logs())
				}
			})
		}
	}
}

func TestPortForward(t *testing.T) {
	for name, test := range map[string]struct {
		network func(*api.PodSandboxConfig)
		port    int32
	}{
		"pod's network":  {onPodNetwork, 8080},
		"host's network": {func(*api.PodSandboxConfig) {}, 12003},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPod(t, test.network)
			address := fmt.Sprintf("127.0.0.1:%d", test.port)
			c := p.run("mkdir /www && echo served > /www/index.html && exec httpd -f -p " + address + " -h /www")
			eventually(t, "httpd", func() bool {
				_, _, code := c.exec("wget", "-qO-", "http://"+address+"/")
				return code == 0
			})
			local := forward(t, p, test.port)
			for range 3 { // each over a stream of its own
				answer, err := http.Get("http://" + local + "/")
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(answer.Body)
				answer.Body.Close()
				if string(body) != "served\n" {
					t.Errorf("through the tunnel: %q", body)
				}
			}
		})
	}
}

// A port where nobody listens fails that connection.
func TestPortForwardClosedPort(t *testing.T) {
	p := newPod(t, onPodNetwork)
	if answer, err := http.Get("http://" + forward(t, p, 8099) + "/"); err == nil {
		answer.Body.Close()
		t.Error("an answer from nobody")
	}
}

// forward opens a tunnel to a pod's port and returns its near end.
func forward(t *testing.T, p *pod, port int32) string {
	t.Helper()
	reply, err := shared.rt.PortForward(testContext(t), &api.PortForwardRequest{PodSandboxId: p.id, Port: []int32{port}})
	if err != nil {
		t.Fatal(err)
	}
	u := relay(t, reply.Url)
	transport, upgrader, err := spdy.RoundTripperFor(&rest.Config{Host: u.Host})
	if err != nil {
		t.Fatal(err)
	}
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, u)
	stop, ready := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(stop) })
	forwarder, err := portforward.New(dialer, []string{fmt.Sprintf("0:%d", port)}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = forwarder.ForwardPorts() }()
	<-ready
	ports, err := forwarder.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", ports[0].Local)
}
