package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // device rules, v1 and v2
	cgroupmanager "github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/utils"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// This file and exec.go are where libcontainer is called.

func (s *Service) runcRoot() string { return filepath.Join(s.cfg.RunDir, "runc") }

// stdio is what a process gets as its standard streams, and our ends of them.
type stdio struct {
	terminal bool
	child    [3]*os.File // closed after the start
	stdin    int         // our ends; -1: none
	out, err int
	master   int // of the terminal, after the start
}

func (io *stdio) closeChild() {
	for i, file := range io.child {
		if file != nil {
			_ = file.Close()
			io.child[i] = nil
		}
	}
}

func (io *stdio) closeOurs() {
	for _, fd := range []*int{&io.stdin, &io.out, &io.err, &io.master} {
		if *fd >= 0 {
			_ = unix.Close(*fd)
			*fd = -1
		}
	}
}

// newStdio makes pipes; a terminal has none, its master comes from the container.
func newStdio(terminal, stdin bool) (_ *stdio, retErr error) {
	io := &stdio{terminal: terminal, stdin: -1, out: -1, err: -1, master: -1}
	if terminal {
		return io, nil
	}
	defer func() {
		if retErr != nil {
			io.closeChild()
			io.closeOurs()
		}
	}()
	pipe := func(childReads bool, i int) (int, error) {
		var fds [2]int
		if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
			return -1, fmt.Errorf("pipe: %w", err)
		}
		child, ours := fds[1], fds[0]
		if childReads {
			child, ours = ours, child
		}
		io.child[i] = os.NewFile(uintptr(child), "stdio")
		return ours, nil
	}
	var err error
	if stdin {
		if io.stdin, err = pipe(true, 0); err != nil {
			return nil, err
		}
	}
	if io.out, err = pipe(false, 1); err != nil {
		return nil, err
	}
	if io.err, err = pipe(false, 2); err != nil {
		return nil, err
	}
	return io, nil
}

// stepsLogLevel is logrus' number of "info". Unless told otherwise libcontainer's first steps send some twenty lines of "debug" for
// each start and exec, which this program would parse and drop.
const stepsLogLevel = "4"

// process translates the specification's process.
func process(p *specs.Process, io *stdio, init bool) *libcontainer.Process {
	out := &libcontainer.Process{
		Args: p.Args, Env: p.Env, Cwd: p.Cwd, UID: int(p.User.UID), GID: int(p.User.GID), Init: init,
		NoNewPrivileges: &p.NoNewPrivileges, AppArmorProfile: p.ApparmorProfile, Label: p.SelinuxLabel, LogLevel: stepsLogLevel,
	}
	for _, gid := range p.User.AdditionalGids {
		out.AdditionalGroups = append(out.AdditionalGroups, int(gid))
	}
	if c := p.Capabilities; c != nil {
		out.Capabilities = &configs.Capabilities{
			Bounding: c.Bounding, Effective: c.Effective, Permitted: c.Permitted, Inheritable: c.Inheritable, Ambient: c.Ambient,
		}
	}
	// A typed nil in an interface isn't nil to libcontainer: assign only what exists.
	if io.child[0] != nil {
		out.Stdin = io.child[0]
	}
	if io.child[1] != nil {
		out.Stdout = io.child[1]
	}
	if io.child[2] != nil {
		out.Stderr = io.child[2]
	}
	return out
}

const (
	launchesPerCPU = 2
	turnAfter      = 2 * time.Second
)

// turn waits until few other starts are under way: many at once are all slower, fighting for the kernel's locks and the
// processor's caches. It doesn't wait for long, since a start may hang in a mount that others don't have. It returns what ends the turn.
func (s *Service) turn() func() {
	timer := time.NewTimer(turnAfter)
	defer timer.Stop()
	select {
	case s.launches <- struct{}{}:
		return func() { <-s.launches }
	case <-timer.C:
		return func() {}
	}
}

// launch starts the container's first process and returns its pid. libcontainer opens the process once more (os.FindProcess, a
// pidfd) and has no call to let go of it without waiting for its end: a garbage collection closes it, at the latest that of
// the trim ten seconds after the work (trimAfter).
func (s *Service) launch(id string, sp *specs.Spec, io *stdio) (int, error) {
	defer s.turn()()
	config, err := convert(id, sp)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errInvalid, err)
	}
	if err := s.viewCgroups(id, config); err != nil {
		return 0, err
	}
	if err := s.seccomp.Ensure(config.Seccomp); err != nil {
		s.log.Warn("seccomp cache; the filter is compiled at each start instead", "err", err)
	}
	container, err := libcontainer.Create(s.runcRoot(), id, config)
	if err != nil {
		return 0, fmt.Errorf("create container: %w", err)
	}
	proc := process(sp.Process, io, true)
	if err := run(proc, io, func() error { return container.Run(proc) }); err != nil {
		s.strays.look()
		if pid, pidErr := proc.Pid(); pidErr == nil { // it may wait at its start gate
			_ = unix.Kill(pid, unix.SIGKILL)
			_, _ = proc.Wait()
		}
		if destroyErr := container.Destroy(); destroyErr != nil {
			err = errors.Join(err, destroyErr)
		}
		return 0, err
	}
	return proc.Pid()
}

// run calls start with a console socket if there is a terminal, and takes the master out of it.
func run(proc *libcontainer.Process, io *stdio, start func() error) error {
	defer io.closeChild()
	if !io.terminal {
		return start()
	}
	parent, child, err := utils.NewSockPair("console")
	if err != nil {
		return fmt.Errorf("console socket: %w", err)
	}
	defer parent.Close()
	proc.ConsoleSocket = child
	err = start()
	_ = child.Close()
	if err != nil {
		return err
	}
	master, err := utils.RecvFile(parent)
	if err != nil {
		return fmt.Errorf("receive terminal: %w", err)
	}
	defer master.Close()
	io.master, err = unix.FcntlInt(master.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return fmt.Errorf("keep terminal: %w", err)
	}
	return nil
}

// cgroup gives access to a container's control group, by path alone.
func (s *Service) cgroup(path string) (cgroups.Manager, error) {
	return cgroupmanager.New(&cgroups.Cgroup{Path: path, Resources: &cgroups.Resources{SkipDevices: true}})
}

// sweepProcesses kills what still runs of a container that has no record, and removes its cgroup.
func (s *Service) sweepProcesses(id string) {
	inside, err := libcontainer.Load(s.runcRoot(), id)
	if err != nil {
		return
	}
	config := inside.Config()
	if config.Cgroups == nil || config.Cgroups.Path == "" {
		return
	}
	s.killCgroup(config.Cgroups.Path)
	if err := s.removeCgroup(config.Cgroups.Path); err != nil {
		s.log.Warn("remove the cgroup of a leftover", "container", id, "err", err)
	}
}
