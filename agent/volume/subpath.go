package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ContainerMounts returns the bind mounts of one container, subPath and subPathExpr resolved. expand replaces $(VAR) by
// the container's environment. Volumes of type image are the caller's to add.
func (v *Volumes) ContainerMounts(_ context.Context, pod *corev1.Pod, c *corev1.Container, expand func(string) (string, error)) ([]*runtimeapi.Mount, error) {
	p := v.entry(pod.UID)
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*runtimeapi.Mount
	for i, vm := range c.VolumeMounts {
		m, ok := p.mounted[vm.Name]
		if !ok {
			return nil, fmt.Errorf("mount cannot be satisfied for container %q, because the volume is missing: volume mount %s", c.Name, vm.Name)
		}
		if m.device != "" {
			return nil, fmt.Errorf("volume %s has volumeMode Block, but is specified in volumeMounts", vm.Name)
		}
		if m.path == "" {
			continue // an image volume
		}
		host, err := v.subPath(pod, c, i, vm, m, expand)
		if err != nil {
			return nil, err
		}
		mount := &runtimeapi.Mount{
			HostPath:       host,
			ContainerPath:  vm.MountPath,
			Readonly:       vm.ReadOnly || m.readOnly,
			SelinuxRelabel: m.relabel,
			Propagation:    propagation(vm.MountPropagation),
		}
		if !filepath.IsAbs(mount.ContainerPath) {
			mount.ContainerPath = filepath.Join("/", mount.ContainerPath)
		}
		if r := vm.RecursiveReadOnly; r != nil && *r != corev1.RecursiveReadOnlyDisabled {
			mount.RecursiveReadOnly = true
		}
		out = append(out, mount)
	}
	return out, nil
}

func propagation(mode *corev1.MountPropagationMode) runtimeapi.MountPropagation {
	switch {
	case mode == nil:
	case *mode == corev1.MountPropagationHostToContainer:
		return runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
	case *mode == corev1.MountPropagationBidirectional:
		return runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
	}
	return runtimeapi.MountPropagation_PROPAGATION_PRIVATE
}

// subPath returns what the runtime is to bind: the volume, or a mount of the asked part of it. The part is opened below
// the volume by the kernel, which lets no link lead out, and pinned by a bind mount of that open file: whatever a
// container swaps in afterwards, the runtime mounts what was checked.
func (v *Volumes) subPath(pod *corev1.Pod, c *corev1.Container, index int, vm corev1.VolumeMount, m mounted, expand func(string) (string, error)) (string, error) {
	sub := vm.SubPath
	if vm.SubPathExpr != "" {
		var err error
		if sub, err = expand(vm.SubPathExpr); err != nil {
			return "", err
		}
	}
	if sub == "" {
		return m.path, nil
	}
	if filepath.IsAbs(sub) {
		return "", fmt.Errorf("error SubPath `%s` must not be an absolute path", sub)
	}
	for _, part := range strings.Split(sub, "/") {
		if part == ".." {
			return "", fmt.Errorf("unable to provision SubPath `%s`: must not contain '..'", sub)
		}
	}
	target := filepath.Join(v.cfg.PodsDir, string(pod.UID), "volume-subpaths", vm.Name, c.Name, strconv.Itoa(index))
	if err := bindBelow(m.path, filepath.Clean(sub), target); err != nil {
		return "", fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", vm.Name, c.Name, err)
	}
	return target, nil
}

// bindBelow mounts sub, looked up below root, on target. What doesn't exist is made a directory. An older mount on
// target, from the container's last run, goes.
func bindBelow(root, sub, target string) error {
	fd, err := openBelow(root, sub)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if err := removeTree(target); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = os.MkdirAll(target, 0o750)
	} else if err = os.MkdirAll(filepath.Dir(target), 0o750); err == nil {
		var f *os.File
		if f, err = os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640); err == nil {
			err = f.Close()
		}
	}
	if err != nil {
		return err
	}
	source := "/proc/self/fd/" + strconv.Itoa(fd)
	if err := unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s: %w", sub, err)
	}
	return nil
}

// openBelow opens a path below root without ever leaving it; missing directories are made with the root's mode.
func openBelow(root, sub string) (int, error) {
	base, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(base)
	fd, err := beneath(base, sub, 0)
	if err == nil || !errors.Is(err, unix.ENOENT) {
		return fd, outside(err, root, sub)
	}
	var st unix.Stat_t
	if err := unix.Fstat(base, &st); err != nil {
		return -1, err
	}
	done := ""
	for _, part := range strings.Split(sub, "/") {
		parent, name := done, part
		done = filepath.Join(done, part)
		if fd, err := beneath(base, done, unix.O_DIRECTORY); err == nil {
			unix.Close(fd)
			continue
		} else if !errors.Is(err, unix.ENOENT) {
			return -1, outside(err, root, sub)
		}
		if parent == "" {
			parent = "."
		}
		dir, err := beneath(base, parent, unix.O_DIRECTORY)
		if err != nil {
			return -1, outside(err, root, sub)
		}
		err = makeDir(dir, name, st)
		unix.Close(dir)
		if err != nil {
			return -1, fmt.Errorf("create %s below %s: %w", done, root, err)
		}
	}
	fd, err = beneath(base, sub, 0)
	return fd, outside(err, root, sub)
}

func makeDir(dir int, name string, like unix.Stat_t) error {
	if err := unix.Mkdirat(dir, name, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Fchown(fd, -1, int(like.Gid)); err != nil {
		return err
	}
	return unix.Fchmod(fd, like.Mode&0o7777)
}

func beneath(base int, sub string, flags uint64) (int, error) {
	return below(base, sub, unix.O_PATH|flags)
}

// below opens a path that the kernel keeps below base, whatever links are on the way.
func below(base int, sub string, flags uint64) (int, error) {
	how := &unix.OpenHow{Flags: unix.O_CLOEXEC | flags, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	for range 16 {
		fd, err := unix.Openat2(base, sub, how)
		if !errors.Is(err, unix.EAGAIN) { // a rename elsewhere raced with the look-up
			return fd, err
		}
	}
	return -1, unix.EAGAIN
}

func outside(err error, root, sub string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EXDEV):
		return fmt.Errorf("subpath %q not within volume path %q", sub, root)
	}
	return &fs.PathError{Op: "open", Path: filepath.Join(root, sub), Err: err}
}
