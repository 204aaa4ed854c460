package runtime

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

// execution is a process that was put into a running container.
type execution struct {
	pid   int
	pidfd int
	proc  *libcontainer.Process
	done  chan struct{}
}

// processPath is the file in which a later exec finds what it needs to look like the container's own process.
func (s *Service) processPath(id string) string {
	return filepath.Join(s.cfg.RunDir, "ctr", id, "process.json")
}

func (s *Service) saveProcess(id string, p *specs.Process) error {
	raw, err := json.Marshal(p)
	if err == nil {
		err = os.WriteFile(s.processPath(id), raw, 0o600) // a start that is cut short here isn't gone on with
	}
	if err != nil {
		return fmt.Errorf("what execs need to know: %w", err)
	}
	return nil
}

// execute starts a command in a container.
func (s *Service) execute(c *container, cmd []string, streams *stdio) (*execution, error) {
	if len(cmd) == 0 {
		return nil, fmt.Errorf("exec needs a command: %w", errInvalid)
	}
	if st := c.state(); st != stateRunning {
		return nil, fmt.Errorf("container %q is %s, not running: %w", c.rec.ID, st, errState)
	}
	raw, err := os.ReadFile(s.processPath(c.rec.ID))
	if err != nil {
		return nil, fmt.Errorf("exec in container %q: %w", c.rec.ID, err)
	}
	var like specs.Process
	if err := json.Unmarshal(raw, &like); err != nil {
		return nil, fmt.Errorf("exec in container %q: %w", c.rec.ID, err)
	}
	like.Args = cmd
	if streams.terminal {
		like.Env = append(like.Env, "TERM=xterm")
	}
	inside, err := libcontainer.Load(s.runcRoot(), c.rec.ID)
	if err != nil {
		return nil, fmt.Errorf("exec in container %q: %w", c.rec.ID, err)
	}
	proc := process(&like, streams, false)
	if err := run(proc, streams, func() error { return inside.Run(proc) }); err != nil {
		s.strays.look()
		return nil, fmt.Errorf("failed to exec in container: %w", err)
	}
	pid, err := proc.Pid()
	if err != nil {
		return nil, err
	}
	e := &execution{pid: pid, proc: proc, done: make(chan struct{})}
	if e.pidfd, err = unix.PidfdOpen(pid, 0); err != nil {
		return nil, fmt.Errorf("watch process %d: %w", pid, err)
	}
	return e, s.poll.Add(e.pidfd, func() { close(e.done) })
}

func (s *Service) kill(e *execution) { _ = unix.PidfdSendSignal(e.pidfd, unix.SIGKILL, nil, 0) }

// reap collects an ended execution's exit code.
func (s *Service) reap(e *execution) (int32, error) {
	s.poll.Remove(e.pidfd)
	defer unix.Close(e.pidfd)
	state, err := e.proc.Wait()
	if state == nil {
		return 0, fmt.Errorf("exit code of exec: %w", err)
	}
	status, _ := state.Sys().(syscall.WaitStatus)
	return exitCode(unix.WaitStatus(status)), nil
}

// maxExecOutput is CRI's cap on each stream of ExecSync.
const maxExecOutput = 16 << 20

// capped keeps the first bytes and swallows the rest, so that the command goes on.
type capped struct{ bytes.Buffer }

func (c *capped) Write(p []byte) (int, error) {
	if room := maxExecOutput - c.Len(); room > 0 {
		_, _ = c.Buffer.Write(p[:min(len(p), room)])
	}
	return len(p), nil
}

// drainPatience is how long output is still read after a command ended while a child of it keeps the pipe open.
const drainPatience = 500 * time.Millisecond

