package runtime

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/mote-edge/mote/agent/runtime/namespace"
)

// sweep removes what bears this runtime's mark and belongs to no record: snapshots, namespaces, directories, kept
// descriptors. It runs once, before anything is served, and reports whether it found a namespace.
func (s *Service) sweep() (found bool) {
	warn := func(what, id string, err error) {
		if err != nil {
			s.log.Warn("sweep", "what", what, "id", id, "err", err)
		} else {
			s.log.Info("swept a leftover", "what", what, "id", id)
		}
	}
	snapshots, err := s.cfg.Images.Snapshots()
	if err != nil {
		s.log.Warn("list snapshots", "err", err)
	}
	for _, id := range snapshots {
		if s.containers[id] == nil {
			warn("snapshot", id, s.removeRoot(id))
		}
	}
	for _, name := range names(filepath.Join(s.cfg.RunDir, "netns")) {
		if s.sandboxes[name] == nil {
			found = true
			warn("network namespace", name, namespace.Unpin(filepath.Join(s.cfg.RunDir, "netns", name)))
		}
	}
	for _, name := range names(filepath.Join(s.cfg.RunDir, "ns")) {
		id, _, _ := strings.Cut(name, ".")
		if s.sandboxes[id] == nil {
			warn("namespace", name, namespace.Unpin(filepath.Join(s.cfg.RunDir, "ns", name)))
		}
	}
	for _, id := range names(filepath.Join(s.cfg.RunDir, "sandboxes")) {
		if s.sandboxes[id] == nil {
			warn("sandbox directory", id, s.removeSandboxDir(id))
		}
	}
	for _, id := range names(filepath.Join(s.cfg.RunDir, "ctr")) {
		if s.containers[id] == nil {
			warn("container directory", id, s.removeRunDir(id))
		}
	}
	for _, id := range names(filepath.Join(s.cfg.RunDir, "runc")) {
		if s.containers[id] == nil && s.sandboxes[strings.TrimSuffix(id, "-init")] == nil {
			s.sweepProcesses(id)
			warn("container state", id, os.RemoveAll(filepath.Join(s.cfg.RunDir, "runc", id)))
		}
	}
	if s.holder == nil {
		return found
	}
	keys, err := s.holder.Keys()
	if err != nil {
		s.log.Warn("list what mote-hold keeps", "err", err)
	}
	for _, id := range keys {
		if s.containers[id] == nil {
			s.release(id)
		}
	}
	return found
}

func names(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	out := make([]string, 0, len(entries))
	for _, entry := range entries {
		out = append(out, entry.Name())
	}
	return out
}
