package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"github.com/mote-edge/mote/agent/runtime/logs"
)

// attachStream connects a client to a running container's own streams, from now on.
func (s *Service) attachStream(ctx context.Context, id string, in io.Reader, out, errOut io.WriteCloser, resize <-chan remotecommand.TerminalSize) error {
	c, err := s.container(id)
	if err != nil {
		return err
	}
	c.mu.Lock()
	pump, tty, st := c.pump, c.tty, c.rec.State
	c.mu.Unlock()
	if st != stateRunning || pump == nil {
		return fmt.Errorf("container %q is %s, not running: %w", id, st, errState)
	}
	sink, alive := pump.Attach()
	if !alive {
		return nil
	}
	defer func() { _ = sink.Close() }()
	if tty >= 0 {
		go resizeTerminal(tty, c.exited, resize)
	}
	if in != nil {
		input, err := c.inputDescriptor()
		if err != nil {
			return err
		}
		go func() {
			s.feed(c, input, in)
			_ = unix.Close(input)
		}()
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case chunk, open := <-sink.Chunks:
			if !open {
				return nil
			}
			to := out
			if chunk.Stream == logs.Stderr {
				to = errOut
			}
			if to == nil {
				continue
			}
			if _, err := to.Write(chunk.Data); err != nil {
				return nil // the client left
			}
		}
	}
}

// inputDescriptor duplicates what leads to the container's stdin, so that its end here closes nothing for others.
func (c *container) inputDescriptor() (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fd := c.stdin
	if c.tty >= 0 {
		fd = c.tty
	}
	if fd < 0 {
		return -1, fmt.Errorf("container %q has no stdin: %w", c.rec.ID, errState)
	}
	return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
}

// feed copies a client's input to the container. With stdinOnce the first client's end is the end of stdin.
func (s *Service) feed(c *container, fd int, in io.Reader) {
	buf := make([]byte, 4096)
	for {
		n, err := in.Read(buf)
		if n > 0 && writeAll(fd, buf[:n]) != nil {
			return
		}
		if err != nil {
			break
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.config.StdinOnce || c.stdin < 0 {
		return
	}
	_ = unix.Close(c.stdin)
	c.stdin = -1
	fds, thaw := c.descriptors() // without stdin
	defer thaw()
	if err := s.keep(c.rec.ID, fds...); err != nil {
		s.log.Warn("release the stdin of a container", "container", c.rec.ID, "err", err)
	}
}

func writeAll(fd int, data []byte) error {
	for len(data) > 0 {
		n, err := unix.Write(fd, data)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, -1)
			if err != nil && !errors.Is(err, unix.EINTR) {
				return err
			}
			continue
		case err != nil:
			return err
		}
		data = data[n:]
	}
	return nil
}