// ExecSync runs a command in a container and returns its output and exit code.
func (s *Service) ExecSync(ctx context.Context, req *cri.ExecSyncRequest) (*cri.ExecSyncResponse, error) {
	c, err := s.container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	if req.GetTimeout() > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, seconds(req.Timeout))
		defer cancel()
	}
	streams, err := newStdio(false, false)
	if err != nil {
		return nil, err
	}
	var out, errOut capped
	stdout, stderr := pollable(&streams.out), pollable(&streams.err)
	defer stdout.Close()
	defer stderr.Close()
	defer streams.closeChild()
	e, err := s.execute(c, req.GetCmd(), streams)
	if err != nil {
		return nil, err
	}
	var copies sync.WaitGroup
	copies.Go(func() { _, _ = io.Copy(&out, stdout) })
	copies.Go(func() { _, _ = io.Copy(&errOut, stderr) })
	late := false
	select {
	case <-e.done:
	case <-ctx.Done():
		late = true
		s.kill(e)
		<-e.done
	}
	deadline := time.Now().Add(drainPatience)
	_ = stdout.SetReadDeadline(deadline)
	_ = stderr.SetReadDeadline(deadline)
	copies.Wait()
	code, err := s.reap(e)
	if late {
		return nil, fmt.Errorf("command %q timed out: timeout %ds exceeded: %w", strings.Join(req.GetCmd(), " "), req.GetTimeout(), errTimeout)
	}
	if err != nil {
		return nil, err
	}
	return &cri.ExecSyncResponse{Stdout: out.Bytes(), Stderr: errOut.Bytes(), ExitCode: code}, nil
}

// pollable hands one of our ends to Go's poller, so that waiting for it costs no thread.
func pollable(fd *int) *os.File {
	_ = unix.SetNonblock(*fd, true)
	file := os.NewFile(uintptr(*fd), "stdio")
	*fd = -1
	return file
}

// Exec is called by the streaming server.
func (s *Service) execStream(ctx context.Context, id string, cmd []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	streams, e, err := s.begunExec(ctx, id, cmd, tty, in != nil)
	if err != nil {
		return err
	}
	defer streams.closeOurs()
	var copies sync.WaitGroup
	if tty {
		go resizeTerminal(streams.master, e.done, resize)
		master := pollable(&streams.master)
		defer master.Close()
		if in != nil {
			go func() { _, _ = io.Copy(master, in) }()
		}
		if out != nil {
			copies.Go(func() { _, _ = io.Copy(out, master) }) // ends with EIO
		}
		s.await(ctx, e)
		_ = master.SetReadDeadline(time.Now().Add(drainPatience))
	} else {
		if in != nil {
			stdin := pollable(&streams.stdin)
			go func() {
				_, _ = io.Copy(stdin, in)
				_ = stdin.Close()
			}()
			defer stdin.Close()
		}
		for _, pair := range []struct {
			fd *int
			to io.Writer
		}{{&streams.out, out}, {&streams.err, errOut}} {
			file := pollable(pair.fd)
			defer file.Close()
			to := pair.to
			if to == nil || to == io.WriteCloser(nil) {
				to = io.Discard
			}
			copies.Go(func() { _, _ = io.Copy(to, file) })
			defer func() { _ = file.SetReadDeadline(time.Now()) }()
		}
		s.await(ctx, e)
	}
	finished := make(chan struct{})
	go func() { copies.Wait(); close(finished) }()
	select {
	case <-finished:
	case <-time.After(drainPatience):
	}
	code, err := s.reap(e)
	if err != nil {
		return err
	}
	if code != 0 {
		return &utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: int(code)}
	}
	return nil
}

func (s *Service) await(ctx context.Context, e *execution) {
	select {
	case <-e.done:
	case <-ctx.Done():
		s.kill(e)
		<-e.done
	}
}

// resizeTerminal applies window sizes until the process or the client is gone. It has a descriptor of its own.
func resizeTerminal(master int, done <-chan struct{}, resize <-chan remotecommand.TerminalSize) {
	fd, err := unix.FcntlInt(uintptr(master), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	for {
		select {
		case <-done:
			return
		case size, open := <-resize:
			if !open {
				return
			}
			_ = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: size.Height, Col: size.Width})
		}
	}
}
