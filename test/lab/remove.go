package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/mote-edge/mote/agent/runtime/stage"
)

// Programs returns the node's processes that run one of Mote's programs, by program.
func (n *Node) Programs() map[string][]int { return n.ProgramsIn(n.lab.cfg.Bin) }

// ProgramsIn returns the node's processes that run a program of one of the directories, by program; mote-runtime runs from a
// directory of its own (agent/runtime/stage).
func (n *Node) ProgramsIn(dirs ...string) map[string][]int {
	out := map[string][]int{}
	if slices.Contains(dirs, n.lab.cfg.Bin) {
		dirs = append(slices.Clone(dirs), filepath.Dir(stage.Path(filepath.Join(n.Dir(), "run"))))
	}
	for _, pid := range n.processes() {
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		if err == nil && slices.Contains(dirs, filepath.Dir(exe)) {
			out[filepath.Base(exe)] = append(out[filepath.Base(exe)], pid)
		}
	}
	return out
}

// processes are those in the node's mount namespace or in one of its pods': found by cgroup and by namespace, never by
// name.
func (n *Node) processes() []int {
	want := inode(n.mountNS())
	entries, _ := os.ReadDir("/proc")
	var out []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		cgroups, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cgroup"))
		inCgroup := strings.Contains(string(cgroups), ":"+n.Cgroup()+"/")
		if inCgroup || want != 0 && inode(filepath.Join("/proc", e.Name(), "ns", "mnt")) == want {
			out = append(out, pid)
		}
	}
	return out
}

func inode(path string) uint64 {
	st, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return st.Sys().(*syscall.Stat_t).Ino
}

// remove ends the node: its processes, mounts, cgroups and directories.
func (n *Node) remove(ctx context.Context) error {
	if err := n.killAll(); err != nil {
		return err
	}
	var errs []error
	// The pinned mount namespace goes, and with it every mount that was made in it.
	if err := syscall.Unmount(n.mountNS(), syscall.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOENT) {
		errs = append(errs, fmt.Errorf("unpin the mount namespace of %s: %w", n.Name, err))
	}
	errs = append(errs, removeCgroups(n.Cgroup()))
	if ctx.Err() == nil {
		errs = append(errs, os.RemoveAll(n.Dir()))
	}
	return errors.Join(errs...)
}

func (n *Node) killAll() error {
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		pids := n.processes()
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("node %s: processes %v don't end", n.Name, pids)
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// PowerOff is what a power cut leaves of a node: no process, no mount, no link but its uplink, no cgroup, an empty run
// directory; and the disk. Start it again with StartAgent or StartServer.
func (n *Node) PowerOff(ctx context.Context) error {
	if err := n.killAll(); err != nil {
		return err
	}
	if n.done != nil {
		<-n.done
	}
	if err := syscall.Unmount(n.mountNS(), syscall.MNT_DETACH); err != nil {
		return fmt.Errorf("unpin the mount namespace of %s: %w", n.Name, err)
	}
	if err := removeCgroups(n.Cgroup()); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(n.Dir(), "run")); err != nil {
		return err
	}
	ns := n.lab.netns(n.Name)
	if _, err := run(ctx, "ip", "-n", ns, "link", "del", "mote0"); err != nil && !strings.Contains(err.Error(), "Cannot find device") {
		return err
	}
	if _, err := run(ctx, "ip", "-n", ns, "route", "flush", "proto", "static"); err != nil {
		return err
	}
	return n.pinMounts(ctx)
}

// removeCgroups removes a cgroup and those below it in every hierarchy.
func removeCgroups(name string) error {
	var errs []error
	roots, _ := filepath.Glob("/sys/fs/cgroup/*")
	for _, root := range append(roots, "/sys/fs/cgroup") {
		top := filepath.Join(root, name)
		var dirs []string
		_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for i := len(dirs) - 1; i >= 0; i-- {
			if err := os.Remove(dirs[i]); err != nil && !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}
