package cgroup

import (
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
)

// hierarchies are the mounted cgroup file systems of the machine.
type hierarchies struct {
	v2      bool
	unified string            // mount of the v2 tree; on hybrid machines one without controllers, or ""
	v1      map[string]string // mount by controller
	named   []string          // v1 mounts without a controller (name=systemd)
}

// tierControllers are the ones that a pod's limits need.
var tierControllers = []string{"cpu", "cpuacct", "cpuset", "memory", "pids", "hugetlb"}

// parseHierarchies reads a mountinfo text. Of several mounts of one controller the shortest path wins.
func parseHierarchies(mountinfo string) (hierarchies, error) {
	h := hierarchies{v1: map[string]string{}}
	for line := range strings.Lines(mountinfo) {
		left, right, ok := strings.Cut(line, " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 5 || len(r) < 3 {
			continue
		}
		dir, kind := l[4], r[0]
		switch kind {
		case "cgroup2":
			if h.unified == "" || len(dir) < len(h.unified) {
				h.unified = dir
			}
		case "cgroup":
			var named bool
			for _, opt := range strings.Split(r[2], ",") {
				switch {
				case strings.HasPrefix(opt, "name="):
					named = true
				case opt != "rw" && opt != "ro" && opt != "xattr" && opt != "noprefix" && opt != "clone_children":
					if old := h.v1[opt]; old == "" || len(dir) < len(old) {
						h.v1[opt] = dir
					}
				}
			}
			if named && !slices.Contains(h.named, dir) {
				h.named = append(h.named, dir)
			}
		}
	}
	h.v2 = h.unified != "" && h.v1["memory"] == "" && h.v1["cpu"] == ""
	switch {
	case h.v2:
		return h, nil
	case h.v1["cpu"] == "" || h.v1["memory"] == "" || h.v1["pids"] == "":
		return h, fmt.Errorf("the cgroup controllers cpu, memory and pids aren't mounted: mount cgroup2 on /sys/fs/cgroup or boot with cgroup_enable=memory")
	}
	return h, nil
}

// all are the mounts that a pod's cgroup may exist in; the runtime makes more than we do.
func (h hierarchies) all() []string {
	var mounts []string
	add := func(dir string) {
		if dir != "" && !slices.Contains(mounts, dir) {
			mounts = append(mounts, dir)
		}
	}
	if h.v2 {
		return []string{h.unified}
	}
	for _, dir := range h.v1 {
		add(dir)
	}
	for _, dir := range h.named {
		add(dir)
	}
	add(h.unified)
	return mounts
}

// mount is where a controller's files are; "" if the machine lacks the controller.
func (h hierarchies) mount(controller string) string {
	if h.v2 {
		return h.unified
	}
	return h.v1[controller]
}

// create makes a cgroup and its parents in every hierarchy that limits pods.
func (h hierarchies) create(cg string) error {
	if h.v2 {
		return h.createV2(cg)
	}
	made := map[string]bool{} // two controllers may share a mount, cpu and cpuacct mostly do
	for _, controller := range tierControllers {
		mount := h.v1[controller]
		if mount == "" || made[mount] {
			continue
		}
		made[mount] = true
		level := makeV1
		if mount == h.v1["cpuset"] {
			level = makeCpuset
		}
		if err := level(mount, strings.Trim(cg, "/")); err != nil {
			return err
		}
	}
	return nil
}

// makeV1 makes a cgroup, and its parents only when they turn out to be missing: a pod's are there.
func makeV1(mount, cg string) error {
	err := os.Mkdir(filepath.Join(mount, cg), 0o755)
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil
	case errors.Is(err, fs.ErrNotExist) && cg != "":
		return os.MkdirAll(filepath.Join(mount, cg), 0o755)
	}
	return err
}

// exists tells whether a cgroup is there, by one hierarchy: they are made and removed together.
func (h hierarchies) exists(cg string) bool {
	mounts := h.all()
	if !h.v2 {
		mounts = nil
		for _, controller := range tierControllers {
			if m := h.v1[controller]; m != "" {
				mounts = append(mounts, m)
			}
		}
	}
	if len(mounts) == 0 {
		return false
	}
	_, err := os.Lstat(filepath.Join(mounts[0], cg))
	return err == nil
}

// makeCpuset makes a cgroup with its parent's CPUs and memory nodes: a v1 cpuset without them takes no task. A parent that is
// missing, or has none itself, is made first.
func makeCpuset(mount, cg string) error {
	if cg == "" || cg == "." {
		return nil
	}
	dir, parent := filepath.Join(mount, cg), filepath.Dir(cg)
	err := os.Mkdir(dir, 0o755)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeCpuset(mount, parent); err != nil {
			return err
		}
		err = os.Mkdir(dir, 0o755)
	}
	there := errors.Is(err, fs.ErrExist)
	if err != nil && !there {
		return err
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		if there { // one that is new has none
			if have, err := readTrimmed(dir, file); err != nil {
				return err
			} else if have != "" {
				continue
			}
		}
		value, err := readTrimmed(filepath.Join(mount, parent), file)
		if err == nil && value == "" && parent != "." {
			if err = makeCpuset(mount, parent); err == nil {
				value, err = readTrimmed(filepath.Join(mount, parent), file)
			}
		}
		if err != nil {
			return err
		}
		if err := writeFile(dir, file, value); err != nil {
			return err
		}
	}
	return nil
}

