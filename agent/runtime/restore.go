package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/runtime/hold"
	"github.com/mote-edge/mote/agent/runtime/logs"
	"github.com/mote-edge/mote/agent/runtime/network"
)

// restore takes up what an earlier runtime left: live containers are followed again, dead ones get their exit codes,
// half-made things are taken down.
func (s *Service) restore(ctx context.Context) error {
	dir := filepath.Join(s.cfg.DataDir, "state")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read checkpoints: %w", err)
	}
	var containers []*container
	for _, entry := range entries {
		kind, id, _ := strings.Cut(entry.Name(), "-")
		path := filepath.Join(dir, entry.Name())
		raw, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read checkpoint: %w", err)
		}
		switch {
		case strings.HasSuffix(entry.Name(), ".tmp"):
			_ = os.Remove(path)
		case kind == "s":
			err = s.loadSandbox(raw, id)
		case kind == "c":
			var c *container
			if c, err = loadContainer(raw, id); err == nil {
				containers = append(containers, c)
			}
		}
		if err != nil {
			// A power cut can leave a record empty. What it spoke of is swept as a leftover.
			s.log.Warn("unreadable checkpoint is dropped", "path", path, "err", err)
			_ = os.Remove(path)
		}
	}
	for _, c := range containers {
		sb := s.sandboxes[c.rec.SandboxID]
		if sb == nil {
			s.log.Warn("a container without a sandbox is dropped", "container", c.rec.ID)
			_ = s.forget("c", c.rec.ID)
			continue
		}
		c.logPath = logPath(sb.config, c.config)
		s.containers[c.rec.ID] = c
		s.names[containerName(c.config, c.rec.SandboxID)] = c.rec.ID
	}
	// All of it at once and first of all: if the holder dies now, this process has it.
	if err := s.fetchKept(); err != nil {
		return err
	}
	swept := s.sweep()
	var attached []string
	for _, sb := range s.sandboxes {
		swept = swept || sb.rec.Creating
		s.restoreSandbox(ctx, sb)
	}
	for id, sb := range s.sandboxes {
		if sb.rec.Attached {
			attached = append(attached, id)
		}
	}
	if swept || s.net.Stale(attached) {
		if err := s.net.Collect(ctx, attached); err != nil {
			s.log.Warn("collect addresses of pods that are gone", "err", err)
		}
	}
	for _, c := range s.containers {
		s.restoreContainer(c)
	}
	return nil
}

// loadSandbox takes in a checkpoint by the ID that its file is named after: directories are named after it, too.
func (s *Service) loadSandbox(raw []byte, id string) error {
	sb := &sandbox{config: &cri.PodSandboxConfig{}}
	var err error
	if sb.journal.lines, err = readRecord(raw, &sb.rec, &sb.rec.Config); err != nil {
		return err
	}
	if err := proto.Unmarshal(sb.rec.Config, sb.config); err != nil {
		return err
	}
	if id == "" || sb.rec.ID != id || sb.config.Metadata == nil {
		return errors.New("incomplete record")
	}
	sb.rec.Config = nil
	keepLabels(sb.rec.labels)
	s.sandboxes[sb.rec.ID] = sb
	s.names["sandbox "+sandboxName(sb.config.Metadata)] = sb.rec.ID
	return nil
}

func loadContainer(raw []byte, id string) (*container, error) {
	var rec containerRecord
	lines, err := readRecord(raw, &rec, &rec.Config)
	if err != nil {
		return nil, err
	}
	config := &cri.ContainerConfig{}
	if err := proto.Unmarshal(rec.Config, config); err != nil {
		return nil, err
	}
	if id == "" || rec.ID != id || config.Metadata == nil {
		return nil, errors.New("incomplete record")
	}
	rec.Config = nil
	c := newContainer(rec, config, "")
	c.journal.lines = lines
	return c, nil
}

