package volume

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/mote-edge/mote/agent/criconfig"
)

// maxEnvFile bounds a file of environment variables.
const maxEnvFile = 1 << 20

// EmptyDirFile reads a file of one of the pod's emptyDir volumes. No link leads out of the volume, and what isn't a
// regular file isn't read. criconfig.ErrNoFile when there is none.
func (v *Volumes) EmptyDirFile(pod *corev1.Pod, volume, path string) (string, error) {
	p := v.entry(pod.UID)
	p.mu.Lock()
	defer p.mu.Unlock()
	m, ok := p.mounted[volume]
	if !ok || !isEmptyDir(pod, volume) {
		return "", fmt.Errorf("cannot find the volume %q referenced by FileKeyRef among the pod's emptyDir volumes", volume)
	}
	if filepath.IsAbs(path) || strings.Contains("/"+path+"/", "/../") {
		return "", fmt.Errorf("path %q must be relative and stay inside the volume", path)
	}
	base, err := unix.Open(m.path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &fs.PathError{Op: "open", Path: m.path, Err: err}
	}
	defer unix.Close(base)
	// The container may have put anything there. A pipe without a writer would block the open.
	fd, err := below(base, filepath.Clean(path), unix.O_RDONLY|unix.O_NONBLOCK)
	if errors.Is(err, unix.ENOENT) {
		return "", fmt.Errorf("%w %s: %s", criconfig.ErrNoFile, volume, path)
	}
	if err != nil {
		return "", outside(err, m.path, path)
	}
	f := os.NewFile(uintptr(fd), path)
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() || info.Size() > maxEnvFile {
		return "", errors.Join(err, fmt.Errorf("%s is not a regular file of at most %d bytes", path, maxEnvFile))
	}
	b, err := io.ReadAll(io.LimitReader(f, maxEnvFile))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return string(b), nil
}

func isEmptyDir(pod *corev1.Pod, volume string) bool {
	for i := range pod.Spec.Volumes {
		if pod.Spec.Volumes[i].Name == volume {
			return pod.Spec.Volumes[i].EmptyDir != nil
		}
	}
	return false
}
