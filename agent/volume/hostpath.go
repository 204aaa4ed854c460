package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
)

// mountHostPath checks a path of the host, or makes it where its type says so.
func mountHostPath(h *corev1.HostPathVolumeSource) (mounted, error) {
	out := mounted{path: h.Path}
	kind := corev1.HostPathUnset
	if h.Type != nil {
		kind = *h.Type
	}
	switch kind {
	case corev1.HostPathUnset:
		return out, nil
	case corev1.HostPathDirectoryOrCreate:
		if _, err := os.Stat(h.Path); errors.Is(err, os.ErrNotExist) {
			return out, os.MkdirAll(h.Path, 0o755)
		}
		kind = corev1.HostPathDirectory
	case corev1.HostPathFileOrCreate:
		if _, err := os.Stat(h.Path); errors.Is(err, os.ErrNotExist) {
			if err := os.MkdirAll(filepath.Dir(h.Path), 0o755); err != nil {
				return out, err
			}
			f, err := os.OpenFile(h.Path, os.O_CREATE, 0o644)
			if err != nil {
				return out, err
			}
			return out, f.Close()
		}
		kind = corev1.HostPathFile
	}
	info, err := os.Stat(h.Path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return out, err
	}
	want, ok := map[corev1.HostPathType]struct {
		words string
		is    func(os.FileMode) bool
	}{
		corev1.HostPathDirectory: {"a directory", os.FileMode.IsDir},
		corev1.HostPathFile:      {"a file", os.FileMode.IsRegular},
		corev1.HostPathSocket:    {"a socket file", func(m os.FileMode) bool { return m&os.ModeSocket != 0 }},
		corev1.HostPathCharDev:   {"a character device", func(m os.FileMode) bool { return m&os.ModeCharDevice != 0 }},
		corev1.HostPathBlockDev:  {"a block device", func(m os.FileMode) bool { return m&os.ModeDevice != 0 && m&os.ModeCharDevice == 0 }},
	}[kind]
	switch {
	case !ok:
		return out, fmt.Errorf("%q is an invalid volume type", kind)
	case err != nil || !want.is(info.Mode()):
		return out, fmt.Errorf("hostPath type check failed: %s is not %s", h.Path, want.words)
	}
	return out, nil
}
