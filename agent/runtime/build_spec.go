package runtime

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"

	"github.com/mote-edge/mote/agent/runtime/image"
	"github.com/mote-edge/mote/agent/runtime/mounts"
	"github.com/mote-edge/mote/agent/runtime/spec"
)

type specPurpose bool

const (
	specDraft specPurpose = false // to find errors; touches nothing
	specFinal specPurpose = true  // to start: sources are made and mounted
)

// buildSpec mounts the container's root and makes the specification for it.
func (s *Service) buildSpec(sb *sandbox, c *container, img image.Image, purpose specPurpose) (*specs.Spec, error) {
	root, err := s.mountRoot(sb, c)
	if err != nil {
		return nil, err
	}
	in, err := s.specInput(sb, c, img, purpose)
	if err != nil {
		return nil, err
	}
	return s.specFor(c, in, root)
}

// specInput gathers what the pure builder needs to know, but for the root and who is in it.
func (s *Service) specInput(sb *sandbox, c *container, img image.Image, purpose specPurpose) (in spec.Input, err error) {
	sc := c.config.GetLinux().GetSecurityContext()
	in = spec.Input{
		Host: s.host, Sandbox: sb.config, Container: c.config, Image: img.Config.Config, CgroupPath: c.rec.Cgroup,
		Labels: spec.Labels{Process: c.rec.ProcessLabel, Mount: c.rec.MountLabel},
	}
	if in.Namespaces, err = s.namespacesFor(sb, c); err != nil {
		return in, err
	}
	if in.Files, err = s.filesFor(sb, sc.GetNamespaceOptions()); err != nil {
		return in, err
	}
	for _, m := range c.config.GetMounts() {
		resolved, err := s.resolveMount(sb, c, m, purpose)
		if err != nil {
			return in, err
		}
		in.Mounts = append(in.Mounts, resolved)
	}
	in.DeviceMode = map[string]string{}
	for _, d := range c.config.GetDevices() {
		found, err := findDevices(d.HostPath, d.ContainerPath)
		if err != nil {
			return in, fmt.Errorf("device %q: %w", d.HostPath, err)
		}
		for _, each := range found {
			in.DeviceMode[each.Path] = d.Permissions
		}
		in.Devices = append(in.Devices, found...)
	}
	if sc.GetPrivileged() {
		if in.HostDevs, err = findDevices("/dev", "/dev"); err != nil {
			return in, fmt.Errorf("host devices: %w", err)
		}
	}
	return in, nil
}

// specFor is the specification with what was looked up in the root.
func (s *Service) specFor(c *container, in spec.Input, root string) (*specs.Spec, error) {
	in.Rootfs, in.User = root, spec.User{UID: c.rec.UID, GID: c.rec.GID, Groups: c.rec.Groups}
	out, err := spec.Build(in)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errInvalid, err)
	}
	if err := checkAppArmor(out); err != nil {
		return nil, err
	}
	return out, s.injectCDI(c, out)
}

func (s *Service) namespacesFor(sb *sandbox, c *container) (spec.Namespaces, error) {
	options := c.config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	out := spec.Namespaces{Net: sb.rec.NetPath, IPC: sb.rec.IPCPath, UTS: sb.rec.UTSPath, User: sb.rec.UserPath}
	users, err := usersOf(sb.config)
	if err != nil {
		return out, err
	}
	if users != nil {
		out.UIDMappings, out.GIDMappings = ociMapping(users.UID, users.Length), ociMapping(users.GID, users.Length)
	}
	switch options.GetPid() {
	case cri.NamespaceMode_NODE:
		out.HostPID = true
	case cri.NamespaceMode_POD:
		pid, err := s.ensurePodInit(sb)
		if err != nil {
			return out, fmt.Errorf("init of the shared PID namespace: %w", err)
		}
		out.PID = fmt.Sprintf("/proc/%d/ns/pid", pid)
	case cri.NamespaceMode_TARGET:
		target, err := s.container(options.GetTargetId())
		if err != nil {
			return out, fmt.Errorf("target of the PID namespace: %w", err)
		}
		target.mu.Lock()
		defer target.mu.Unlock()
		if target.rec.SandboxID != sb.rec.ID {
			return out, fmt.Errorf("target container %q belongs to another sandbox: %w", options.GetTargetId(), errInvalid)
		}
		if target.rec.State != stateRunning {
			return out, fmt.Errorf("target container %q isn't running: %w", options.GetTargetId(), errState)
		}
		out.PID = fmt.Sprintf("/proc/%d/ns/pid", target.rec.Pid)
	}
	return out, nil
}

// filesFor names the sandbox's files and makes those that only some containers need.
func (s *Service) filesFor(sb *sandbox, options *cri.NamespaceOption) (spec.Files, error) {
	dir := s.sandboxDir(sb.rec.ID)
	files := spec.Files{
		ResolvConf: filepath.Join(dir, "resolv.conf"), Hostname: filepath.Join(dir, "hostname"),
		Hosts: "/etc/hosts", Shm: "/dev/shm",
	}
	if _, err := os.Stat(files.Hosts); err != nil {
		files.Hosts = ""
	}
	if sb.rec.IPCPath != "" && options.GetIpc() != cri.NamespaceMode_NODE {
		files.Shm = filepath.Join(dir, "shm")
		sb.mu.Lock()
		defer sb.mu.Unlock()
		if _, err := os.Stat(files.Shm); err == nil {
			return files, nil
		}
		users, err := usersOf(sb.config)
		if err != nil {
			return files, err
		}
		return files, mountShm(files.Shm, users, sb.rec.MountLabel)
	}
	return files, nil
}

