package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// disk is a block device with a file system, or one that gets it at its first use.
type disk struct {
	device   string
	fsType   string   // "" means ext4
	options  []string // of mount(8)
	readOnly bool
}

// mountDisk mounts a disk on a directory, unless something is mounted there. One without any content is formatted. As
// long as others use it, it isn't checked.
func mountDisk(ctx context.Context, d disk, dir string, shared bool) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	if is, err := isMount(dir); err != nil || is {
		return err
	}
	if d.fsType == "" {
		d.fsType = "ext4"
	}
	has, err := content(ctx, d.device)
	switch {
	case err != nil:
		return err
	case has == "" && d.readOnly:
		return fmt.Errorf("cannot mount unformatted disk %s as we are manipulating it in read-only mode", d.device)
	case has == "":
		if _, err := command(ctx, "mkfs."+d.fsType, append(mkfsOptions(d.fsType), d.device)...); err != nil {
			return fmt.Errorf("failed to format disk %s as %s: %w", d.device, d.fsType, err)
		}
	case !shared && !d.readOnly:
		// 4: errors were left uncorrected (fsck(8)). Anything else is no reason not to try.
		if code, err := command(ctx, "fsck", "-a", d.device); code == 4 {
			return fmt.Errorf("'fsck' found errors on device %s but could not correct them: %w", d.device, err)
		}
	}
	options := slices.Clone(d.options)
	if d.readOnly {
		options = append(options, "ro")
	}
	if _, err := command(ctx, "mount", "-t", d.fsType, "-o", strings.Join(append(options, "defaults"), ","), d.device, dir); err != nil {
		if has != "" && has != d.fsType {
			return fmt.Errorf("failed to mount the volume as %q, it already contains %s: %w", d.fsType, has, err)
		}
		return fmt.Errorf("mount %s on %s: %w", d.device, dir, err)
	}
	return nil
}

func mkfsOptions(fsType string) []string {
	switch fsType {
	case "ext3", "ext4":
		return []string{"-F", "-m0"} // not asked whether it is meant; nothing kept back for root
	case "xfs":
		return []string{"-f"}
	}
	return nil
}

// content is the file system on a device, "" if there is nothing at all. Partitions are refused: formatting would end them.
func content(ctx context.Context, device string) (string, error) {
	cmd := exec.CommandContext(ctx, "blkid", "-p", "-s", "TYPE", "-s", "PTTYPE", "-o", "export", device)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 2 { // nothing found (blkid(8))
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("blkid %s: %w", device, err)
	}
	return contentOf(device, string(out))
}

// contentOf reads what blkid printed.
func contentOf(device, out string) (string, error) {
	fsType, partitions := "", ""
	for line := range strings.Lines(out) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch name {
		case "TYPE":
			fsType = value
		case "PTTYPE":
			partitions = value
		}
	}
	if partitions != "" && fsType == "" {
		return "", fmt.Errorf("disk %s has a %s partition table: give one of its partitions, or clear it", device, partitions)
	}
	return fsType, nil
}

func command(ctx context.Context, name string, args ...string) (code int, err error) {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err == nil {
		return 0, nil
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	}
	return code, fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out)))
}

// ContainerDevices returns the block devices of one container's volumeDevices.
func (v *Volumes) ContainerDevices(pod *corev1.Pod, c *corev1.Container) ([]*runtimeapi.Device, error) {
	if len(c.VolumeDevices) == 0 {
		return nil, nil
	}
	p := v.entry(pod.UID)
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]*runtimeapi.Device, 0, len(c.VolumeDevices))
	for _, vd := range c.VolumeDevices {
		m, ok := p.mounted[vd.Name]
		switch {
		case !ok:
			return nil, fmt.Errorf("block device cannot be satisfied for container %q, because the volume is missing: volume device %s", c.Name, vd.Name)
		case m.device == "":
			return nil, fmt.Errorf("volume %s has volumeMode Filesystem, but is specified in volumeDevices", vd.Name)
		}
		access := "mrw"
		if m.readOnly {
			access = "mr"
		}
		out = append(out, &runtimeapi.Device{HostPath: m.device, ContainerPath: vd.DevicePath, Permissions: access})
	}
	return out, nil
}