// restoreSandbox checks a sandbox against the kernel.
func (s *Service) restoreSandbox(ctx context.Context, sb *sandbox) {
	// A wiped run directory is like a reboot to a sandbox: the namespaces that were pinned there are gone.
	rebooted := sb.rec.BootID != s.bootID || sb.rec.NetPath != "" && !pinned(sb.rec.NetPath)
	if sb.rec.Creating {
		// RunPodSandbox never returned: nobody knows this sandbox.
		sb.op.Lock()
		defer sb.op.Unlock()
		network.AwaitPlugins(sb.rec.ID)
		// Nobody wrote down whether ADD was called. Plugins that collect do so below, all at once.
		sb.rec.Attached = sb.rec.NetPath != "" && !s.net.Collects()
		if err := s.tearDown(ctx, sb); err != nil {
			s.log.Warn("take down a half-made sandbox; it stays, not ready, until it is stopped", "sandbox", sb.rec.ID, "err", err)
			s.keepFailed(sb)
			return
		}
		_ = s.forget("s", sb.rec.ID)
		s.mu.Lock()
		delete(s.sandboxes, sb.rec.ID)
		delete(s.names, "sandbox "+sandboxName(sb.config.Metadata))
		s.mu.Unlock()
		return
	}
	if rebooted && sb.rec.Ready {
		sb.rec.Ready, sb.rec.InitPid, sb.rec.InitCgroup = false, 0, ""
		if err := s.saveSandbox(sb); err != nil {
			s.log.Warn("checkpoint a sandbox after a reboot", "sandbox", sb.rec.ID, "err", err)
		}
		return
	}
	if sb.rec.InitPid == 0 {
		if !rebooted {
			s.sweepPodInit(sb)
		}
		return
	}
	if start, err := hold.StartTime(sb.rec.InitPid); err != nil || start != sb.rec.InitStart {
		sb.rec.InitPid, sb.rec.Ready = 0, false
		_ = s.saveSandbox(sb)
		return
	}
	if err := s.watchPodInit(sb, sb.rec.InitPid); err != nil {
		s.log.Warn("watch a pod's init", "sandbox", sb.rec.ID, "err", err)
	}
}

// pinned tells whether a namespace is mounted at a path.
func pinned(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && fs.Type == unix.NSFS_MAGIC
}

func (s *Service) restoreContainer(c *container) {
	switch c.rec.State {
	case stateExited:
		// Its run directory is what afterExit removes last: if it is there, the clean-up was cut short.
		if _, err := os.Stat(filepath.Join(s.cfg.RunDir, "ctr", c.rec.ID)); err == nil {
			s.killCgroup(c.rec.Cgroup)
			s.afterExit(c)
		}
		close(c.exited)
		close(c.cleaned)
		c.trim()
		return
	case stateCreated:
		if c.rec.BootID == s.bootID {
			if s.begun(c) { // the start didn't come as far as saying so
				s.undoStart(c)
			}
			return // it can still be started
		}
	}
	if c.rec.State == stateStarting && c.rec.BootID == s.bootID && !s.settleStart(c) {
		return // it is as it was created
	}
	c.trim()
	if c.rec.BootID != s.bootID {
		s.finish(c, 0, false)
		return
	}
	if err := s.adopt(c); err != nil {
		s.log.Error("follow a container again", "container", c.rec.ID, "err", err)
		s.finish(c, 0, false)
	}
}

// begun tells whether a start of a container has left anything yet.
func (s *Service) begun(c *container) bool {
	dir := filepath.Join(s.cfg.RunDir, "ctr", c.rec.ID)
	for _, made := range []string{"log", "volumes", "check"} {
		if _, err := os.Lstat(filepath.Join(dir, made)); err == nil {
			return true
		}
	}
	return false
}

