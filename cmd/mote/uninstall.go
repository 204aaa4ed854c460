package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/cgroup"
	"github.com/mote-edge/mote/agent/node"
	"github.com/mote-edge/mote/agent/shutdown"
	"github.com/mote-edge/mote/cni"
	"github.com/mote-edge/mote/internal/dynmods"
	"github.com/mote-edge/mote/internal/layout"
	"github.com/mote-edge/mote/internal/pidfile"
	"github.com/mote-edge/mote/proxy"
)

// uninstallation is what to take away.
type uninstallation struct {
	dirs       layout.Dirs
	podLogDir  string
	cgroupRoot string
	clusterDNS string
	keepData   bool
	out        io.Writer
}

func uninstallCommand(dirs *layout.Dirs) *cobra.Command {
	u := uninstallation{}
	var yes bool
	c := &cobra.Command{
		Use:   "uninstall",
		Short: "Stop Mote on this machine and remove all that it made: pods, mounts, links, rules, cgroups, data",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			u.dirs, u.out = *dirs, cmd.OutOrStdout()
			switch {
			case os.Getuid() != 0:
				return errors.New("uninstall: run this as root")
			case !yes:
				return fmt.Errorf("uninstall ends every pod on this machine and deletes %s, %s and %s: give --yes if you mean it", dirs.Data, dirs.Config, u.podLogDir)
			}
			return u.run(cmd.Context())
		},
	}
	f := c.Flags()
	f.BoolVar(&yes, "yes", false, "do it")
	f.BoolVar(&u.keepData, "keep-data", false, "stop everything, but leave the data and configuration directories")
	f.StringVar(&u.podLogDir, "pod-log-dir", "/var/log/pods", "where container logs are")
	f.StringVar(&u.cgroupRoot, "cgroup-root", "/", "cgroup below which the pods' cgroups are")
	f.StringVar(&u.clusterDNS, "cluster-dns", "10.43.0.10", "address of cluster DNS")
	return c
}

// run goes on after an error: what can be removed is removed, and what can't is reported at the end.
func (u *uninstallation) run(ctx context.Context) error {
	var errs []error
	step := func(what string, f func() error) {
		if err := f(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
			return
		}
		fmt.Fprintln(u.out, what)
	}
	step("stopped server and agent", func() error {
		return errors.Join(u.stopHolder(filepath.Join(u.dirs.Run, "server.pid")), u.stopHolder(filepath.Join(u.dirs.Run, "agent.pid")))
	})
	step("stopped pods", func() error { return u.stopPods(ctx) })
	step("stopped the container runtime", func() error {
		// The holder first, or it would start the runtime again.
		return errors.Join(stopListener("unixpacket", u.dirs.HoldSocket()), stopListener("unix", u.dirs.RuntimeSocket()))
	})
	step("removed the pods' cgroups", func() error {
		t, err := cgroup.New(cgroup.Config{Root: u.cgroupRoot})
		if err != nil {
			return err
		}
		return t.Cleanup()
	})
	step("took back what was set on cgroup2", func() error { return dynmods.Undo(u.dirs.Run) })
	step("unmounted volumes and file systems", u.unmount)
	step("removed service rules and cluster DNS", func() error {
		dns, err := netip.ParseAddr(u.clusterDNS)
		if err != nil {
			return fmt.Errorf("--cluster-dns %q is not an address", u.clusterDNS)
		}
		return proxy.Cleanup(ctx, dns)
	})
	step("removed the bridge, links and host ports", func() error { return cni.Cleanup(ctx, cni.CleanupConfig{DataDir: u.dirs.CNIState()}) })
	step("removed routes", node.CleanupRoutes)
	step("removed logind's drop-in", shutdown.Cleanup)
	step("removed directories", u.removeDirs)
	return errors.Join(errs...)
}

// stopHolder ends the process that holds a pid file: politely, then not.
func (u *uninstallation) stopHolder(path string) error {
	pid, err := pidfile.Holder(path)
	if err != nil || pid == 0 {
		return err
	}
	return end(pid)
}

// end terminates a process, and kills it if it takes more than ten seconds.
func end(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := unix.PidfdSendSignal(fd, sig, nil, 0); errors.Is(err, unix.ESRCH) {
			return nil
		} else if err != nil {
			return fmt.Errorf("process %d: %w", pid, err)
		}
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(poll, 10_000); err == nil && n == 1 {
			return nil
		}
	}
	return fmt.Errorf("process %d does not end", pid)
}

// stopListener ends the process behind a unix socket: the kernel tells who listens there.
func stopListener(network, socket string) error {
	c, err := net.DialTimeout(network, socket, time.Second)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		return nil
	}
	if err != nil {
		return err
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return err
	}
	if credErr != nil {
		return credErr
	}
	return end(int(cred.Pid))
}

// stopPods stops and removes every sandbox; one that is stuck doesn't keep the others.
func (u *uninstallation) stopPods(ctx context.Context) error {
	socket := u.dirs.RuntimeSocket()
	if c, err := net.DialTimeout("unix", socket, time.Second); err != nil {
		return nil // no runtime, no pods: what it may have left goes with cgroups and mounts
	} else {
		c.Close()
	}
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	rt := runtimeapi.NewRuntimeServiceClient(conn)
	list, err := rt.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	errs := make(chan error)
	for _, s := range list.GetItems() {
		go func() {
			_, err := rt.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: s.GetId()})
			if err == nil {
				_, err = rt.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: s.GetId()})
			}
			errs <- err
		}()
	}
	var all []error
	for range list.GetItems() {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}

// unmount detaches everything that is mounted below Mote's directories, the deepest first.
func (u *uninstallation) unmount() error {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var points []string
	for _, line := range strings.Split(string(data), "\n") {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		point := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(fields[4])
		for _, dir := range []string{u.dirs.Data, u.dirs.Run} {
			if strings.HasPrefix(point, dir+"/") {
				points = append(points, point)
			}
		}
	}
	slices.Reverse(points)
	var errs []error
	for _, p := range points {
		if err := unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", p, err))
		}
	}
	return errors.Join(errs...)
}

func (u *uninstallation) removeDirs() error {
	errs := []error{os.RemoveAll(u.dirs.Run)}
	if !u.keepData {
		errs = append(errs, os.RemoveAll(u.dirs.Data), os.RemoveAll(u.dirs.Config), os.RemoveAll(u.podLogDir))
		errs = append(errs, removeDanglingLogs(filepath.Join(filepath.Dir(u.podLogDir), "containers"), u.podLogDir))
	}
	return errors.Join(errs...)
}

// removeDanglingLogs removes the links to container logs; another runtime's stay.
func removeDanglingLogs(dir, podLogDir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if target, err := os.Readlink(path); err == nil && strings.HasPrefix(target, podLogDir+"/") {
			errs = append(errs, os.Remove(path))
		}
	}
	_ = os.Remove(dir) // stays when others have links in it
	return errors.Join(errs...)
}
