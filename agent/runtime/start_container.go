package runtime

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/runtime/hold"
	"github.com/mote-edge/mote/agent/runtime/logs"
)

// The words that a container's status has for its end.
const (
	reasonCompleted  = "Completed"
	reasonError      = "Error"
	reasonOOM        = "OOMKilled"
	reasonStartError = "StartError"
	reasonUnknown    = "Unknown"

	exitStartError = 128
	exitUnknown    = 255
)

// StartContainer runs a created container. A failure is the container's end: it is exited, with the reason.
func (s *Service) StartContainer(_ context.Context, req *cri.StartContainerRequest) (*cri.StartContainerResponse, error) {
	c, err := s.container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	c.op.Lock()
	defer c.op.Unlock()
	if st := c.state(); st != stateCreated {
		return nil, fmt.Errorf("container %q is %s, not created: %w", c.rec.ID, st, errState)
	}
	sb, err := s.sandbox(c.rec.SandboxID)
	if err != nil {
		return nil, err
	}
	sb.mu.Lock()
	ready := sb.rec.Ready
	sb.mu.Unlock()
	if !ready {
		return nil, fmt.Errorf("sandbox %q is not ready: %w", sb.rec.ID, errState)
	}
	if err := s.start(sb, c); err != nil {
		s.failStart(sb, c, err)
		return nil, fmt.Errorf("failed to start container %q: %w", c.rec.ID, err)
	}
	s.emit(sb, c.rec.ID, cri.ContainerEventType_CONTAINER_STARTED_EVENT)
	return &cri.StartContainerResponse{}, nil
}

func (s *Service) start(sb *sandbox, c *container) (retErr error) {
	img, err := s.cfg.Images.Get(c.rec.ImageID)
	if err != nil {
		return err
	}
	sp, err := s.buildSpec(sb, c, img, specFinal)
	if err != nil {
		return err
	}
	io, err := newStdio(c.config.Tty, c.config.Stdin)
	if err != nil {
		return err
	}
	defer func() {
		if retErr != nil {
			c.mu.Lock()
			c.held = nil
			c.mu.Unlock()
			io.closeChild()
			io.closeOurs()
			s.release(c.rec.ID)
		}
	}()
	pump, err := logs.New(logs.Config{SpoolDir: s.spoolDir(c.rec.ID), LogPath: c.logPath, Log: s.log.With("container", c.rec.ID)}, s.poll)
	if err != nil {
		return err
	}
	if !io.terminal {
		if err := s.keep(c.rec.ID, io.held()...); err != nil {
			return err
		}
	}
	c.mu.Lock()
	c.rec.State = stateStarting
	if !io.terminal {
		c.held = io.held() // known from now on: this process may have to become the holder at any moment
	}
	c.mu.Unlock()
	if err := s.saveContainer(c); err != nil {
		return err
	}
	if err := s.saveProcess(c.rec.ID, sp.Process); err != nil {
		return err
	}
	pid, err := s.launch(c.rec.ID, sp, io)
	if err != nil {
		return err
	}
	return s.started(c, pid, io, pump)
}

// held is the order in which descriptors are kept: stdout, stderr and perhaps stdin; or the terminal. The process' pidfd
// follows them once it runs.
func (io *stdio) held() []int {
	if io.terminal {
		return []int{io.master}
	}
	if io.stdin >= 0 {
		return []int{io.out, io.err, io.stdin}
	}
	return []int{io.out, io.err}
}

func (s *Service) spoolDir(id string) string { return filepath.Join(s.cfg.RunDir, "ctr", id, "log") }

// started takes note of a process that runs. From here the container's end is known by its exit alone.
func (s *Service) started(c *container, pid int, io *stdio, pump *logs.Pump) error {
	start, err := hold.StartTime(pid)
	if err != nil {
		return fmt.Errorf("the container's process: %w", err)
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	if err := s.keep(c.rec.ID, append(io.held(), pidfd)...); err != nil {
		s.log.Warn("a restart of the runtime may lose this container's terminal or exit code", "container", c.rec.ID, "err", err)
	}
	c.mu.Lock()
	c.rec.State, c.rec.Pid, c.rec.StartTime, c.rec.StartedAt = stateRunning, pid, start, time.Now().UnixNano()
	c.mu.Unlock()
	if err := s.saveContainer(c); err != nil {
		s.log.Error("checkpoint a started container", "container", c.rec.ID, "err", err)
	}
	c.mu.Lock()
	c.trim()
	c.mu.Unlock()
	return s.follow(c, pidfd, io, pump)
}

// follow watches a live container: its output and its end.
func (s *Service) follow(c *container, pidfd int, io *stdio, pump *logs.Pump) error {
	var err error
	out := [2]int{io.out, io.err}
	c.mu.Lock()
	c.pidfd, c.pump, c.stdin, c.tty = pidfd, pump, io.stdin, -1
	if io.terminal {
		// The pump closes its descriptor; input and resize need one of their own.
		if c.tty, err = unix.FcntlInt(uintptr(io.master), unix.F_DUPFD_CLOEXEC, 3); err != nil {
			c.tty = -1
		}
		out = [2]int{io.master, -1}
	}
	c.held = nil
	c.mu.Unlock()
	if err := pump.Start(out); err != nil {
		return err
	}
	return s.poll.Add(pidfd, func() { s.containerExited(c) })
}

// failStart records that a container never ran.
func (s *Service) failStart(sb *sandbox, c *container, cause error) {
	now := time.Now().UnixNano()
	c.mu.Lock()
	c.rec.State, c.rec.StartedAt, c.rec.FinishedAt = stateExited, now, now
	c.rec.ExitCode, c.rec.Reason, c.rec.Message = exitStartError, reasonStartError, cause.Error()
	c.mu.Unlock()
	s.afterExit(c)
	if err := s.saveContainer(c); err != nil {
		s.log.Error("checkpoint a container that failed to start", "container", c.rec.ID, "err", err)
	}
	close(c.exited)
	close(c.cleaned)
	s.emit(sb, c.rec.ID, cri.ContainerEventType_CONTAINER_STOPPED_EVENT)
}
