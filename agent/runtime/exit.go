package runtime

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/runtime/hold"
)

// containerExited runs once, when a container's first process has ended.
func (s *Service) containerExited(c *container) {
	c.mu.Lock()
	pid, start, pidfd := c.rec.Pid, c.rec.StartTime, c.pidfd
	c.mu.Unlock()
	s.poll.Remove(pidfd)
	status, known := s.exitStatus(pid, start, pidfd)
	s.letGo(c, s.finish(c, status, known))
	c.mu.Lock()
	_ = unix.Close(c.pidfd)
	c.pidfd = -1
	c.mu.Unlock()
}

// saveAgain is how long after a failure a checkpoint of a container's end is written again.
const saveAgain = 5 * time.Second

// letGo lets go of a process that has ended: the zombie, if it is ours, or what the holder remembers. Not before its end is
// written down: a runtime that comes after this one has to find it again. That may take a while on a full disk.
func (s *Service) letGo(c *container, saved bool) {
	if !saved {
		if _, err := s.container(c.rec.ID); err == nil {
			time.AfterFunc(saveAgain, func() { s.letGo(c, s.saveContainer(c) == nil) })
			return
		}
	}
	ours := false
	if now, err := hold.StartTime(c.rec.Pid); err == nil && now == c.rec.StartTime { // its number isn't another's by now
		var ignored unix.WaitStatus
		_, err := unix.Wait4(c.rec.Pid, &ignored, unix.WNOHANG, nil)
		ours = !errors.Is(err, unix.ECHILD)
	}
	if !ours && s.holder != nil {
		_ = s.holder.Forget(c.rec.Pid, c.rec.StartTime)
	}
}

// exitStatus asks the kernel without reaping if the process is our child, and mote-hold if it is an orphan. An orphan that
// went past mote-hold, because that died and was followed, is known by its zombie, and when that is gone, by its pidfd where
// the kernel can tell (Linux 6.15).
func (s *Service) exitStatus(pid int, start uint64, pidfd int) (unix.WaitStatus, bool) {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOWAIT|unix.WNOHANG, nil)
	if err == nil && info.Signo != 0 {
		return childStatus(&info), true
	}
	// Whoever is its parent reaps at its own pace, a moment after the pidfd became readable, or seconds.
	for wait := time.Millisecond; wait < 4*time.Second; wait *= 2 {
		if status, known := pidfdExit(pidfd); known {
			return status, true
		}
		if status, known := zombieExit(pid, start, mayTrace()); known {
			return status, true
		}
		if s.holder == nil {
			time.Sleep(wait)
			continue
		}
		status, known, err := s.holder.Exit(pid, start)
		if err != nil {
			s.log.Warn("ask for an orphan's exit code", "pid", pid, "err", err)
			return 0, false
		}
		if known {
			return status, true
		}
		time.Sleep(wait)
	}
	return 0, false
}

func exitCode(status unix.WaitStatus) int32 {
	if status.Signaled() {
		return 128 + int32(status.Signal())
	}
	return int32(status.ExitStatus())
}

// finish records a container's end, tells about it, and cleans up. It reports whether the end is written down.
func (s *Service) finish(c *container, status unix.WaitStatus, known bool) (saved bool) {
	if c.rec.SharedPID {
		s.killCgroup(c.rec.Cgroup)
	}
	oom := s.oomKilled(c.rec.Cgroup)
	c.mu.Lock()
	pump := c.pump
	c.mu.Unlock()
	if pump != nil {
		pump.Finish()
		<-pump.Done()
	}
	c.mu.Lock()
	c.rec.State, c.rec.FinishedAt = stateExited, time.Now().UnixNano()
	switch {
	case !known:
		c.rec.ExitCode, c.rec.Reason = exitUnknown, reasonUnknown
	default:
		c.rec.ExitCode, c.rec.Reason = exitCode(status), reasonError
		if c.rec.ExitCode == 0 {
			c.rec.Reason = reasonCompleted
		}
	}
	if oom {
		c.rec.Reason = reasonOOM
	}
	if c.stdin >= 0 {
		_ = unix.Close(c.stdin)
		c.stdin = -1
	}
	if c.tty >= 0 {
		_ = unix.Close(c.tty)
		c.tty = -1
	}
	c.pump = nil
	c.mu.Unlock()
	err := s.saveContainer(c)
	if err != nil {
		s.log.Error("checkpoint an ended container", "container", c.rec.ID, "err", err)
	}
	close(c.exited)
	if sb, err := s.sandbox(c.rec.SandboxID); err == nil {
		s.emit(sb, c.rec.ID, cri.ContainerEventType_CONTAINER_STOPPED_EVENT)
	}
	s.afterExit(c)
	close(c.cleaned)
	return err == nil
}

// afterExit frees what a dead container held: cgroup, mounts, kept descriptors. The writable layer stays until removal.
func (s *Service) afterExit(c *container) {
	id := c.rec.ID
	s.release(id)
	if err := s.removeCgroup(c.rec.Cgroup); err != nil {
		s.log.Warn("remove the cgroup of an ended container", "container", id, "err", err)
	}
	if err := os.RemoveAll(filepath.Join(s.runcRoot(), id)); err != nil {
		s.log.Warn("remove the state of an ended container", "container", id, "err", err)
	}
	if err := s.unmountRoot(id); err != nil {
		s.log.Warn("unmount the root of an ended container", "container", id, "err", err)
	}
	if err := s.removeRunDir(id); err != nil {
		s.log.Warn("remove the run directory of an ended container", "container", id, "err", err)
	}
}

func (s *Service) oomKilled(cgroup string) bool {
	m, err := s.cgroup(cgroup)
	if err != nil {
		return false
	}
	count, err := m.OOMKillCount()
	return err == nil && count > 0
}

// killCgroup kills whatever is left in a cgroup, forks included.
func (s *Service) killCgroup(cgroup string) {
	m, err := s.cgroup(cgroup)
	if err != nil {
		return
	}
	if path := m.Path(""); s.host.CgroupV2 && path != "" {
		if os.WriteFile(filepath.Join(path, "cgroup.kill"), []byte("1"), 0) == nil {
			s.awaitEmpty(m)
			return
		}
	}
	_ = m.Freeze(cgroups.Frozen) // so that nothing forks away; not every kernel has it
	pids, _ := m.GetAllPids()
	for _, pid := range pids {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	_ = m.Freeze(cgroups.Thawed)
	s.awaitEmpty(m)
}

func (s *Service) awaitEmpty(m cgroups.Manager) {
	for wait := time.Millisecond; wait < 4*time.Second; wait *= 2 {
		pids, err := m.GetAllPids()
		if err != nil || len(pids) == 0 {
			return
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		time.Sleep(wait)
	}
}

func (s *Service) removeCgroup(cgroup string) error {
	m, err := s.cgroup(cgroup)
	if err != nil {
		return err
	}
	return m.Destroy()
}
