package runtime

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// StopContainer asks a container to end and kills it after the timeout (seconds). Repeating it, or an unknown ID, is
// success.
func (s *Service) StopContainer(ctx context.Context, req *cri.StopContainerRequest) (*cri.StopContainerResponse, error) {
	c, err := s.container(req.GetContainerId())
	if errors.Is(err, errNotFound) {
		return &cri.StopContainerResponse{}, nil
	}
	return &cri.StopContainerResponse{}, s.stopContainer(ctx, c, seconds(req.GetTimeout()))
}

// seconds is a request's number of seconds, which may be more than a Duration can hold.
func seconds(n int64) time.Duration {
	return time.Duration(min(max(n, 0), math.MaxInt64/int64(time.Second))) * time.Second
}

func (s *Service) stopContainer(ctx context.Context, c *container, patience time.Duration) error {
	if c.state() == stateStarting { // the start holds op; it ends soon, one way or the other
		c.op.Lock()
		c.op.Unlock() //nolint:staticcheck // waiting is all that is wanted
	}
	if c.state() != stateRunning {
		return nil
	}
	if patience > 0 {
		if err := c.signal(unix.Signal(c.rec.StopSignal)); err != nil {
			return err
		}
		timer := time.NewTimer(patience)
		defer timer.Stop()
		select {
		case <-c.exited:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("wait for container %q to stop: %w", c.rec.ID, ctx.Err())
		case <-timer.C:
		}
	}
	if err := c.signal(unix.SIGKILL); err != nil {
		return err
	}
	if c.rec.SharedPID {
		s.killCgroup(c.rec.Cgroup)
	}
	select {
	case <-c.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for container %q to die: %w", c.rec.ID, ctx.Err())
	case <-time.After(2 * time.Minute):
		return fmt.Errorf("container %q doesn't die of SIGKILL: a process hangs in the kernel", c.rec.ID)
	}
}

// signal reaches the container's first process and no other, even if its pid was used again.
func (c *container) signal(sig unix.Signal) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pidfd < 0 {
		return nil
	}
	if err := unix.PidfdSendSignal(c.pidfd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal container %q: %w", c.rec.ID, err)
	}
	return nil
}

// RemoveContainer forgets a container, killing it first if it runs. An unknown ID is success.
func (s *Service) RemoveContainer(ctx context.Context, req *cri.RemoveContainerRequest) (*cri.RemoveContainerResponse, error) {
	c, err := s.container(req.GetContainerId())
	if errors.Is(err, errNotFound) {
		return &cri.RemoveContainerResponse{}, nil
	}
	return &cri.RemoveContainerResponse{}, s.removeContainer(ctx, c)
}

func (s *Service) removeContainer(ctx context.Context, c *container) error {
	if err := s.stopContainer(ctx, c, 0); err != nil {
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	if c.state() == stateExited {
		select {
		case <-c.cleaned:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	id := c.rec.ID
	if err := s.removeRoot(id); err != nil {
		return err
	}
	if err := s.removeRunDir(id); err != nil {
		return err
	}
	if err := s.forget("c", id); err != nil {
		return err
	}
	s.mu.Lock()
	_, present := s.containers[id]
	s.stats.Forget(id)
	delete(s.containers, id)
	delete(s.names, containerName(c.config, c.rec.SandboxID))
	s.mu.Unlock()
	if sb, err := s.sandbox(c.rec.SandboxID); err == nil && present {
		s.emit(sb, id, cri.ContainerEventType_CONTAINER_DELETED_EVENT)
	}
	return nil
}
