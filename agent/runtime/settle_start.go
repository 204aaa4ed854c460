package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"github.com/mote-edge/mote/agent/runtime/mounts"
)

// settleStart settles a container whose start was cut short by this program's end. If its process had passed libcontainer's
// gate, it runs or has run, and true is returned. If not, it is taken back to what it was before the start: nobody was told
// of a failure, so there was none, and it can be started again.
func (s *Service) settleStart(c *container) bool {
	if inside, err := libcontainer.Load(s.runcRoot(), c.rec.ID); err == nil {
		st, stateErr := inside.State()
		status, statusErr := inside.Status()
		if stateErr == nil && statusErr == nil && st.InitProcessPid > 0 && s.passedGate(c.rec.ID, status, st.InitProcessPid) {
			c.rec.State, c.rec.Pid, c.rec.StartTime = stateRunning, st.InitProcessPid, st.InitProcessStartTime
			c.rec.StartedAt = st.Created.UnixNano()
			if err := s.saveContainer(c); err != nil {
				s.log.Error("checkpoint a started container", "container", c.rec.ID, "err", err)
			}
			return true
		}
	}
	s.log.Info("a container's start was cut short; it can be started again", "container", c.rec.ID)
	s.undoStart(c)
	c.rec.State = stateCreated
	if err := s.saveContainer(c); err != nil {
		s.log.Error("checkpoint a container", "container", c.rec.ID, "err", err)
	}
	return false
}

// undoStart takes away what a start that was cut short had made, as far as it came: streams, cgroup, mounts, directories. What
// the creation made stays: the writable layer.
func (s *Service) undoStart(c *container) {
	s.killCgroup(c.rec.Cgroup)
	for _, fd := range c.held {
		_ = unix.Close(fd)
	}
	c.held = nil
	s.release(c.rec.ID)
	if err := s.removeCgroup(c.rec.Cgroup); err != nil {
		s.log.Warn("remove the cgroup of a start that was cut short", "container", c.rec.ID, "err", err)
	}
	if err := errors.Join(os.RemoveAll(filepath.Join(s.runcRoot(), c.rec.ID)), s.removeRunDir(c.rec.ID)); err != nil {
		s.log.Warn("remove the remains of a start that was cut short", "container", c.rec.ID, "err", err)
	}
}

// removeRunDir takes a container's directory in the run directory away, after all that is mounted in it: a removal goes on
// through a mount, into an image or the container's own files. None is success.
func (s *Service) removeRunDir(id string) error {
	dir := filepath.Join(s.cfg.RunDir, "ctr", id)
	points := []string{s.rootDir(id), filepath.Join(dir, "check")}
	for _, volume := range names(filepath.Join(dir, "volumes")) {
		points = append(points, filepath.Join(dir, "volumes", volume))
	}
	for _, point := range points {
		if err := mounts.Detach(point); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("run directory of a container: %w", err)
	}
	return nil
}

// passedGate tells whether a container's process went on to the image's program. libcontainer's init writes to a FIFO just
// before that, and the runtime removes the FIFO when it has read; between the two, the process' name tells.
func (s *Service) passedGate(id string, status libcontainer.Status, pid int) bool {
	if _, err := os.Lstat(filepath.Join(s.runcRoot(), id, "exec.fifo")); err != nil {
		return status == libcontainer.Running || status == libcontainer.Stopped
	}
	if status == libcontainer.Stopped {
		return false
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return err == nil && !strings.HasPrefix(string(name), "runc:[") // as libcontainer names its steps
}