func (s *Service) resolveMount(sb *sandbox, c *container, m *cri.Mount, purpose specPurpose) (spec.Mount, error) {
	out := spec.Mount{Mount: m}
	if !filepath.IsAbs(m.ContainerPath) {
		return out, fmt.Errorf("mount target %q is not absolute: %w", m.ContainerPath, errInvalid)
	}
	users, err := usersOf(sb.config)
	if err != nil {
		return out, err
	}
	if len(m.UidMappings)+len(m.GidMappings) > 0 {
		if !sameUsers(users, m) {
			return out, fmt.Errorf("mount %q: its id mappings are not those of the sandbox's user namespace: %w", m.ContainerPath, errInvalid)
		}
		out.Mapped = m.GetImage().GetImage() == "" // an image comes mapped
	}
	if m.GetImage().GetImage() != "" {
		source, err := s.imageVolume(sb, c, m, purpose)
		out.Source = source
		return out, err
	}
	source, err := filepath.EvalSymlinks(m.HostPath)
	if errors.Is(err, os.ErrNotExist) && purpose == specFinal {
		// Docker's behaviour, which hostPath volumes without a type count on.
		if err := os.MkdirAll(m.HostPath, 0o755); err != nil {
			return out, fmt.Errorf("make mount source: %w", err)
		}
		source, err = filepath.EvalSymlinks(m.HostPath)
	}
	if errors.Is(err, os.ErrNotExist) && purpose == specDraft {
		source, err = m.HostPath, nil
	}
	if err != nil {
		return out, fmt.Errorf("mount source: %w", err)
	}
	out.Source = source
	if m.SelinuxRelabel && purpose == specFinal {
		if err := relabel(source, c.rec.MountLabel); err != nil {
			return out, err
		}
	}
	if m.Propagation != cri.MountPropagation_PROPAGATION_PRIVATE {
		out.SourceShared, out.SourceSlave, err = propagation(source)
	}
	return out, err
}

// propagation tells how the mount that a path is on is connected, from its line in mountinfo.
func propagation(path string) (shared, slave bool, err error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return false, false, err
	}
	defer file.Close()
	raw, err := io.ReadAll(file)
	if err != nil {
		return false, false, err
	}
	best := -1
	for line := range strings.Lines(string(raw)) {
		fields := strings.Fields(line)
		if len(fields) < 7 {
			continue
		}
		point := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(fields[4])
		if path != point && point != "/" && !strings.HasPrefix(path, point+"/") || len(point) < best {
			continue
		}
		best, shared, slave = len(point), false, false
		for _, tag := range fields[6:] {
			if tag == "-" {
				break
			}
			shared = shared || strings.HasPrefix(tag, "shared:")
			slave = slave || strings.HasPrefix(tag, "master:")
		}
	}
	return shared, slave, nil
}

// imageVolume mounts an image read-only for a container and returns the directory to bind. A draft finds out whether that
// will work. The kubelet tells such an error apart by its first word.
func (s *Service) imageVolume(sb *sandbox, c *container, m *cri.Mount, purpose specPurpose) (_ string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w: %w", crierrors.ErrImageVolumeMountFailed, err)
		}
	}()
	if !m.Readonly {
		return "", fmt.Errorf("the image volume at %q must be readonly: %w", m.ContainerPath, errInvalid)
	}
	if m.HostPath != "" {
		return "", fmt.Errorf("the image volume at %q can't have a host path: %w", m.ContainerPath, errInvalid)
	}
	if filepath.IsAbs(m.ImageSubPath) || strings.Contains("/"+m.ImageSubPath+"/", "/../") {
		return "", fmt.Errorf("sub path %q leaves the image: %w", m.ImageSubPath, errInvalid)
	}
	img, err := s.cfg.Images.Get(m.Image.Image)
	if err != nil {
		return "", fmt.Errorf("image %q: %w", m.Image.Image, err)
	}
	m.Image.ImageRef = img.ID
	if purpose == specDraft {
		return "/", s.checkSubPath(c, img.ID, m.ImageSubPath)
	}
	volumes := filepath.Join(s.cfg.RunDir, "ctr", c.rec.ID, "volumes")
	target := filepath.Join(volumes, fmt.Sprint(len(names(volumes))))
	if err := os.MkdirAll(target, 0o700); err != nil {
		return "", err
	}
	users, err := usersOf(sb.config)
	if err != nil {
		return "", err
	}
	if users != nil {
		err = s.cfg.Images.MountImageMapped(img.ID, target, c.rec.MountLabel, mapping(sb, users))
	} else {
		err = s.cfg.Images.MountImage(img.ID, target, c.rec.MountLabel)
	}
	if err != nil {
		return "", err
	}
	if m.ImageSubPath == "" {
		return target, nil
	}
	return resolveInRoot(target, m.ImageSubPath)
}

// checkSubPath looks for a path in an image, mounted for that alone.
func (s *Service) checkSubPath(c *container, imageID, path string) (err error) {
	if path == "" {
		return nil
	}
	target := filepath.Join(s.cfg.RunDir, "ctr", c.rec.ID, "check")
	if err := os.MkdirAll(target, 0o700); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, mounts.Detach(target), os.Remove(target))
		_ = os.Remove(filepath.Dir(target)) // unless something else is in it
	}()
	if err := s.cfg.Images.MountImage(imageID, target, ""); err != nil {
		return err
	}
	if _, err := resolveInRoot(target, path); err != nil {
		return fmt.Errorf("sub path %q in the image: %w", path, err)
	}
	return nil
}
