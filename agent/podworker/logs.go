package podworker

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/mote-edge/mote/agent/cri"
	"github.com/mote-edge/mote/agent/criconfig"
)

// The bounds of termination messages, as the API defines them.
const (
	maxMessage      = 4096
	maxLogMessage   = 2048
	maxLogLines     = 80
	maxLogTailBytes = 64 << 10
)

// terminationMessage reads what a container left when it ended: its message file, or else, if its policy says so and it
// failed, the end of its log.
func terminationMessage(c *cri.Container, logDir string) string {
	if c.MessageFile != "" {
		if msg := head(c.MessageFile, maxMessage); msg != "" {
			return msg
		}
	}
	if c.TerminationPolicy != string(corev1.TerminationMessageFallbackToLogsOnError) || c.ExitCode == 0 {
		return ""
	}
	path := c.LogPath
	if path != "" && !filepath.IsAbs(path) {
		path = filepath.Join(logDir, path)
	}
	return logTail(path)
}

func head(path string, limit int64) string {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() { // the container may have put anything there: a link, a pipe
		return ""
	}
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	b, _ := io.ReadAll(io.LimitReader(f, limit))
	return string(b)
}

// logTail returns the last lines of a CRI log without what CRI puts before each.
func logTail(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(size-maxLogTailBytes, 0), io.SeekStart)
	}
	var lines []string
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, maxLogTailBytes)
	open := false // the line before was a partial one
	for sc.Scan() {
		parts := bytes.SplitN(sc.Bytes(), []byte(" "), 4) // time, stream, tags, text
		if len(parts) != 4 {
			continue
		}
		if open {
			lines[len(lines)-1] += string(parts[3])
		} else {
			lines = append(lines, string(parts[3]))
		}
		open = bytes.HasPrefix(parts[2], []byte("P"))
	}
	if len(lines) > maxLogLines {
		lines = lines[len(lines)-maxLogLines:]
	}
	if len(lines) == 0 {
		return ""
	}
	out := strings.Join(lines, "\n")
	if !open { // a last line that the container didn't end has no end here either
		out += "\n"
	}
	if len(out) > maxLogMessage {
		out = out[len(out)-maxLogMessage:]
	}
	return out
}

func (m *Manager) logDir(pod *corev1.Pod) string {
	return filepath.Join(m.cfg.PodLogDir, criconfig.LogDir(pod))
}

// podDir holds <container>.<attempt>.message and <container>.<id>.hooked, side by side: a directory a container would be two more
// inodes for each pod. A container's name has no dot.
func (m *Manager) podDir(uid types.UID) string { return filepath.Join(m.cfg.PodsDir, string(uid)) }

func (m *Manager) messageFile(uid types.UID, container string, attempt uint32) string {
	return filepath.Join(m.podDir(uid), fmt.Sprintf("%s.%d.message", container, attempt))
}

// hostsFile is in memory, but for a pod with users of its own: its mounts are id-mapped, which tmpfs knows from Linux 6.3 on.
func (m *Manager) hostsFile(pod *corev1.Pod) string {
	if ptr.Deref(pod.Spec.HostUsers, true) {
		return filepath.Join(m.cfg.HostsDir, string(pod.UID))
	}
	return filepath.Join(m.podDir(pod.UID), "etc-hosts")
}

// removePodDir takes the directory last: by it, the sweep after a restart knows of the pod.
func (m *Manager) removePodDir(uid types.UID) error {
	if err := os.Remove(filepath.Join(m.cfg.HostsDir, string(uid))); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("hosts file of the pod: %w", err)
	}
	return os.RemoveAll(m.podDir(uid))
}

// containersDir holds a link a container, beside the pod logs: log collectors look there.
func (m *Manager) containersDir() string {
	return filepath.Join(filepath.Dir(filepath.Clean(m.cfg.PodLogDir)), "containers")
}

func (m *Manager) linkLog(pod *corev1.Pod, container, id string, attempt uint32) {
	link := filepath.Join(m.containersDir(), fmt.Sprintf("%s_%s_%s-%s.log", pod.Name, pod.Namespace, container, id))
	target := filepath.Join(m.logDir(pod), criconfig.LogName(container, attempt))
	err := os.Symlink(target, link)
	if errors.Is(err, os.ErrNotExist) { // the first one
		if err = os.MkdirAll(m.containersDir(), 0o755); err == nil {
			err = os.Symlink(target, link)
		}
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		m.log.Debug("log link", "err", err)
	}
}

func (m *Manager) removeLog(pod *corev1.Pod, c *cri.Container) {
	_ = os.Remove(filepath.Join(m.containersDir(), fmt.Sprintf("%s_%s_%s-%s.log", pod.Name, pod.Namespace, c.Name, c.ID)))
	path := filepath.Join(m.logDir(pod), criconfig.LogName(c.Name, c.Attempt))
	old, _ := filepath.Glob(path + ".*") // rotated ones
	for _, f := range append(old, path, m.messageFile(pod.UID, c.Name, c.Attempt)) {
		_ = os.Remove(f)
	}
}

// removeLogDir removes a pod's log directory, and the links of a pattern that lead into it.
func (m *Manager) removeLogDir(logDir, pattern string) error {
	links, _ := filepath.Glob(filepath.Join(m.containersDir(), pattern))
	for _, l := range links {
		if target, err := os.Readlink(l); err == nil && strings.HasPrefix(target, logDir+"/") {
			_ = os.Remove(l)
		}
	}
	return os.RemoveAll(logDir)
}

// loggedPods lists the pods that have a log directory, namespace_name_uid.
func (m *Manager) loggedPods() ([]types.UID, error) {
	entries, err := os.ReadDir(m.cfg.PodLogDir)
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("directory of the pods' logs: %w", err)
	}
	var out []types.UID
	for _, e := range entries {
		if parts := strings.Split(e.Name(), "_"); len(parts) == 3 && parts[2] != "" && e.IsDir() {
			out = append(out, types.UID(parts[2]))
		}
	}
	return out, nil
}

// removeLogs removes the logs of a pod of which only the UID is known, and the links to them.
func (m *Manager) removeLogs(uid types.UID) error {
	dirs, err := filepath.Glob(filepath.Join(m.cfg.PodLogDir, "*_*_"+string(uid)))
	if err != nil {
		return fmt.Errorf("logs of pod %s: %w", uid, err)
	}
	var errs []error
	for _, dir := range dirs {
		errs = append(errs, m.removeLogDir(dir, "*.log"))
	}
	return errors.Join(errs...)
}
