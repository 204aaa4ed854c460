package runtime

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/runtime/hold"
	"github.com/mote-edge/mote/agent/runtime/spec"
)

// ensurePodInit starts the init process of a shared PID namespace when the first container needs it: the one case in
// which a pod costs a process. It runs as a container of its own: nobody's user, no capability, an empty root.
func (s *Service) ensurePodInit(sb *sandbox) (int, error) {
	sb.op.Lock()
	defer sb.op.Unlock()
	sb.mu.Lock()
	pid, ready := sb.rec.InitPid, sb.rec.Ready
	sb.mu.Unlock()
	if pid != 0 {
		return pid, nil
	}
	if !ready {
		return 0, fmt.Errorf("sandbox %q is not ready: %w", sb.rec.ID, errState)
	}
	id := initID(sb.rec.ID)
	cgroup, err := spec.ParentPath(sb.config, id)
	if err != nil {
		return 0, err
	}
	root := filepath.Join(s.cfg.RunDir, "init-root")
	for _, dir := range []string{"proc", "dev"} { // made here: in a user namespace nobody else may
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return 0, err
		}
	}
	target, err := os.OpenFile(filepath.Join(root, "init"), os.O_CREATE|os.O_RDONLY, 0o755)
	if err != nil {
		return 0, err
	}
	_ = target.Close()
	const nobody = 65535
	sp := &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: root, Readonly: true},
		Process: &specs.Process{
			Args: []string{"/init", "--init"}, Cwd: "/", NoNewPrivileges: true,
			User: specs.User{UID: nobody, GID: nobody}, Capabilities: &specs.LinuxCapabilities{},
		},
		Mounts: []specs.Mount{
			{Type: "proc", Source: "proc", Destination: "/proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Type: "tmpfs", Source: "tmpfs", Destination: "/dev", Options: []string{"nosuid", "noexec", "mode=755", "size=64k"}},
			{Type: "bind", Source: s.cfg.Holder, Destination: "/init", Options: []string{"bind", "ro", "rprivate"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: cgroup,
			Resources:   &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
			Namespaces:  []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}},
		},
	}
	for _, ns := range []specs.LinuxNamespace{
		{Type: specs.NetworkNamespace, Path: sb.rec.NetPath},
		{Type: specs.IPCNamespace, Path: sb.rec.IPCPath},
		{Type: specs.UTSNamespace, Path: sb.rec.UTSPath},
		{Type: specs.UserNamespace, Path: sb.rec.UserPath},
	} {
		if ns.Path != "" {
			sp.Linux.Namespaces = append(sp.Linux.Namespaces, ns)
		}
	}
	users, err := usersOf(sb.config)
	if err != nil {
		return 0, err
	}
	if users != nil {
		sp.Linux.UIDMappings, sp.Linux.GIDMappings = ociMapping(users.UID, users.Length), ociMapping(users.GID, users.Length)
	}
	sb.mu.Lock()
	sb.rec.InitCgroup = cgroup
	sb.mu.Unlock()
	pid, err = s.launch(id, sp, &stdio{stdin: -1, out: -1, err: -1, master: -1})
	if err != nil {
		return 0, err
	}
	start, err := hold.StartTime(pid)
	if err != nil {
		return 0, err
	}
	sb.mu.Lock()
	sb.rec.InitPid, sb.rec.InitStart = pid, start
	sb.mu.Unlock()
	if err := s.saveSandbox(sb); err != nil {
		return 0, err
	}
	return pid, s.watchPodInit(sb, pid)
}

func initID(sandboxID string) string { return sandboxID + "-init" }

// watchPodInit reaps the init. If nobody stopped the sandbox, losing it ends the sandbox: its processes died too.
func (s *Service) watchPodInit(sb *sandbox, pid int) error {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	return s.poll.Add(pidfd, func() {
		s.poll.Remove(pidfd)
		_ = unix.Close(pidfd)
		var status unix.WaitStatus
		_, _ = unix.Wait4(pid, &status, 0, nil)
		sb.mu.Lock()
		lost := sb.rec.Ready && sb.rec.InitPid == pid
		if sb.rec.InitPid == pid {
			sb.rec.InitPid = 0
		}
		if lost {
			sb.rec.Ready = false
		}
		sb.mu.Unlock()
		if !lost {
			return
		}
		if err := s.saveSandbox(sb); err != nil {
			s.log.Error("checkpoint a sandbox that lost its init", "sandbox", sb.rec.ID, "err", err)
		}
		s.emit(sb, sb.rec.ID, cri.ContainerEventType_CONTAINER_STOPPED_EVENT)
	})
}

// stopPodInit ends the init, if there is one. The caller holds sb.op.
func (s *Service) stopPodInit(sb *sandbox) {
	sb.mu.Lock()
	pid, start, cgroup := sb.rec.InitPid, sb.rec.InitStart, sb.rec.InitCgroup
	sb.rec.InitPid, sb.rec.InitCgroup = 0, ""
	sb.mu.Unlock()
	if cgroup == "" {
		return
	}
	if pid != 0 {
		if now, err := hold.StartTime(pid); err == nil && now == start {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	s.killCgroup(cgroup)
	if err := s.removeCgroup(cgroup); err != nil {
		s.log.Warn("remove the cgroup of a pod's init", "sandbox", sb.rec.ID, "err", err)
	}
	if err := os.RemoveAll(filepath.Join(s.runcRoot(), initID(sb.rec.ID))); err != nil {
		s.log.Warn("remove the state of a pod's init", "sandbox", sb.rec.ID, "err", err)
	}
}

// sweepPodInit takes away an init whose start was cut short: the record doesn't know it, and its remains would be in the
// way of the next one.
func (s *Service) sweepPodInit(sb *sandbox) {
	dir := filepath.Join(s.runcRoot(), initID(sb.rec.ID))
	if _, err := os.Lstat(dir); err != nil {
		return
	}
	if cgroup, err := spec.ParentPath(sb.config, initID(sb.rec.ID)); err == nil {
		s.killCgroup(cgroup)
		if err := s.removeCgroup(cgroup); err != nil {
			s.log.Warn("remove the cgroup of a pod's init", "sandbox", sb.rec.ID, "err", err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		s.log.Warn("remove the state of a pod's init", "sandbox", sb.rec.ID, "err", err)
	}
}