// adopt follows a container that an earlier runtime started; it may have ended meanwhile.
func (s *Service) adopt(c *container) error {
	io, pidfd := s.takeUp(c)
	pump, err := logs.New(logs.Config{SpoolDir: s.spoolDir(c.rec.ID), LogPath: c.logPath, Log: s.log.With("container", c.rec.ID)}, s.poll)
	if err != nil {
		return err
	}
	if start, err := hold.StartTime(c.rec.Pid); err == nil && start == c.rec.StartTime && pidfd >= 0 {
		return s.follow(c, pidfd, io, pump)
	}
	if err := pump.Start([2]int{max(io.out, io.master), io.err}); err != nil {
		return err
	}
	c.mu.Lock()
	c.pump, c.stdin, c.held, c.pidfd = pump, io.stdin, nil, pidfd // if the holder dies now, the next runtime asks by the pidfd
	c.mu.Unlock()
	status, known := s.exitStatus(c.rec.Pid, c.rec.StartTime, pidfd)
	s.letGo(c, s.finish(c, status, known))
	c.mu.Lock()
	c.pidfd = -1
	c.mu.Unlock()
	if pidfd >= 0 {
		_ = unix.Close(pidfd)
	}
	return nil
}

// fetchKept gets the streams of all containers from the holder.
func (s *Service) fetchKept() error {
	if s.holder == nil {
		return nil
	}
	for id, c := range s.containers {
		if c.rec.State != stateRunning && c.rec.State != stateStarting {
			continue
		}
		fds, err := s.holder.Get(id)
		if err != nil {
			return err
		}
		c.held = fds
	}
	return nil
}

// takeUp gets a container's streams and pidfd (-1: unknown) from what the holder kept, or anew from the kernel.
func (s *Service) takeUp(c *container) (*stdio, int) {
	kept := c.held
	io := &stdio{terminal: c.config.Tty, stdin: -1, out: -1, err: -1, master: -1}
	fresh := false
	if len(kept) == 0 && !io.terminal {
		kept = reopenPipes(c.rec.Pid, c.rec.StartTime, c.config.Stdin)
		fresh = len(kept) > 0
	}
	var pidfd int
	if n := len(kept); n > 0 && isPidfd(kept[n-1]) {
		pidfd, kept = kept[n-1], kept[:n-1]
	} else if pidfd = openPidfd(c.rec.Pid, c.rec.StartTime); pidfd >= 0 {
		fresh = true
	}
	switch {
	case len(kept) == 0:
		s.log.Warn("the streams of a container are lost: mote-hold didn't keep them", "container", c.rec.ID)
	case io.terminal:
		io.master = kept[0]
	default:
		io.out, io.err = kept[0], kept[1]
		if len(kept) > 2 {
			io.stdin = kept[2]
		}
	}
	if fresh && len(kept) > 0 {
		if err := s.keep(c.rec.ID, append(kept[:len(kept):len(kept)], pidfd)...); err != nil {
			s.log.Warn("keep the streams of a container", "container", c.rec.ID, "err", err)
		}
	}
	return io, pidfd
}

// reopenPipes opens the ends of a process' standard pipes anew, through /proc: when holder and runtime died together,
// nobody else has them. A writer that was faster has got SIGPIPE by then.
func reopenPipes(pid int, start uint64, stdin bool) []int {
	var out []int
	undo := func() []int {
		for _, fd := range out {
			_ = unix.Close(fd)
		}
		return nil
	}
	streams := []struct{ number, flags int }{{1, unix.O_RDONLY}, {2, unix.O_RDONLY}}
	if stdin {
		streams = append(streams, struct{ number, flags int }{0, unix.O_WRONLY})
	}
	for _, each := range streams {
		path := fmt.Sprintf("/proc/%d/fd/%d", pid, each.number)
		var st unix.Stat_t
		if unix.Stat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
			return undo()
		}
		fd, err := unix.Open(path, each.flags|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return undo()
		}
		out = append(out, fd)
	}
	if now, err := hold.StartTime(pid); err != nil || now != start {
		return undo() // it was another process' by now
	}
	return out
}