func readTrimmed(dir, file string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, file))
	return strings.TrimSpace(string(b)), err
}

// createV2 makes each level and hands the controllers down to it.
func (h hierarchies) createV2(cg string) error {
	dir := h.unified
	for _, part := range strings.Split(strings.Trim(cg, "/"), "/") {
		if err := delegate(dir); err != nil {
			return err
		}
		dir = filepath.Join(dir, part)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return delegate(dir)
}

// delegate enables every controller that a cgroup has for its children too.
func delegate(dir string) error {
	have, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	on, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
	if err != nil {
		return err
	}
	enabled := strings.Fields(string(on))
	for _, c := range strings.Fields(string(have)) {
		if slices.Contains(enabled, c) {
			continue
		}
		// One by one: a controller that refuses (rt tasks and cpu) must not keep the others back.
		if err := writeFile(dir, "cgroup.subtree_control", "+"+c); err != nil && slices.Contains(tierControllers, c) {
			return fmt.Errorf("enable controller %s: %w", c, err)
		}
	}
	return nil
}

// apply writes limits into an existing cgroup.
func (h hierarchies) apply(cg string, l Limits) error {
	for _, w := range h.files(l) {
		mount := h.mount(w.controller)
		if mount == "" {
			continue // the machine lacks this controller
		}
		if err := writeFile(filepath.Join(mount, cg), w.file, w.value); err != nil {
			if w.optional && errors.Is(err, fs.ErrNotExist) {
				continue
			}
			return err
		}
	}
	return nil
}

// write is one value for one kernel file.
type write struct {
	controller, file, value string
	optional                bool
}

// files says which kernel files limits become. Pure.
func (h hierarchies) files(l Limits) []write {
	var out []write
	add := func(controller, file, value string) {
		out = append(out, write{controller: controller, file: file, value: value})
	}
	limit := func(n int64) string {
		if n < 0 {
			return "max"
		}
		return strconv.FormatInt(n, 10)
	}
	if h.v2 {
		if l.CPUShares > 0 {
			add("cpu", "cpu.weight", strconv.FormatUint(Weight(l.CPUShares), 10))
		}
		if l.CPUQuota != 0 {
			add("cpu", "cpu.max", limit(l.CPUQuota)+" "+strconv.FormatUint(l.CPUPeriod, 10))
		}
		if l.Memory != 0 {
			add("memory", "memory.max", limit(l.Memory))
		}
		if p := l.Protection; p != nil {
			high := limit(p.High)
			if p.High == 0 {
				high = "max"
			}
			add("memory", "memory.min", strconv.FormatInt(p.Min, 10))
			add("memory", "memory.low", strconv.FormatInt(p.Low, 10))
			add("memory", "memory.high", high)
		}
	} else {
		if l.CPUShares > 0 {
			add("cpu", "cpu.shares", strconv.FormatUint(l.CPUShares, 10))
		}
		if l.CPUQuota != 0 {
			add("cpu", "cpu.cfs_period_us", strconv.FormatUint(l.CPUPeriod, 10))
			add("cpu", "cpu.cfs_quota_us", strconv.FormatInt(l.CPUQuota, 10))
		}
		if l.Memory != 0 {
			add("memory", "memory.limit_in_bytes", strconv.FormatInt(l.Memory, 10))
		}
	}
	if l.PIDs != 0 {
		add("pids", "pids.max", limit(l.PIDs))
	}
	for size, bytes := range l.HugePages {
		file := "hugetlb." + size + ".limit_in_bytes"
		if h.v2 {
			file = "hugetlb." + size + ".max"
		}
		out = append(out, write{"hugetlb", file, strconv.FormatInt(bytes, 10), true})
	}
	return out
}

// remove kills what runs below a cgroup and removes it everywhere. Gone already is success.
func (h hierarchies) remove(cg string) error {
	var errs []error
	for _, mount := range h.all() {
		if err := removeDir(filepath.Join(mount, cg)); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func removeDir(dir string) error {
	var err error
	for try := range 20 {
		if err = removeTree(dir, try > 0); err == nil {
			return nil
		}
		// A killed task leaves its cgroup when it is reaped: there is no event to wait for on v1.
		time.Sleep(time.Duration(try+1) * time.Millisecond)
	}
	return err
}

// removeTree removes the deepest cgroups first.
func removeTree(dir string, kill bool) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name()), kill); err != nil {
				return err
			}
		}
	}
	if kill {
		killAll(dir)
	}
	if err := syscall.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", dir, err)
	}
	return nil
}

func killAll(dir string) {
	if err := writeFile(dir, "cgroup.kill", "1"); err == nil {
		return
	}
	pids, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return
	}
	for line := range strings.Lines(string(pids)) {
		if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil && pid > 1 {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// writeFile writes an existing kernel file; os.WriteFile would try to create one and hide the real error.
func writeFile(dir, name, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(value); err != nil {
		return fmt.Errorf("write %q: %w", value, err)
	}
	return nil
}
